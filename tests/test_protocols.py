"""The protocols against known values and against the programs whose numbers they promise."""

from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from texts import LETTERS, PIECES, TEXTS

from bench.metrics import FOLDERS, PROTOCOLS, Scoring, published, rows
from tasks import baselines
from tasks.errors import ConfigError, DataError
from tasks.metrics import bleu, protocol, segment
from tasks.metrics.protocol import METRICS, Measure, score_rows
from tasks.metrics.statistics import paired_difference

SHARED = Path(__file__).parents[2] / "shared" / "data" / "advertisegen"


@pytest.fixture(scope="module")
def upstream() -> dict[str, Scoring]:
    return {name: published(name) for name in PROTOCOLS}


def score(prediction: str, reference: str, measure: Measure | str = "chatglm2") -> list[float]:
    [row] = score_rows(measure, [prediction], [reference])
    return [row[name] for name in METRICS]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("好好好", "好", [66.6667, 0, 66.6667, 22.5901]),
        ("裙子好看", "裙子", [66.6667, 0, 66.6667, 31.9472]),
        ("Hello World", "hello world", [0, 0, 0, 58.7728]),
        ("这是<UNK>的裙子", "这是<UNK>的裤子", [83.3333, 80, 83.3333, 78.2542]),
        ("裙子\n\n\n\n上衣", "裙子上衣", [80.0, 0, 57.1429, 15.6197]),
        ("裙子", "裙子", [100.0, 0, 100.0, 59.4604]),
        ("ＡＢＣ", "ABC", [0, 0, 0, 0]),
        ("abc", "裙子", [0, 0, 0, 0]),
    ],
)
def test_scores_are_the_known_ones(prediction: str, reference: str, expected: list[float]) -> None:
    assert score(prediction, reference) == expected


def test_width_alone_moves_the_scores_of_a_perfect_copy() -> None:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data/advertisegen")
    text = rows(SHARED, "dev")[0].answer
    assert score(text, text) == [100.0, 100.0, 100.0, 100.0]
    assert score(text.replace("，", ","), text) == [97.2222, 77.2727, 88.8889, 82.7404]


def test_bleu_of_chatglm3_is_over_words_and_in_percent() -> None:
    # 红色 | 的 | 裙子 against 红色 | 的 | 上衣: 2 of 3, 1 of 2, half of 1, a quarter of (at least) 1
    expected = 100 * (2 / 3 * 1 / 2 * 1 / 2 * 1 / 4) ** 0.25
    found = score("红色的裙子", "红色的上衣", "chatglm3")
    assert found[:3] == [66.6667, 50.0, 66.6667]
    assert found[3] == pytest.approx(expected, abs=1e-12)
    assert score("裙子好看", "裙子", "chatglm2")[3] != score("裙子好看", "裙子", "chatglm3")[3]


def test_chatglm3_takes_no_notice_of_whitespace_at_the_ends() -> None:
    padded, plain = " \n红色的裙子\u3000", "红色的裙子"
    assert score(padded, plain, "chatglm3") == score(plain, plain, "chatglm3")
    assert score(padded, plain, "chatglm2")[3] < score(plain, plain, "chatglm2")[3]


@given(TEXTS, TEXTS)
@example("......", ".......")  # a word breaks after six dots
@example("......" * 2 + "\n裙", "......\n裙")
@example("裙。\n\n”子", "裙。”子\n")  # a break after a mark makes a blank line of an empty one
@example("裙\n\n子", "裙\x00子")  # a blank line is no character
@example("裙\r\n子", "裙\n子")
@example("裙", "裙裙\t裙 ")
@settings(max_examples=400, deadline=None)
def test_every_score_is_the_published_one(
    upstream: dict[str, Scoring], prediction: str, reference: str
) -> None:
    for name in PROTOCOLS:
        if prediction.strip() and reference.strip():
            ours = score_rows(name, [prediction], [reference])
            assert ours == upstream[name]([prediction], [reference])
        else:
            assert score(prediction, reference, name) == [0, 0, 0, 0]


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("blank", ["", " ", "\n\u3000\n", "\x1c\x85"])
def test_a_blank_text_scores_nothing_where_the_published_code_stops(
    upstream: dict[str, Scoring], blank: str, name: str
) -> None:
    for pair in ((blank, "裙子"), ("裙子", blank), (blank, blank)):
        assert score(*pair, name) == [0, 0, 0, 0]
        with pytest.raises(ValueError, match=r"is empty\."):
            upstream[name]([pair[0]], [pair[1]])


