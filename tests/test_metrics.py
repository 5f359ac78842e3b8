"""The metrics against hand-computed values and against the libraries whose numbers they promise."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.metrics import FOLDERS, Scoring, published, rows
from tasks import baselines
from tasks.errors import ConfigError, DataError
from tasks.metrics import bleu, protocol, segment
from tasks.metrics.attributes import attributes, describes_attributes
from tasks.metrics.faithfulness import extras
from tasks.metrics.statistics import paired_difference

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data" / "advertisegen"

# Pieces that take part in a peculiarity: sentence marks, quotes, dots, blank lines, odd whitespace.
PIECES = [
    *"裙子好看上衣的，。！？?”’…. \t\n\r\x0b\x1c\x85\u2028\u3000\x00a1%#*,-",
    "连衣裙",
    "牛仔外套",
    "......",
    "……",
    "。\n",
    "\n \n",
    "\r\n",
    "polo领",
    "<UNK>",
    "3.5%",
    "Hello World",
    "杭研大厦",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)
LETTERS = st.text(st.sampled_from("裙子好看上衣的，。ab1"), min_size=4, max_size=60)


@pytest.fixture(scope="session")
def upstream() -> Scoring:
    return published()


def score(prediction: str, reference: str) -> list[float]:
    [row] = protocol.score_rows("chatglm2", [prediction], [reference])
    return [row[name] for name in protocol.METRICS]


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


@given(TEXTS, TEXTS)
@example("......", ".......")  # a word breaks after six dots
@example("......" * 2 + "\n裙", "......\n裙")
@example("裙。\n\n”子", "裙。”子\n")  # a break after a mark makes a blank line of an empty one
@example("裙\n\n子", "裙\x00子")  # a blank line is no character
@example("裙\r\n子", "裙\n子")
@settings(max_examples=400, deadline=None)
def test_every_score_is_the_published_one(
    upstream: Scoring, prediction: str, reference: str
) -> None:
    if prediction.strip() and reference.strip():
        ours = protocol.score_rows("chatglm2", [prediction], [reference])
        assert ours == upstream([prediction], [reference])
    else:
        assert score(prediction, reference) == [0, 0, 0, 0]


@pytest.mark.parametrize("blank", ["", " ", "\n\u3000\n"])
def test_a_blank_text_scores_nothing_where_the_published_code_stops(
    upstream: Scoring, blank: str
) -> None:
    for pair in ((blank, "裙子"), ("裙子", blank), (blank, blank)):
        assert score(*pair) == [0, 0, 0, 0]
        with pytest.raises(ValueError, match=r"is empty\."):
            upstream([pair[0]], [pair[1]])


@given(LETTERS, LETTERS)
@settings(max_examples=200, deadline=None)
def test_bleu_agrees_with_sacrebleu_on_characters(prediction: str, reference: str) -> None:
    from sacrebleu.metrics.bleu import BLEU

    oracle = BLEU(tokenize="char", smooth_method="exp")
    expected = oracle.sentence_score(prediction, [reference]).score
    found = bleu.bleu_4(bleu.characters_of(prediction), bleu.characters_of(reference))
    assert found * 100 == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_retrieved_answers_score_as_published_and_beat_random_ones(
    upstream: Scoring, folder: Path
) -> None:
    if not (folder / "dev.json").is_file():
        pytest.skip(f"needs the rows of {folder.name}, which are not here")
    asked, train = rows(folder, "dev"), rows(folder, "train")
    prompts, references = [row.prompt for row in asked], [row.answer for row in asked]
    nearest = baselines.answer("retrieval", train, prompts, seed=1)
    scores = protocol.score_rows("chatglm2", nearest, references)
    assert scores == upstream(nearest, references)
    floor = protocol.score_rows(
        "chatglm2", baselines.answer("random", train, prompts, seed=1), references
    )
    _, low, _ = paired_difference(
        [row["rouge_2"] for row in scores], [row["rouge_2"] for row in floor]
    )
    assert low > 0


@given(st.lists(st.tuples(st.sampled_from(PIECES[-8:]), st.sampled_from(PIECES[-8:])), max_size=12))
def test_a_row_scores_the_same_alone_and_among_others(pairs: list[tuple[str, str]]) -> None:
    together = protocol.score_rows("chatglm2", *([pair[side] for pair in pairs] for side in (0, 1)))
    assert [list(row.values()) for row in together] == [score(*pair) for pair in pairs]


def test_a_long_answer_is_scored_without_a_table_of_all_pairs() -> None:
    row = score("裙子上衣，" * 20_000, "上衣裙子。" * 20_000)
    assert row[0] == 66.6667  # two words of three; the marks differ
    assert 0 < row[2] < 100


def test_an_unknown_protocol_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"found 'rouge'\)\. Choose one of: chatglm2\."):
        protocol.score_rows("rouge", ["好"], ["好"])
    with pytest.raises(ConfigError, match="no such protocol"):
        protocol.describe("rouge")


def test_a_missing_reference_is_refused_before_anything_is_scored() -> None:
    with pytest.raises(DataError, match=r"found 2 and 1"):
        protocol.score_rows("chatglm2", ["好", "看"], ["好"])


def test_the_id_of_a_protocol_names_its_version_and_its_segmenter() -> None:
    assert protocol.describe("chatglm2") == (
        "chatglm2-v1 (jieba-0.42.1, rouge_chinese-1.0.3, nltk-3.10.4)"
    )


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from([1, 2, 4]), min_size=1),
    st.text("abcd", min_size=1, max_size=12),
)
@example({"a": 4, "b": 4, "ab": 2}, "abab")  # equally likely ways: the longer word
@settings(deadline=None)
def test_the_way_through_a_block_is_that_of_jieba(
    upstream: Scoring, dictionary: dict[str, int], block: str
) -> None:
    import jieba

    beginnings = {word[:end]: 0 for word in dictionary for end in range(1, len(word))}
    frequencies, total = beginnings | dictionary, 8
    theirs, ours = jieba.Tokenizer(), jieba.Tokenizer()
    theirs.FREQ, theirs.total, theirs.initialized = frequencies, total, True
    segment.use_dictionary(ours, frequencies, total)
    routes: list[dict[int, tuple[float, int]]] = [{}, {}]
    for tokenizer, route in zip((theirs, ours), routes, strict=True):
        tokenizer.calc(block, tokenizer.get_DAG(block), route)
    assert routes[0] == routes[1]


CHANGED_FROM_AFAR = """
import warnings
warnings.simplefilter("ignore")
import jieba
from tasks.metrics import segment
jieba.setLogLevel("CRITICAL")
text = "杭研大厦的连衣裙上衣"
jieba.add_word("连衣裙上衣", freq=10**9)
jieba.del_word("杭研")
print(jieba.lcut(text), jieba.Tokenizer().lcut(text), segment.words(text), sep="\\n")
"""

BELIEVED_FROM_A_CACHE = """
import warnings
warnings.simplefilter("ignore")
import jieba
from tasks.metrics import segment
jieba.setLogLevel("CRITICAL")
print(jieba.lcut("裙子上衣"), segment.words("裙子上衣"), sep="\\n")
"""


def run(tmp_path: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has the folder as its temporary one."""
    own = {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        env={**os.environ, **own},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )


