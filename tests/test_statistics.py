"""Intervals, tests and numbers of rows against simulation, enumeration and theory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import ConfigError, DataError
from tasks.metrics import statistics
from tasks.metrics.statistics import (
    Floats,
    detectable,
    holm,
    interval,
    paired_difference,
    rows_needed,
    sign_flip,
)

STREAMS = 800

DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator], Floats], float]] = {
    "scores": (lambda generator: generator.normal(22.0, 7.0, 150), 22.0),
    "skewed scores": (lambda generator: generator.gamma(2.0, 2.0, 150), 4.0),
    "hits": (lambda generator: generator.binomial(1, 0.3, 150).astype(float), 0.3),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_an_interval_holds_the_truth_as_often_as_it_says(name: str, confidence: float) -> None:
    draw, truth = DISTRIBUTIONS[name]
    held = 0
    for stream in range(STREAMS):
        _, low, high = interval(draw(np.random.default_rng(stream)), confidence, 400, seed=stream)
        held += low <= truth <= high
    # 3 standard errors of the simulation, and the little by which percentile intervals are narrow
    tolerance = 3 * (confidence * (1 - confidence) / STREAMS) ** 0.5
    assert -tolerance - 0.015 < held / STREAMS - confidence < tolerance


def test_equal_systems_differ_in_about_5_of_100_comparisons() -> None:
    found = 0
    for stream in range(STREAMS):
        generator = np.random.default_rng(stream)
        difficulty = generator.normal(22.0, 7.0, 150)
        one, other = (difficulty + generator.normal(0, 3.0, 150) for _ in range(2))
        _, low, high = paired_difference(one, other, 0.95, 400, seed=stream)
        found += not low <= 0 <= high
    assert 0.025 < found / STREAMS < 0.085


def test_pairing_finds_a_difference_that_the_single_intervals_hide() -> None:
    generator = np.random.default_rng(1)
    difficulty = generator.normal(22.0, 7.0, 300)
    old = difficulty + generator.normal(0, 1.0, 300)
    new = difficulty + 0.5 + generator.normal(0, 1.0, 300)
    assert interval(new)[1] < interval(old)[2]
    mean, low, high = paired_difference(new, old)
    assert mean == pytest.approx(float(new.mean() - old.mean()))
    assert 0 < low < mean < high


def test_the_width_is_that_of_the_normal_approximation_for_many_rows() -> None:
    values = np.random.default_rng(3).normal(20.0, 6.0, 5000)
    mean, low, high = interval(values, 0.95, 4000)
    expected = 1.96 * values.std() / len(values) ** 0.5
    assert mean == values.mean()
    assert mean - low == pytest.approx(expected, rel=0.06)
    assert high - mean == pytest.approx(expected, rel=0.06)


def test_the_interval_is_that_of_multinomial_weights() -> None:
    values = np.random.default_rng(4).gamma(1.0, 5.0, 40)
    weights = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), 40_000)
    expected = np.quantile(weights @ values / 40, [0.025, 0.975])
    assert interval(values, 0.95, 40_000)[1:] == pytest.approx(tuple(expected), rel=0.01)


def test_a_seed_decides_the_interval_and_only_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0]
    first = interval(values, seed=1)
    assert interval(list(values), seed=1) == first
    assert interval(values, seed=2) != first
    monkeypatch.setattr(statistics, "_DRAWS", 7)  # one resample at a time
    assert interval(values, seed=1) == first


def test_more_confidence_is_a_wider_interval() -> None:
    values = np.random.default_rng(6).normal(0, 1, 100)
    (_, low, high), (_, lower, higher) = interval(values, 0.8), interval(values, 0.99)
    assert lower < low < high < higher


def test_rows_without_spread_leave_no_doubt() -> None:
    assert interval([3.0] * 20) == (3.0, 3.0, 3.0)
    assert paired_difference([5.5], [4.0]) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "found shape \\(0,\\)"),
        (np.ones((2, 2)), "found shape \\(2, 2\\)"),
        ([1.0, float("nan")], "found nan in row 1"),
        ([float("inf"), 1.0], "found inf in row 0"),
    ],
)
def test_scores_that_are_no_list_of_numbers_are_refused(values: Floats, message: str) -> None:
    with pytest.raises(DataError, match=message):
        interval(values)
    with pytest.raises(DataError, match=message):
        paired_difference([1.0], values)


def test_systems_that_answered_different_rows_are_not_compared() -> None:
    with pytest.raises(DataError, match=r"found 2 and 3 values"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_in_percent_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"must be above 0 and below 1"):
        interval([1.0, 2.0], confidence)


def test_an_interval_needs_resamples() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        interval([1.0, 2.0], resamples=0)


def test_intervals_do_not_change_from_version_to_version() -> None:
    found = interval([n**1.5 for n in range(40)])
    assert found == (98.04973462201505, 74.66086639444912, 121.02825709912311)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9), st.integers(0, 2))
@settings(max_examples=80, deadline=None)
def test_few_rows_are_tested_by_all_their_signs(differences: list[int], margin: int) -> None:
    moved = [each + margin for each in differences]
    sums = [
        abs(sum(sign * each for sign, each in zip(signs, moved, strict=True)))
        for signs in product((1, -1), repeat=len(moved))
    ]
    expected = sum(one >= abs(sum(moved)) for one in sums) / len(sums)
    # tenths, so that equal sums differ by rounding
    values = [each / 10 for each in differences]
    assert sign_flip(values, [0.0] * len(values), margin / 10) == expected


def test_sign_flips_give_the_known_p_values() -> None:
    assert sign_flip([1.0, 2.0, 3.0], [0.0] * 3) == 2 / 8  # only all or none
    assert sign_flip([3.0, 2.0, 0.0], [1.0, 3.0, 0.0]) == 1.0  # +2 -1: every pattern reaches 1
    assert sign_flip([5.0] * 4, [5.0] * 4) == 1.0  # no row differs
    assert sign_flip([5.0] * 4, [5.0] * 4, margin=0.5) == 2 / 16


def test_drawn_flips_agree_with_all_flips() -> None:
    values = np.random.default_rng(8).normal(0.5, 1.0, 13)
    exact = sign_flip(values, np.zeros(13))
    drawn = sign_flip(values, np.zeros(13), flips=8000)
    assert 0.01 < exact < 0.5
    assert drawn == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 8000) ** 0.5)


def test_a_seed_decides_the_p_value_whatever_is_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(9).normal(0.2, 1.0, 60)
    first = sign_flip(values, np.zeros(60), flips=501, seed=3)
    assert sign_flip(values, np.zeros(60), flips=501, seed=4) != first
    monkeypatch.setattr(statistics, "_DRAWS", 61)  # one pattern at a time
    assert sign_flip(values, np.zeros(60), flips=501, seed=3) == first
    assert sign_flip(values[:5], np.zeros(5)) == sign_flip(values[:5], np.zeros(5), seed=99)


def test_a_p_value_is_never_0_and_small_where_all_rows_agree() -> None:
    assert sign_flip(np.arange(1.0, 41.0), np.zeros(40), flips=999) == 1 / 1000


@pytest.mark.parametrize("rows", [8, 150])
def test_equal_systems_are_told_apart_in_5_of_100_tests_at_most(rows: int) -> None:
    found = 0
    for stream in range(STREAMS):
        generator = np.random.default_rng(stream)
        one, other = generator.normal(22.0, 7.0, (2, rows))
        found += sign_flip(one, other, flips=400, seed=stream) <= 0.05
    assert 0.025 < found / STREAMS < 0.075


def test_a_margin_decides_what_is_no_worse() -> None:
    old = np.random.default_rng(10).normal(22.0, 7.0, 200)
    new = old - 0.1 + np.random.default_rng(11).normal(0, 1.0, 200)
    assert sign_flip(new, old) > 0.05
    assert sign_flip(new, old, margin=0.5) < 0.01


def test_holm_gives_the_known_values_in_the_order_of_the_hypotheses() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.02]) == pytest.approx([0.6, 0.04])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float], level: float) -> None:
    stepped = set[int]()
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - place) * p_values[index] > level:
            break
        stepped.add(index)
    assert {index for index, value in enumerate(holm(p_values)) if value <= level} == stepped


def test_corrected_values_reject_a_true_hypothesis_in_5_of_100_families_at_most() -> None:
    generator = np.random.default_rng(12)
    families = generator.random((2000, 6))
    plain = (families.min(axis=1) <= 0.05).mean()
    corrected = np.mean([min(holm(family.tolist())) <= 0.05 for family in families])
    assert plain > 0.2
    assert 0.03 < corrected < 0.065


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_what_is_detectable_is_found_as_often_as_promised(power: float) -> None:
    before = np.random.default_rng(13).normal(0.0, 3.0, 4000)
    difference = detectable(before, 120, 0.95, power)
    found = 0
    for stream in range(STREAMS):
        rows = np.random.default_rng(stream).normal(difference, 3.0, 120)
        found += interval(rows, 0.95, 300, seed=stream)[1] > 0
    assert found / STREAMS == pytest.approx(power, abs=0.05)


def test_rows_needed_reverses_detectable() -> None:
    values = np.random.default_rng(14).normal(1.0, 6.0, 300)
    # (1.96 + 0.84) standard errors
    assert detectable(values, 1070) == pytest.approx(2.8016 * values.std(ddof=1) / 1070**0.5, 1e-4)
    difference = detectable(values, 500)
    assert rows_needed(values, difference * 1.0001) == 500
    assert rows_needed(values, difference / 2) == pytest.approx(2000, abs=1)
    assert rows_needed([1.0, 1.0], 0.1) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip([1.0], [1.0, 2.0]), r"sign_flip: both systems .*found 1 and 2"),
        (lambda: sign_flip([], []), r"found shape \(0,\)"),
        (lambda: holm([0.1, 1.5]), r"from 0 to 1 \(found 1\.5\)"),
        (lambda: holm([float("nan")]), r"found nan"),
        (lambda: detectable([1.0], 10), "needs two values"),
    ],
)
def test_numbers_that_cannot_be_tested_are_refused(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip([1.0], [2.0], flips=0), "flips: must be at least 1"),
        (lambda: detectable([1.0, 2.0], 0), r"metrics\.n: must be at least 1"),
        (lambda: detectable([1.0, 2.0], 9, confidence=95.0), "confidence: must be above 0"),
        (lambda: detectable([1.0, 2.0], 9, power=1.0), r"power: .* Take 0\.8"),
        (lambda: rows_needed([1.0, 2.0], 0.0), r"difference: must be above 0 \(found 0\.0\)"),
    ],
)
def test_choices_that_cannot_be_tested_with_are_refused(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
