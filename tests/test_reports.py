"""The pages say what they were given, in the order and the wording that a reader needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered import Page

from tasks.artifacts import Comparison, Interval, Scores, Verdict
from tasks.ledger import FileAccount, Ledger, Overlap
from tasks.reports.data import Row, Tokens, data_card, look
from tasks.reports.evaluation import Answer, score_table, side_by_side
from tasks.reports.pictures import Point
from tasks.reports.training import training_page
from tasks.reports.wording import clipped, difference, duration, fitting, interval, percent, rate
from tasks.trainer.job import Full, Lora, TrainSpec

unhurried = settings(deadline=None)  # a busy machine is no failure
PROMPT = "类型#裙*版型#宽松*颜色#雾蓝色*图案#碎花*裙长#长裙"
COPY = "雾蓝色的底布上散着细小的碎花，像清晨刚落过雨的院子，<UNK>的裙摆随着脚步轻轻晃动。"
NAN = Interval(mean=math.nan, low=math.nan, high=math.nan)


def around(mean: float, half: float = 0.5) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def scores(bleu: float, protocol: str = "chatglm2-v1", **extras: float) -> Scores:
    return Scores.model_construct(
        protocol=protocol,
        rows=200,
        empty=3,
        metrics={"rouge_1": around(31.25), "bleu_4": around(bleu)},
        extras=extras,
    )


def verdict(*comparisons: Comparison) -> Verdict:
    reasons = ("beats base | retrieval on *bleu_4*", "<UNK> is no reason")
    return Verdict.model_construct(outcome="pass", reasons=reasons, comparisons=comparisons)


def column(page: Page, number: int, name: str) -> list[str]:
    table = page.tables[number]
    place = table[0].index(name)
    return [row[place] for row in table[1:]]


def ledger(splits: dict[str, list[Row]], **changed: object) -> Ledger:
    kept = {split: len(splits.get(split, [])) for split in ("train", "dev")}
    found = Overlap(
        run_characters=13,
        dev_looked_at=kept["dev"],
        dev_with_shared_run=1 if kept["dev"] else 0,
        dev_with_trained_prompt=0,
        dev_known=1 if kept["dev"] else 0,
        near_looked_at=sum(kept.values()),
        near_pairs=1,
        near_rows=2,
        near_complete=True,
        shared_runs=["很软的棉，穿起来一点也不闷"],
    )
    files = [
        FileAccount(
            file=f"{split}.json",
            split=split,
            container="JSON",
            encoding="utf-8",
            format="advertisegen",
            rows=rows + 3,
            kept=rows,
            duplicates=2,
            rejected=1,
        )
        for split, rows in kept.items()
    ]
    facts: dict[str, object] = {
        "files": files,
        "kept": kept,
        "beyond_limit": 0,
        "repeated_prompts": {"train": 1, "dev": 0},
        "reasons": {"not-json": 2},
        "split_by": "file names",
        "template": "",
        "left_out": [],
        "overlap": found,
    }
    return Ledger.model_validate(facts | changed)


def card(
    splits: dict[str, list[Row]], tokens: list[Tokens] | None = None, **changed: object
) -> Page:
    looked = {split: look(rows) for split, rows in splits.items()}
    return Page(data_card(ledger(splits, **changed), looked, tokens or []))


TRAIN = [Row(PROMPT, COPY), Row(PROMPT, "短文案"), Row("类型#裤", COPY), Row("类型#上衣", "BRAND")]
DEV = [Row("类型#裤", "y"), Row("类型#鞋", "z")]


def test_the_data_card_says_where_every_row_went() -> None:
    page = card({"train": TRAIN, "dev": DEV})
    told = "6 of 12 rows kept (4 train, 2 dev), format advertisegen. Train and dev were told apart"
    assert page.texts["p"][0].startswith(told)
    assert page.tables[0][1:] == [
        ["train.json", "train", "advertisegen", "JSON, utf-8", "7", "4", "2", "1"],
        ["dev.json", "dev", "advertisegen", "JSON, utf-8", "5", "2", "2", "1"],
        ["all", "", "", "", "12", "6", "4", "2"],
    ]
    assert page.tables[1][1] == ["not-json", "2", "16.7%"]
    assert [row[1] for row in page.tables[2][1:]] == [
        "0\u00a0(0.0%)",
        "1\u00a0(50.0%)",
        "2\u00a0(33.3%)",
    ]


def test_the_data_card_counts_placeholders_and_repetitions() -> None:
    page = card({"train": TRAIN, "dev": DEV})
    assert page.tables[3] == [
        ["split", "rows", "answers with <UNK>", "answers with BRAND", "repeated prompts"],
        ["train", "4", "2\u00a0(50.0%)", "1\u00a0(25.0%)", "1"],
        ["dev", "2", "0\u00a0(0.0%)", "0\u00a0(0.0%)", "0"],
    ]
    assert len(page.pictures) == 2


def test_the_data_card_names_what_else_a_person_should_know() -> None:
    said = {
        "left_out": ["a|b_test.json"],
        "template": "### Q:\n{prompt}",
        "reasons": {"not-json": 2},
    }
    told = card({"train": TRAIN, "dev": DEV}, **said).texts["p"][0]
    assert "Not read: a|b_test.json." in told
    assert "Around each prompt stands: ### Q:↵{prompt}" in told


def test_a_data_card_of_a_thousand_shards_is_still_read() -> None:
    shards = [
        FileAccount(
            file=f"{n}.json", split="train", container="JSON", encoding="utf-8", format="pairs"
        )
        for n in range(1000)
    ]
    page = card({}, files=shards, reasons={})
    assert len(page.tables[0]) == 53
    assert page.tables[0][51][0] == "and 950 more"


@unhurried
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_length_percentiles_are_those_of_numpy(sizes: list[int]) -> None:
    page = card({"train": [Row("字" * size, "") for size in sizes]})
    expected = [np.quantile(sizes, q, method="inverted_cdf") for q in (0.5, 0.95, 0.99, 1)]
    assert page.tables[4][1] == ["train prompts", *(str(int(value)) for value in expected)]


def test_ten_rows_are_drawn_from_all_of_a_split_and_shown_as_they_are() -> None:
    rows = [Row(f"{PROMPT}*编号#{index}", f"{index}. {COPY}") for index in range(400)]
    drawn = look(rows).sample
    assert look(rows).sample == drawn
    assert len(set(drawn)) == 10
    assert max(rows.index(row) for row in drawn) > 200
    items = " ".join(card({"train": rows}).texts["li"])
    assert all(row.prompt in items and row.answer in items for row in drawn)


def test_the_data_card_tells_what_the_model_does_not_see() -> None:
    marks = {"p50": 90.0, "p95": 200.0, "p99": 300.0, "max": 400.0}
    answers = Tokens("train answers", 1000, marks, 256, 120, (0, 200, 400), (880, 120))
    page = card({"train": TRAIN}, [answers])
    assert page.tables[5][1] == [
        "train answers", "90", "200", "300", "400", "256", "120\u00a0(12.0%)"
    ]  # fmt: skip
    assert len(page.pictures) == 3


@pytest.mark.parametrize("splits", [{}, {"train": []}, {"train": [Row("", "")], "dev": []}])
def test_a_data_card_of_nearly_nothing_is_a_page(splits: dict[str, list[Row]]) -> None:
    assert card(splits).tables[0][0][0] == "file"


def test_the_score_page_begins_with_the_verdict_and_keeps_the_order_of_systems() -> None:
    given = {"tuned": scores(8.04), "base": scores(1.1), "retrieval": scores(5.4)}
    page = Page(
        score_table(
            given, verdict(Comparison(rival="base", metric="bleu_4", difference=around(6.94)))
        )
    )
    assert page.texts["p"][0] == "Verdict: pass"
    assert page.texts["li"] == ["beats base | retrieval on *bleu_4*", "<UNK> is no reason"]
    assert page.tables[0][0] == ["system", "rows", "ROUGE-1", "BLEU-4"]
    assert column(page, 0, "system") == ["tuned", "base", "retrieval"]
    assert column(page, 0, "BLEU-4") == ["8.0 (7.5–8.5)", "1.1 (0.6–1.6)", "5.4 (4.9–5.9)"]
    assert column(page, 0, "rows") == ["200", "200", "200"]
    assert page.tables[1][1] == ["base", "BLEU-4", "+6.9 (+6.4 to +7.4)", "better"]
    assert "Protocol: chatglm2-v1." in page.texts["p"][1]
    assert "8.0 (7.5–8.5)" in page.texts["strong"]
    assert "1.1 (0.6–1.6)" not in page.texts["strong"]


def test_measures_beside_the_protocol_are_explained() -> None:
    given = {
        "tuned": scores(8, attribute_coverage=0.812, length_ratio=0.934, width_mismatch=1.0),
        "template": scores(4, attribute_coverage=1.0, distinct_4=0.101, invented=0.5),
    }
    page = Page(score_table(given))
    assert page.tables[1] == [
        [
            "system",
            "attribute coverage",
            "length ratio",
            "width mismatch",
            "distinct-4",
            "invented",
            "empty",
        ],
        ["tuned", "81.2%", "0.93", "yes", "–", "–", "3\u00a0(1.5%)"],
        ["template", "100.0%", "–", "–", "10.1%", "50.0%", "3\u00a0(1.5%)"],
    ]
    legend = page.texts["p"][-1]
    assert all(f"{name}:" in legend for name in ("attribute coverage", "distinct-4", "empty"))


def test_scores_of_two_protocols_are_called_not_comparable() -> None:
    text = score_table({"tuned": scores(8), "champion": scores(7, protocol="other-v2")})
    assert "Not comparable" in text
    assert "Not comparable" not in score_table({"tuned": scores(8), "champion": scores(7)})


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.1, 0.5, "better"), (-0.5, -0.1, "worse"), (-0.1, 0.1, "no clear difference")],
)
def test_a_difference_reads_by_its_interval(low: float, high: float, words: str) -> None:
    one = Comparison(rival="r", metric="rouge_l", difference=Interval(mean=0, low=low, high=high))
    assert Page(score_table({"tuned": scores(8)}, verdict(one))).tables[1][1][-1] == words


def test_scores_that_are_missing_or_not_finite_do_not_break_the_page() -> None:
    broken = Scores.model_construct(
        protocol="p", rows=0, empty=0, metrics={"bleu_4": NAN}, extras={"cut": math.inf}
    )
    page = Page(score_table({"tuned": broken, "base": scores(1)}))
    assert column(page, 0, "BLEU-4") == ["n/a", "1.0 (0.5–1.5)"]
    assert column(page, 0, "ROUGE-1") == ["–", "31.2 (30.8–31.8)"]
    assert column(page, 1, "cut") == ["n/a", "–"]
    assert Page(score_table({})).tables[0] == [["system", "rows"]]


def answered(count: int) -> list[Answer]:
    return [
        Answer(f"{PROMPT}*编号#{i}", COPY, f"答{i}", f"原{i}", {"bleu_4": float((i * 37) % count)})
        for i in range(count)
    ]


def test_worst_best_and_drawn_rows_stand_apart_and_once() -> None:
    rows = answered(100)
    page = Page(side_by_side(rows))
    assert page.texts["h2"] == ["Worst 10", "Best 5", "Drawn at random 10"]
    heads = [text for text in page.texts["strong"] if text.startswith("Row ")]
    shown = [rows[int(head.removeprefix("Row ")) - 1].scores["bleu_4"] for head in heads]
    assert shown[:10] == [float(value) for value in range(10)]
    assert shown[10:15] == [99.0, 98.0, 97.0, 96.0, 95.0]
    assert len(set(heads)) == 25
    assert all(9 < value < 95 for value in shown[15:])
    assert side_by_side(rows) == side_by_side(rows) != side_by_side(rows, seed=3)


def test_a_row_shows_both_answers_its_scores_and_what_was_left_out() -> None:
    row = Answer(PROMPT, COPY, " ", "# 原", {"rouge_2": 7.44, "bleu_4": math.nan}, ("颜色#雾蓝色",))
    page = Page(side_by_side([row]))
    assert page.texts["li"] == [
        f"prompt: {PROMPT}",
        f"reference: {COPY}",
        "base: # 原",
        "tuned: nothing",
        "left out: 颜色#雾蓝色",
    ]
    assert "颜色#雾蓝色" in page.texts["strong"]
    assert "Row 1 ROUGE-2 7.4, BLEU-4 n/a" in page.texts["p"]


def test_without_a_base_answer_its_line_is_left_out() -> None:
    page = Page(side_by_side([Answer(PROMPT, COPY, COPY)]))
    assert not any(item.startswith("base") for item in page.texts["li"])
    assert Page(side_by_side([])).texts["p"] == ["0 answers, ordered by BLEU-4 of the tuned model."]


def falling(count: int, dev: dict[int, float] | None = None) -> list[Point]:
    return [Point(i, 5 - 3 * i / count, (dev or {}).get(i)) for i in range(1, count + 1)]


def test_the_training_page_sums_up_and_marks_what_is_not_the_default() -> None:
    spec = TrainSpec(method=Lora(rank=4), learning_rate=1e-4)
    page = Page(training_page(falling(100, {50: 3.2, 100: 2.5}), spec, {"pace": "41 rows/s"}))
    assert page.texts["strong"][0] == (
        "100 steps: loss 4.97 → 2.00, dev loss 2.50 (lowest 2.50 at step 100)"
    )
    assert page.texts["strong"][1:] == ["4", "0.0001"]
    assert ["method.rank", "4"] in page.tables[1]
    assert ["max_prompt_tokens", "128"] in page.tables[1]
    assert page.tables[0][1] == ["pace", "41 rows/s"]
    assert "li" not in page.texts


@pytest.mark.parametrize(
    ("points", "remark"),
    [
        (falling(40, {10: 3.0, 40: 3.4}), "rose after step 10"),
        (
            [*falling(40), Point(41, math.nan)],
            "Not finite: 1 of 41 measured losses, first at step 41",
        ),
        ([Point(i, 2.0) for i in range(20)], "did not fall"),
        ([*falling(40), Point(41, 0.0)], "exactly 0"),
    ],
)
def test_the_training_page_remarks_on_trouble(points: list[Point], remark: str) -> None:
    page = Page(training_page(points, TrainSpec(method=Full())))
    assert [item for item in page.texts["li"] if remark in item]


def test_a_training_page_without_measurements_says_so() -> None:
    assert Page(training_page([], TrainSpec())).texts["strong"][0] == "No loss was recorded."
    one = Page(training_page([Point(1, math.inf)], TrainSpec())).texts["strong"][0]
    assert one == "1 step: loss n/a → n/a. No dev loss was measured."


def test_numbers_read_in_the_unit_that_matters() -> None:
    assert [duration(s) for s in (0.04, 9.94, 9.96, 59.6, 61, 7384, math.nan)] == [
        "0.0 s", "9.9 s", "10 s", "1 min 00 s", "1 min 01 s", "2 h 03 min", "n/a",
    ]  # fmt: skip
    assert [rate(r, "rows") for r in (0.5, 12.34, 1234.5, 0)] == [
        "30.0 rows/min", "12.3 rows/s", "1,234 rows/s", "n/a",
    ]  # fmt: skip
    assert interval(Interval(mean=24.14, low=22.9, high=25.31)) == "24.1 (22.9–25.3)"
    assert difference(Interval(mean=-0.3, low=-1, high=0.4)) == "-0.3 (-1.0 to +0.4)"
    assert (percent(0.312), percent(math.inf)) == ("31.2%", "n/a")
    assert (clipped("一二三四", 4), clipped("一二三四五", 3)) == (
        "一二三四",
        "一二三… (+2 characters)",
    )


def test_an_encoding_gets_what_it_can_hold() -> None:
    assert fitting("24.1 (22.9–25.3) → 裙", "ascii") == "24.1 (22.9-25.3) -> ?"
    assert fitting("24.1 (22.9–25.3) → 裙", "gbk") == "24.1 (22.9–25.3) → 裙"
