"""The answers that need no model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.baselines import Row, answer
from tasks.errors import ConfigError, DataError

TRAIN = [
    Row("类型#裙*颜色#红色*风格#简约", "红裙"),
    Row("类型#裙*颜色#蓝色*风格#简约", "蓝裙"),
    Row("类型#裤*颜色#红色*图案#条纹", "红裤"),
    Row("类型#裤*颜色#黑色*裤长#短裤", "黑裤"),
]

FEATURES = [f"{key}#{value}" for key in "甲乙丙" for value in "一二三"]
PROMPTS = st.lists(st.sampled_from(FEATURES), min_size=1, max_size=5).map("*".join)
SENTENCES = st.text(st.sampled_from("裙子好看的"), max_size=8)


def similarities(asked: Sequence[set[str]], features: set[str]) -> list[float]:
    """Weighted Jaccard similarity of each row, straight from its definition."""
    rows_with = Counter(feature for row in asked for feature in row)

    def weight(some: set[str]) -> float:
        return math.fsum(math.log1p(len(asked) / max(1, rows_with[one])) for one in some)

    return [weight(row & features) / weight(row | features) for row in asked]


def check(train: list[str], prompt: str, asked: list[set[str]], features: set[str]) -> None:
    rows = [Row(one, str(number)) for number, one in enumerate(train)]
    [found] = answer("retrieval", rows, [prompt], seed=0)
    similarity = similarities(asked, features)
    assert similarity[int(found)] == pytest.approx(max(similarity), abs=1e-12)
    assert asked.index(asked[int(found)]) == int(found), "the first of equal rows"


@given(st.lists(PROMPTS, min_size=1, max_size=12), PROMPTS)
def test_retrieval_finds_the_most_similar_attributes(train: list[str], prompt: str) -> None:
    check(train, prompt, [set(one.split("*")) for one in train], set(prompt.split("*")))


@given(st.lists(SENTENCES, min_size=1, max_size=12), SENTENCES)
def test_retrieval_compares_other_prompts_by_character_pairs(train: list[str], prompt: str) -> None:
    def pairs(text: str) -> set[str]:
        return {text[start : start + 2] for start in range(len(text) - 1)} or {text}

    check(train, prompt, [pairs(one) for one in train], pairs(prompt))


def test_a_rare_attribute_weighs_more_than_a_common_one() -> None:
    train = [Row("类型#裙*颜色#红色", str(number)) for number in range(9)] + [
        Row("领型#v领*类型#裤", "v")
    ]
    assert answer("retrieval", train, ["领型#v领*类型#裙"], seed=0) == ["v"]


def test_a_sentence_among_attributes_is_answered_by_its_characters() -> None:
    train = [*TRAIN * 10, Row("写一段黑色短裤的广告", "短裤广告")]
    prompts = ["写一段短裤的广告", "类型#裤*颜色#黑色", "颜色#紫色"]
    assert answer("retrieval", train, prompts, seed=0) == ["短裤广告", "黑裤", "红裙"]


def test_an_attribute_prompt_is_answered_from_sentences_too() -> None:
    train = [Row("红色的裙", "裙"), Row("黑色的裤", "裤")]
    assert answer("retrieval", train, ["颜色#黑色", ""], seed=0) == ["裤", "裙"]


def test_random_answers_come_from_training_and_from_the_seed() -> None:
    prompts = ["p"] * 400
    first = answer("random", TRAIN, prompts, seed=1)
    assert first == answer("random", TRAIN, prompts, seed=1)
    assert first != answer("random", TRAIN, prompts, seed=2)
    counted = Counter(first)
    assert counted.keys() == {row.answer for row in TRAIN}
    assert min(counted.values()) > 60  # 100 each, give or take 4 standard deviations


def test_the_template_writes_every_attribute_out() -> None:
    prompts = ["类型#裙*图案#格子*图案#条纹", "写一段广告", ""]
    expected = ["这款商品的类型是裙，图案是格子、条纹。", "写一段广告", ""]
    assert answer("template", [], prompts, seed=0) == expected


@pytest.mark.parametrize("name", ["random", "retrieval", "template"])
def test_every_prompt_gets_an_answer(name: str) -> None:
    assert answer(name, TRAIN, [], seed=0) == []
    assert len(answer(name, TRAIN, ["类型#裙", "别的", "类型#帽"], seed=0)) == 3


def test_an_unknown_baseline_is_refused_by_name() -> None:
    with pytest.raises(
        ConfigError, match=r"found 'best'\)\. Choose one of: random, retrieval, temp"
    ):
        answer("best", TRAIN, ["p"], seed=0)


@pytest.mark.parametrize("name", ["random", "retrieval"])
def test_copying_needs_training_rows(name: str) -> None:
    with pytest.raises(DataError, match="found 0 training rows"):
        answer(name, [], ["p"], seed=0)