def test_words_cannot_be_changed_from_afar(tmp_path: Path) -> None:
    shared, another, ours = run(tmp_path, CHANGED_FROM_AFAR).stdout.splitlines()
    assert shared == "['杭', '研', '大厦', '的', '连衣裙上衣']"
    # not even another tokenizer of the shared package is safe
    assert another == "['杭', '研', '大厦', '的', '连衣裙', '上衣']"
    assert ours == "['杭研', '大厦', '的', '连衣裙', '上衣']"


def test_words_do_not_come_from_a_cache_that_anyone_can_write(tmp_path: Path) -> None:
    (tmp_path / "jieba.cache").write_bytes(marshal.dumps(({"裙": 0, "裙子上": 9, "裙子": 0}, 9)))
    believed, ours = run(tmp_path, BELIEVED_FROM_A_CACHE).stdout.splitlines()
    assert believed == "['裙子上', '衣']"
    assert ours == "['裙子', '上衣']"


def test_words_need_no_cache_no_warning_and_no_log(tmp_path: Path) -> None:
    code = "from tasks.metrics import segment; print(segment.words('裙子上衣'))"
    # warnings of the compiler come only when nothing is compiled yet
    done = run(tmp_path, code, "-W", "error", "-X", f"pycache_prefix={tmp_path / 'compiled'}")
    assert (done.stdout.strip(), done.stderr) == ("['裙子', '上衣']", "")
    assert {path.name for path in tmp_path.iterdir()} <= {"compiled"}


def test_importing_the_metrics_loads_neither_dictionary_nor_model_libraries(tmp_path: Path) -> None:
    code = (
        "import sys, tasks.baselines, tasks.metrics.protocol, tasks.metrics.faithfulness\n"
        "import tasks.metrics.statistics\n"
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('jieba', 'prefect', 'torch', 'transformers', 'nltk', 'rouge_chinese')])"
    )
    assert run(tmp_path, code).stdout.strip() == "[]"


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
    ],
)
def test_commas_of_another_width_are_noticed(answer: str, reference: str, mismatch: float) -> None:
    assert measure(["p"], [answer], [reference])["width_mismatch"] == mismatch


def test_measures_need_rows_of_equal_number() -> None:
    with pytest.raises(DataError, match=r"found 1, 1, 2, 1 of them"):
        extras(["p"], ["a"], ["a", "b"], ["stop"])
    with pytest.raises(DataError, match="found 0 rows"):
        extras([], [], [], [])
