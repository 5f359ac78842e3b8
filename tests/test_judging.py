"""The judge: each rule by hand, and how often its verdicts are wrong, by simulation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tasks import judging
from tasks.judging import Finding, Rules, Scored

RULES = Rules(
    beats=("base", "retrieval"),
    metrics=("rouge_2", "bleu_4"),
    floors={},
    champion_margin=0.5,
    slice_margin=5.0,
    min_rows=50,
    max_empty=0.02,
    confidence=0.95,
    resamples=300,
    seed=17,
)
STREAMS = 150
SPREAD = 6.5
"""Standard deviation of a row's ROUGE-2 and BLEU-4 on AdvertiseGen; pairing leaves about this of a difference."""


@pytest.fixture(autouse=True)
def few_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    # p-values good to two digits, in a tenth of the time
    monkeypatch.setattr(judging, "_FLIPS", 600)
    monkeypatch.setattr(judging, "_FLIPS_OF_A_SLICE", 600)


def judged(
    scored: dict[str, Scored],
    rules: Rules = RULES,
    empty: int = 0,
    slices: dict[str, list[int]] | None = None,
) -> tuple[str, list[Finding]]:
    whole = judging.differences(scored, rules)
    parts = judging.by_slice(scored, slices or {}, rules)
    return judging.decide(scored["tuned"], empty, whole, parts, rules)


def systems(seed: int, rows: int, **better: float) -> dict[str, Scored]:
    """Return scores in which the new model is better than each rival by so many points, on both metrics."""
    draw = np.random.default_rng(seed)
    hard = {metric: draw.normal(20.0, 7.0, rows) for metric in RULES.metrics}
    found: dict[str, Scored] = {"tuned": hard}
    for rival, points in better.items():
        found[rival] = {
            metric: values - points + draw.normal(0, SPREAD, rows)
            for metric, values in hard.items()
        }
    return found


def rate(rows: int, rules: Rules = RULES, **better: float) -> Counter[str]:
    """Return how often each verdict comes, per hundred."""
    outcomes = Counter(judged(systems(s, rows, **better), rules)[0] for s in range(STREAMS))
    return Counter({name: 100 * count / STREAMS for name, count in outcomes.items()})


def test_a_model_that_is_no_better_passes_seldom() -> None:
    # both metrics of one rival must be shown: 2.5 % for each alone, less for both
    assert rate(240, replace(RULES, beats=("base",)), base=0.0)["pass"] <= 3


def test_a_model_that_is_clearly_better_passes_and_never_fails() -> None:
    found = rate(240, base=3.0, retrieval=2.0)
    assert found["pass"] >= 95
    assert found["fail"] == 0


def test_a_model_that_is_clearly_worse_than_one_rival_fails_however_much_it_beats_the_other() -> (
    None
):
    found = rate(240, base=10.0, retrieval=-3.0)
    assert found["fail"] >= 95
    assert found["pass"] == 0


def test_no_better_than_eight_rivals_is_not_taken_for_worse() -> None:
    rivals = tuple(f"r{number}" for number in range(8))
    rules = replace(RULES, beats=rivals)
    found = rate(120, rules, **dict.fromkeys(rivals, 0.0))
    # sixteen comparisons at 2.5 % each would fail a third of the runs without the correction
    assert found["fail"] <= 5


def test_few_rows_leave_a_small_difference_open() -> None:
    found = rate(60, base=0.8, retrieval=0.8)
    assert found["inconclusive"] >= 80


def test_an_equal_model_is_no_worse_than_the_champion_when_the_margin_is_wide_enough() -> None:
    rules = replace(RULES, beats=(), champion_margin=2.0)
    assert rate(240, rules, champion=0.0)["pass"] >= 95
    # exactly as much worse as the margin allows: passing is the error, at 2.5 % for a metric
    assert rate(240, rules, champion=-2.0)["pass"] <= 4