@given(LETTERS, LETTERS)
@settings(max_examples=200, deadline=None)
def test_bleu_agrees_with_sacrebleu_on_characters(prediction: str, reference: str) -> None:
    from sacrebleu.metrics.bleu import BLEU

    oracle = BLEU(tokenize="char", smooth_method="exp")
    expected = oracle.sentence_score(prediction, [reference]).score
    found = bleu.bleu_4(bleu.characters_of(prediction), bleu.characters_of(reference))
    assert found * 100 == pytest.approx(expected, abs=1e-9)


WORDS = st.lists(st.sampled_from(["裙子", "好看", "的", "，", "polo"]), min_size=4, max_size=30)


@given(WORDS, WORDS)
@settings(max_examples=200, deadline=None)
def test_bleu_agrees_with_sacrebleu_on_words(prediction: list[str], reference: list[str]) -> None:
    from sacrebleu.metrics.bleu import BLEU

    oracle = BLEU(tokenize="none", smooth_method="exp")
    expected = oracle.sentence_score(" ".join(prediction), [" ".join(reference)]).score
    found = bleu.bleu_4(bleu.words_of(prediction), bleu.words_of(reference))
    assert found * 100 == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_retrieved_answers_score_as_published_and_beat_random_ones(
    upstream: dict[str, Scoring],
) -> None:
    # all dev rows of AdvertiseGen where they are there, else those of the sample
    folder = next(folder for folder in FOLDERS if (folder / "dev.json").is_file())
    asked, train = rows(folder, "dev"), rows(folder, "train")
    prompts, references = [row.prompt for row in asked], [row.answer for row in asked]
    nearest = baselines.answer("retrieval", train, prompts, seed=1)
    for name in PROTOCOLS:
        scores = score_rows(name, nearest, references)
        assert scores == upstream[name](nearest, references)
    floor = score_rows(name, baselines.answer("random", train, prompts, seed=1), references)
    _, low, _ = paired_difference(
        [row["rouge_2"] for row in scores], [row["rouge_2"] for row in floor]
    )
    assert low > 0


@pytest.fixture(scope="module")
def rust() -> ModuleType:
    return pytest.importorskip("rjieba", reason="needs the optional package rjieba")


@given(TEXTS, TEXTS)
@settings(max_examples=150, deadline=None)
def test_another_segmenter_changes_the_words_and_nothing_else(
    rust: ModuleType, prediction: str, reference: str
) -> None:
    from rouge_chinese import Rouge

    if not prediction.strip() or not reference.strip():
        return
    joined = [" ".join(rust.cut(text)) for text in (prediction, reference)]
    expected = [round(one["f"] * 100, 4) for one in Rouge().get_scores(*joined)[0].values()]
    assert score(prediction, reference, Measure(segmenter="rjieba"))[:3] == expected


KNOWN = st.sampled_from(PIECES[-8:])


@given(st.lists(st.tuples(KNOWN, KNOWN), max_size=12), st.sampled_from([0, 12, 200_000]))
def test_a_row_scores_the_same_alone_and_among_others(
    pairs: list[tuple[str, str]], room: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "KEPT_CHARACTERS", room)
        together = score_rows("chatglm2", *([pair[side] for pair in pairs] for side in (0, 1)))
    assert [list(row.values()) for row in together] == [score(*pair) for pair in pairs]


