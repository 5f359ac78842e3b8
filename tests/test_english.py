"""English and mixed text against the libraries whose numbers are promised, and known values."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import TEXTS

from tasks.errors import ConfigError, DataError
from tasks.metrics import english
from tasks.metrics.protocol import METRICS, Measure, check, score_rows
from tasks.metrics.scripts import chinese_share, script_of

WORDS = [
    "the",
    "The",
    "cat",
    "cats",
    "sat",
    "3.5",
    "state-of-the-art",
    "don't",
    ",",
    ".",
    "\n",
    "é",
]
ENGLISH = st.lists(st.sampled_from(WORDS) | st.text("ab É.", max_size=3), max_size=25).map(" ".join)
ROUGES = ("rouge1", "rouge2", "rougeL")


def score(prediction: str, reference: str, name: str = "english") -> list[float]:
    [row] = score_rows(Measure(name), [prediction], [reference])
    return [row[metric] for metric in METRICS]


@pytest.fixture(scope="module")
def google() -> ModuleType:
    return pytest.importorskip("rouge_score.rouge_scorer", reason="needs the oracle rouge-score")


def expected(scorer: Any, tokenizer: str, prediction: str, reference: str) -> list[float]:
    from sacrebleu.metrics.bleu import BLEU

    overlaps = scorer.score(reference, prediction)
    bleu = BLEU(tokenize=tokenizer, effective_order=True)
    return [
        *(overlaps[name].fmeasure * 100 for name in ROUGES),
        bleu.sentence_score(prediction, [reference]).score,
    ]


@given(ENGLISH, ENGLISH)
@settings(max_examples=150, deadline=None)
def test_english_scores_are_those_of_rouge_score_and_sacrebleu(
    google: ModuleType, prediction: str, reference: str
) -> None:
    scorer = google.RougeScorer(ROUGES, use_stemmer=False)
    assert score(prediction, reference) == expected(scorer, "13a", prediction, reference)


class ByHand:
    """A tokenizer for rouge_score: Chinese characters alone, everything else in runs of letters."""

    def tokenize(self, text: str) -> list[str]:
        words, run = [], ""
        for character in text.lower():
            chinese = script_of(character) == "Chinese"
            if character.isalnum() and not chinese:
                run += character
                continue
            words += [run] if run else []
            words += [character] if chinese else []
            run = ""
        return [*words, run] if run else words


@given(TEXTS | ENGLISH, TEXTS)
@settings(max_examples=150, deadline=None)
def test_mixed_scores_are_those_of_rouge_score_and_sacrebleu_over_characters_and_words(
    google: ModuleType, prediction: str, reference: str
) -> None:
    scorer = google.RougeScorer(ROUGES, tokenizer=ByHand())
    assert score(prediction, reference, "mixed") == expected(scorer, "zh", prediction, reference)


def test_english_scores_are_the_known_ones() -> None:
    # of 6 words 5, of 5 pairs 3, of 4 threes 2, of 3 fours 1
    expected = [500 / 6, 60.0, 500 / 6, 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25]
    assert score("the cat sat on a mat", "the cat sat on the mat") == pytest.approx(expected)
    capital = score("The cat sat on a mat", "the cat sat on the mat")
    assert capital[:3] == pytest.approx(expected[:3])
    assert capital[3] < expected[3]  # only BLEU sees capitals


def test_words_count_as_often_as_they_occur_and_a_short_copy_is_perfect() -> None:
    assert score("the the the", "the")[0] == pytest.approx(50.0)
    assert score("yes", "yes") == pytest.approx([100.0, 0.0, 100.0, 100.0])


def test_mixed_text_is_cut_into_characters_and_words() -> None:
    assert english.mixed_words("一件Polo衫，Size 42！").words == [
        "一",
        "件",
        "polo",
        "衫",
        "size",
        "42",
    ]
    # 4 of 5 words; 一件, 件polo of 4 pairs
    one, two, longest, _ = score("一件Polo裙红", "一件POLO衫红", "mixed")
    assert [one, two, longest] == pytest.approx([80.0, 50.0, 80.0])


@pytest.mark.parametrize("name", ["english", "mixed"])
@pytest.mark.parametrize("blank", ["", " \n", "\u3000", "。", "..."])
def test_blank_texts_score_nothing(name: str, blank: str) -> None:
    for pair in ((blank, "a cat"), ("a cat", blank)):
        assert score(*pair, name) == [0, 0, 0, 0]


def test_a_long_text_is_scored_without_a_table_of_all_pairs() -> None:
    text = "the cat sat on a mat " * 4_000
    assert score(text, text) == pytest.approx([100.0] * 4)


def test_english_refuses_what_it_does_not_see() -> None:
    with pytest.raises(DataError, match=r"found 100% of the references' words\)\. Choose mixed"):
        score("红色的裙子", "红色的裙子")
    with pytest.raises(DataError, match="does not see Chinese"):
        check(Measure("english"), ["红色的裙子"])
    check(Measure("mixed"), ["红色的裙子"])
    assert score("a red 裙", "a red 裙 for the young, the old and all of their folks")[0] > 0


def test_an_id_holds_the_signature_of_sacrebleu() -> None:
    assert Measure("english").id == (
        "english-v1 (sacrebleu nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:2.6.0, "
        "rouge_score-0.1.2; no stemming)"
    )
    facts = Measure("mixed").facts()
    assert "tok:zh" in facts["id"]
    assert facts["segmenter"] is None
    assert facts["libraries"]["sacrebleu"] == "2.6.0"


def test_without_sacrebleu_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    english._bleu.cache_clear()
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ConfigError, match=r"english and mixed: .* Run: pip install sacrebleu"):
        check(Measure("english"), ["a cat"])


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("红色的裙子，好看！", "Chinese"),
        ("这件polo衫很好看，红色的", "Chinese"),
        ("A red skirt, 42 €.", "Latin"),
        ("Une jupe très élégante", "Latin"),
        ("这件 red skirt 很好", "mixed"),
        ("Красная юбка", "other"),
        ("かわいいスカート", "other"),
        ("12, 34!", "other"),
        ("", "other"),
    ],
)
def test_a_text_is_written_in_what_nine_tenths_of_its_words_are(text: str, script: str) -> None:
    assert script_of(text) == script


def test_a_chinese_character_counts_as_much_as_a_word() -> None:
    assert chinese_share(["红裙", "red skirt, 2 of them"]) == 2 / 6
    assert chinese_share([]) == chinese_share(["12"]) == 0