def test_slices_of_an_even_model_raise_no_alarm() -> None:
    members = {f"attribute: {number}": list(range(number, 240, 8)) for number in range(8)}
    wrong = 0
    for seed in range(STREAMS):
        scored = systems(seed, 240, base=0.0)
        outcome, _ = judged(scored, replace(RULES, beats=(), slice_margin=0.0), slices=members)
        wrong += outcome == "fail"
    assert wrong / STREAMS <= 0.05


def test_a_slice_on_which_the_model_collapses_fails_it_whatever_the_mean() -> None:
    scored = systems(1, 400, base=6.0, retrieval=6.0)
    lost = list(range(40))
    for metric in RULES.metrics:
        scored["tuned"][metric][lost] -= 25.0  # type: ignore[index]
    outcome, findings = judged(
        scored, slices={"attribute: 颜色": lost, "rest": list(range(40, 400))}
    )
    assert outcome == "fail"
    assert [one.rule for one in findings if one.state == "broken"] == ["slice", "slice"]
    assert findings[0].told.startswith("on attribute: 颜色, falls behind base on ROUGE-2: -")
    assert judged(scored, replace(RULES, slice_margin=-1.0), slices={"a": lost})[0] == "pass"


def test_slices_are_measured_against_the_champion_where_there_is_one() -> None:
    scored = systems(2, 200, base=9.0, champion=0.0)
    parts = judging.by_slice(scored, {"a": list(range(100))}, RULES)
    assert {one.rival for one in parts} == {"champion"}
    assert {one.rows for one in parts} == {100}


@pytest.mark.parametrize(
    ("floor", "outcome"), [(10.0, "pass"), (30.0, "fail"), (20.0, "inconclusive")]
)
def test_a_floor_must_lie_below_the_whole_interval(floor: float, outcome: str) -> None:
    scored = systems(3, 240)
    rules = replace(RULES, beats=(), floors={"rouge_2": floor})
    found, findings = judged(scored, rules)
    assert found == outcome
    assert any(one.rule == "floor" and f"{floor:g}" in one.told for one in findings)


def test_empty_answers_and_few_rows_have_rules_of_their_own() -> None:
    good = systems(4, 60, base=9.0, retrieval=9.0)
    assert judged(good, empty=1)[0] == "pass"
    outcome, findings = judged(good, empty=2)
    assert (outcome, findings[0].told) == ("fail", "2 of 60 answers are empty")
    outcome, findings = judged(systems(4, 40, base=9.0, retrieval=9.0))
    assert (outcome, findings[0].told) == ("inconclusive", "40 rows were answered, 50 are needed")


def test_what_is_open_says_what_would_decide_it() -> None:
    scored = systems(7, 60, base=0.7, retrieval=20.0)
    outcome, findings = judged(scored)
    assert outcome == "inconclusive"
    told = next(one.told for one in findings if one.rule == "beats" and one.state == "open")
    assert told.startswith("is not surely better than base on ")
    least = float(told.split("differences of ")[1].split(" and more")[0])
    # 1.96 + 0.84 standard errors of the paired difference
    assert least == pytest.approx(2.8 * SPREAD / 60**0.5, rel=0.15)


def test_the_rows_that_would_decide_are_about_enough() -> None:
    rules = replace(RULES, beats=("base",))
    shown = Counter(judged(systems(s, 340, base=1.0), rules)[0] for s in range(STREAMS))
    # one metric is shown in four of five such runs, both in about two of three
    assert shown["pass"] / STREAMS > 0.5


def test_a_model_equal_in_every_row_does_not_beat_its_base() -> None:
    scored = systems(5, 100)
    scored["base"] = scored["tuned"]
    outcome, findings = judged(scored, replace(RULES, beats=("base",)))
    assert outcome == "fail"
    assert findings[0].told.startswith("does not beat base on ROUGE-2: +0.0 (+0.0 to +0.0)")


def test_rivals_that_no_rule_names_are_measured_and_decide_nothing() -> None:
    scored = systems(6, 100, base=9.0, random=-9.0)
    rules = replace(RULES, beats=("base",))
    assert {one.rival for one in judging.differences(scored, rules)} == {"base", "random"}
    assert judged(scored, rules)[0] == "pass"