def test_texts_that_come_again_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    analysed: list[str] = []

    def analyse(cut: segment.Cut, text: str) -> str:
        analysed.append(text)
        return text

    counting = protocol.Protocol("counting", (), analyse, lambda *_: (0.0,) * 4)
    monkeypatch.setitem(protocol._PROTOCOLS, "chatglm2", counting)
    monkeypatch.setattr(protocol, "KEPT_CHARACTERS", 3)
    score_rows("chatglm2", ["ab", "cd", "ab", "cd", "ef", "ef"], ["x"] * 6)
    # cd does not fit beside ab and x; ef fits once ab is forgotten
    assert sorted(analysed) == ["ab", "cd", "cd", "ef", "x"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_long_answer_is_scored_without_a_table_of_all_pairs(name: str) -> None:
    row = score("裙子上衣，" * 20_000, "上衣裙子。" * 20_000, name)
    assert row[0] == 66.6667  # two words of three; the marks differ
    assert 0 < row[2] < 100
    assert score("好" * 100_000, "好" * 100_000, name)[2:] == [100.0, pytest.approx(100.0)]


def test_normalising_makes_both_widths_one() -> None:
    wide, narrow = "红色，ＡＢＣ裙子！", "红色,ABC裙子!"
    plain, alike = Measure(), Measure(normalise="nfkc")
    assert score(wide, narrow, alike) == score(narrow, wide, alike) == [100.0] * 4
    assert score(wide, narrow, plain)[3] < 100
    normal = unicodedata.normalize("NFKC", wide)
    assert score(wide, "红色，裙子", alike) == score(normal, "红色,裙子", plain)


def test_only_references_are_cut_and_only_after_normalising() -> None:
    cut = Measure(reference_characters=4)
    assert score("红色裙子上衣", "红色裙子好看", cut) == score("红色裙子上衣", "红色裙子")
    both = Measure(reference_characters=4, normalise="nfkc")
    assert score("㎏裙子", "㎏裙子上衣", both) == score("kg裙子", "kg裙子")
    assert score("红色裙子", "    红色", cut) == [0, 0, 0, 0]  # nothing is left but blanks


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure(), "chatglm2-v1 (jieba-0.42.1, rouge_chinese-1.0.3, nltk-3.10.4)"),
        (
            Measure("chatglm3"),
            "chatglm3-v1 (jieba-0.42.1, rouge_chinese-1.0.3, nltk-3.10.4; "
            "BLEU over words, published from 0 to 1, here in percent)",
        ),
        (
            Measure(normalise="nfkc", reference_characters=64),
            "chatglm2-v1 (jieba-0.42.1, rouge_chinese-1.0.3, nltk-3.10.4; "
            f"nfkc-{unicodedata.unidata_version} on both sides; references cut to 64 characters)",
        ),
    ],
)
def test_an_id_names_the_version_and_every_choice_that_is_not_usual(
    measure: Measure, expected: str
) -> None:
    assert measure.id == expected
    assert measure.facts()["id"] == expected


def test_every_choice_changes_the_id() -> None:
    pytest.importorskip("rjieba", reason="needs the optional package rjieba")
    measures = [
        Measure(),
        Measure("chatglm3"),
        Measure("english"),
        Measure("mixed"),
        Measure(segmenter="rjieba"),
        Measure(normalise="nfkc"),
        Measure(reference_characters=64),
        Measure(reference_characters=65),
    ]
    ids = {measure.id for measure in measures}
    assert len(ids) == len(measures)
    assert all("\n" not in each for each in ids)


def test_facts_tell_the_parts_of_the_id_and_the_libraries_at_work() -> None:
    assert Measure("chatglm3", normalise="nfkc").facts() == {
        "id": Measure("chatglm3", normalise="nfkc").id,
        "protocol": "chatglm3",
        "version": "chatglm3-v1",
        "segmenter": "jieba-0.42.1",
        "normalise": f"nfkc-{unicodedata.unidata_version}",
        "reference_characters": 0,
        "reproduces": ["rouge_chinese-1.0.3", "nltk-3.10.4"],
        "libraries": {"rapidfuzz": "3.14.6", "jieba": "0.42.1"},
    }


def test_a_name_alone_is_a_protocol_with_all_else_as_usual() -> None:
    assert protocol.describe("chatglm2") == Measure().id
    assert score("红裙", "红裤", "chatglm2") == score("红裙", "红裤", Measure())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"protocol": "rouge"}, r"found 'rouge'\)\. Choose one of: chatglm2, chatglm3, english"),
        ({"segmenter": "thulac"}, r"metrics\.segmenter: .*found 'thulac'"),
        ({"normalise": "nfc"}, r"found 'nfc'\)\. Choose one of: none, nfkc\."),
        ({"reference_characters": -1}, r"must not be negative \(found -1\)"),
        ({"protocol": "mixed", "segmenter": "rjieba"}, "mixed cuts no Chinese words"),
    ],
)
def test_choices_that_cannot_work_are_refused_at_once(
    choices: dict[str, str | int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(Measure(), **choices)


def test_a_measure_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Measure().protocol = "chatglm3"  # type: ignore[misc]


def test_a_missing_reference_is_refused_before_anything_is_scored() -> None:
    with pytest.raises(DataError, match=r"found 2 and 1"):
        score_rows(Measure(), ["好", "看"], ["好"])


def test_no_rows_have_no_scores() -> None:
    assert score_rows(Measure(), [], []) == []
