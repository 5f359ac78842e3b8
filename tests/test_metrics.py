"""What is measured beside the protocol, against values computed by hand."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DataError
from tasks.metrics import fluency
from tasks.metrics.attributes import attributes, describes_attributes
from tasks.metrics.faithfulness import KeyCoverage, coverage_by_key, details, extras
from tasks.metrics.slices import slices

ROOT = Path(__file__).parents[1]


def test_importing_the_metrics_loads_neither_dictionary_nor_model_libraries() -> None:
    code = (
        "import sys, tasks.baselines, tasks.metrics.protocol, tasks.metrics.faithfulness\n"
        "import tasks.metrics.statistics, tasks.metrics.slices\n"
        "from tasks.metrics import segment\n"
        "heavy = 'jieba', 'rjieba', 'sacrebleu', 'nltk', 'rouge_chinese', 'rouge_score'\n"
        "heavy += 'prefect', 'torch', 'transformers'\n"
        "print([name for name in sys.modules if name.partition('.')[0] in heavy], segment._tokenizers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[] {}"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("类型#裙*颜色#红色", (("类型", "裙"), ("颜色", "红色"))),
        (" 图案#格子 * 图案#条纹\n", (("图案", "格子"), ("图案", "条纹"))),
        ("类型#裙*", None),
        ("类型#裙*红色", None),
        ("类型#*颜色#红色", None),
        ("#裙", None),
        ("类型#裙#长", None),
        ("写一段广告", None),
        ("", None),
    ],
)
def test_only_a_whole_list_of_attributes_is_one(
    prompt: str, expected: tuple[tuple[str, str], ...] | None
) -> None:
    assert attributes(prompt) == expected


def test_attributes_are_spoken_of_from_95_percent_on() -> None:
    assert describes_attributes(["类型#裙"] * 19 + ["写一段广告"])
    assert not describes_attributes(["类型#裙"] * 18 + ["写一段广告"])
    assert not describes_attributes([])


def measure(prompts: list[str], answers: list[str], references: list[str]) -> dict[str, float]:
    return extras(prompts, answers, references, ["stop"] * len(prompts))


def test_coverage_counts_the_values_that_are_said() -> None:
    prompts = ["类型#裙*颜色#红色*风格#简约", "类型#裤*领型#V领"]
    answers = ["红色的裙，红色", "v领的上衣"]
    assert measure(prompts, answers, ["好"] * 2)["attribute_coverage"] == 3 / 5


def test_a_contradiction_is_a_value_that_belongs_to_another_prompt() -> None:
    prompts = ["类型#裙*颜色#深蓝色", "类型#裙*颜色#红色", "类型#裙*裙长#长裙", "类型#裙*颜色#蓝色"]
    allowed = ["蓝色的裙", "红色", "长裙，好看", "没有颜色"]
    assert measure(prompts, allowed, allowed)["contradiction"] == 0
    against = ["红色的裙", "红色或深蓝色", "长裙", "深蓝色"]
    assert measure(prompts, against, allowed)["contradiction"] == 3 / 4


def test_the_longest_value_is_the_one_that_is_named() -> None:
    prompts = ["类型#裙*颜色#黑", "类型#裙*颜色#黑白"]
    assert measure(prompts, ["黑白的裙"] * 2, ["好"] * 2)["contradiction"] == 1 / 2


def test_open_keys_contradict_nothing() -> None:
    measured = measure(
        ["类型#裙*风格#简约", "类型#裤*风格#复古"], ["复古的裤", "简约的裙"], ["好"] * 2
    )
    assert "contradiction" not in measured
    assert measured["attribute_coverage"] == 0


def test_other_prompts_have_neither_coverage_nor_contradiction() -> None:
    measured = measure(["写一段广告", "颜色#红色"], ["好", "红色"], ["好", "红色"])
    assert measured.keys() & {"attribute_coverage", "contradiction"} == set()


def test_variety_repetition_length_and_duplicates_are_shares() -> None:
    answers = ["abcdabcd", "abcd", "abcd", ""]
    measured = extras(["p"] * 4, answers, ["ab"] * 4, ["length", "stop", "stop", "length"])
    # abcd bcda cdab dabc abcd | abcd | abcd
    assert measured == {
        "distinct_4": 4 / 7,
        "repetition": 1 / 7,
        "length_ratio": 2.0,
        "duplicates": 1 / 4,
        "cut": 1 / 2,
        "width_mismatch": 0.0,
    }


def test_short_answers_and_empty_references_are_measured_without_a_division_by_zero() -> None:
    measured = measure(["p"], ["好"], [""])
    assert measured["distinct_4"] == measured["repetition"] == 0
    assert "length_ratio" not in measured


def test_coverage_is_told_in_relation_to_the_references_and_by_key() -> None:
    prompts = ["类型#裙*颜色#红色", "类型#裙*颜色#红色*颜色#蓝色", "类型#裙*领型#V领"]
    references = ["红色的裙", "红色蓝色", "v领的裙"]
    answers = ["裙", "裙，红色", "好看"]
    assert coverage_by_key(prompts, answers, references) == {
        "类型": KeyCoverage(asked=3, answers=2, references=2),
        "颜色": KeyCoverage(asked=3, answers=1, references=3),
        "领型": KeyCoverage(asked=1, answers=0, references=1),
    }
    measured = measure(prompts, answers, references)
    assert measured["attribute_coverage"] == 3 / 7
    assert measured["relative_coverage"] == pytest.approx(3 / 6)


def test_a_value_that_a_prompt_asks_for_twice_counts_once() -> None:
    prompts, answers = ["图案#格子*图案#格子*图案#条纹"], ["格子"]
    assert measure(prompts, answers, ["好"])["attribute_coverage"] == 1 / 2
    assert coverage_by_key(prompts, answers, ["好"])["图案"] == KeyCoverage(2, 1, 0)


def test_a_key_that_no_reference_says_has_no_relation() -> None:
    prompts, answers = ["类型#裙"], ["裙"]
    assert coverage_by_key(prompts, answers, ["好"])["类型"].relative is None
    assert "relative_coverage" not in measure(prompts, answers, ["好"])


def test_details_hold_what_the_extras_sum_up() -> None:
    told = details(["类型#裙"] * 2, ["aab", "aab"], ["裙", "裙"])
    # a a b twice: 2 of 6; aa ab twice: 2 of 4; aab twice: 1 of 2; nothing of four
    assert told == {
        "distinct": {"1": 2 / 6, "2": 2 / 4, "3": 1 / 2, "4": 0.0},
        "coverage_by_key": {"类型": {"asked": 2, "answers": 0, "references": 2, "relative": 0.0}},
        "width_warning": "",
    }
    assert details(["写"], ["好"], ["好"])["coverage_by_key"] == {}


@pytest.mark.parametrize(
    ("answer", "reference", "mismatch"),
    [
        ("a,b,c", "a，b，c", 1.0),
        ("a，b，c", "a,b,c", 1.0),
        ("a,b，c", "a，b，c", 1.0),
        ("a，b，c", "a，b，c", 0.0),
        ("，" * 300 + ",", "，" * 300, 0.0),
        ("，，,", "，,,", 0.0),
        ("abc", "a，b", 0.0),
        ("a!b!", "a！b！", 1.0),
        ("(a), (b)", "（a）, （b）", 1.0),
        ("a，b:c", "a，b：c，d", 1.0),
    ],
)
def test_marks_of_another_width_are_noticed(answer: str, reference: str, mismatch: float) -> None:
    assert measure(["p"], [answer], [reference])["width_mismatch"] == mismatch


def test_a_mark_that_hardly_occurs_says_nothing_of_the_width() -> None:
    answers, references = ["，", "!"] + ["，"] * 98, ["，", "！"] + ["，"] * 98
    assert fluency.widths(answers, references) == []
    assert fluency.widths(["!"] * 2 + ["，"] * 98, ["！"] * 2 + ["，"] * 98) != []


def test_a_difference_in_width_is_said_in_words() -> None:
    answers, references = ["红色,裙子,好看!"], ["红色，裙子，好,看！！"]
    assert fluency.widths(answers, references) == [
        fluency.Width("，", ",", answered=2, answered_half=2, expected=3, expected_half=1),
        fluency.Width("！", "!", answered=1, answered_half=1, expected=2, expected_half=0),
    ]
    told = fluency.width_warning(answers, references)
    assert told == (
        "Punctuation of different width: answers write , rather than ， in 2 of 2 places, "
        "references in 1 of 3; answers write ! rather than ！ in 1 of 1 places, references in 0 of "
        "2. Equal texts lose points by this alone; metrics.normalise nfkc compares both sides alike."
    )
    assert "do not suffer" in fluency.width_warning(answers, references, normalised=True)
    assert fluency.width_warning(answers, answers) == ""


def test_variety_is_counted_in_runs_of_any_length() -> None:
    assert fluency.distinct(["abab"], 1) == 2 / 4
    assert fluency.distinct(["abab", "ab"], 2) == 2 / 4
    assert fluency.distinct(["ab"], 3) == 0


def test_slices_are_by_attribute_length_and_script() -> None:
    prompts = ["类型#裙*颜色#红色*颜色#蓝色", "类型#裤*颜色#黑色", "类型#裤", "类型#裙*领型#V领"]
    references = ["红裙", "黑色的裤", "black trousers, size 42", "V neck 裙子 skirt, new"]
    assert slices(prompts, references, least=1) == {
        "attribute: 颜色": [0, 1],
        "attribute: 领型": [3],
        "length: short": [0, 1],
        "length: medium": [3],
        "length: long": [2],
        "script: Chinese": [0, 1],
        "script: Latin": [2],
        "script: mixed": [3],
    }


def test_slices_that_are_small_or_nearly_everything_are_left_out() -> None:
    prompts = ["类型#裙*颜色#红色"] * 2 + ["类型#裙"] * 3
    assert slices(prompts, ["裙"] * 5, least=2) == {"attribute: 颜色": [0, 1]}
    assert slices(prompts, ["裙"] * 5, least=3) == {}
    assert slices([], []) == {}


def test_other_prompts_have_no_slices_by_attribute() -> None:
    names = slices(["写一段广告"] * 6, ["好" * length for length in range(6)], least=2)
    assert list(names) == ["length: short", "length: medium", "length: long"]


@given(st.lists(st.text("红a ", max_size=9), max_size=40), st.integers(1, 5))
def test_thirds_hold_each_row_once_and_in_order_of_length(
    references: list[str], least: int
) -> None:
    found = slices(["写"] * len(references), references, least)
    thirds = [found[name] for name in found if name.startswith("length")]
    rows = [row for third in thirds for row in third]
    assert len(set(rows)) == len(rows)
    for shorter, longer in pairwise(thirds):
        assert max(len(references[row]) for row in shorter) < min(
            len(references[row]) for row in longer
        )
    assert all(least <= len(part) <= len(references) - least for part in found.values())


def test_slices_need_a_reference_for_each_prompt() -> None:
    with pytest.raises(DataError, match=r"found 1 and 2"):
        slices(["写"], ["好", "好"])


def test_measures_need_rows_of_equal_number() -> None:
    with pytest.raises(DataError, match=r"found 1, 1, 2, 1 of them"):
        extras(["p"], ["a"], ["a", "b"], ["stop"])
    with pytest.raises(DataError, match="found 0 rows"):
        extras([], [], [], [])
