"""The words of Chinese text: equal to jieba's, the same in every process, in linear time."""

from __future__ import annotations

import marshal
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from texts import PIECES, TEXTS

from bench.metrics import published
from tasks.errors import ConfigError
from tasks.metrics import jieba_words, optional, segment

ROOT = Path(__file__).parents[1]
HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FD5)
STATES = "BMES"
# few and round numbers, so that many ways through a block are equally likely
LOGARITHMS = st.sampled_from([-1.0, -2.0, -4.0, jieba_words.UNSEEN])


@pytest.fixture(scope="module")
def jieba() -> ModuleType:
    """The package as everyone imports it, its dictionary loaded from no cache."""
    published()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    return jieba


@given(TEXTS)
@example("的" * 12)
@example("犇犇，犇")
@settings(max_examples=200, deadline=None)
def test_the_words_are_those_of_jieba(jieba: ModuleType, text: str) -> None:
    assert segment.words(text) == jieba.lcut(text)


@given(st.text(HAN | st.sampled_from("的一是裙"), min_size=1, max_size=14))
@settings(max_examples=200, deadline=None)
def test_unknown_words_are_found_as_jieba_finds_them(jieba: ModuleType, block: str) -> None:
    from jieba import finalseg

    model = (finalseg.start_P, finalseg.trans_P, finalseg.emit_P)
    assert jieba_words.likeliest_states(block, STATES, *model) == finalseg.viterbi(
        block, STATES, *model
    )


@given(
    st.text("ab", min_size=1, max_size=9),
    st.tuples(*[LOGARITHMS] * 4),
    st.tuples(*[LOGARITHMS] * 8),
    st.tuples(*[LOGARITHMS] * 4),
)
@settings(max_examples=200, deadline=None)
def test_equally_likely_states_are_chosen_as_jieba_chooses_them(
    jieba: ModuleType,
    block: str,
    start: tuple[float, ...],
    following: tuple[float, ...],
    emission: tuple[float, ...],
) -> None:
    from jieba import finalseg

    steps = iter(following)
    after = {"B": "ME", "M": "ME", "E": "BS", "S": "BS"}
    model = (
        dict(zip(STATES, start, strict=True)),
        {state: {follower: next(steps) for follower in after[state]} for state in STATES},
        {state: {"a": value} for state, value in zip(STATES, emission, strict=True)},
    )
    assert jieba_words.likeliest_states(block, STATES, *model) == finalseg.viterbi(
        block, STATES, *model
    )


@pytest.mark.parametrize("character", ["的", "犇"])
def test_a_long_text_of_one_character_is_cut_in_linear_time(character: str) -> None:
    # jieba's own copies the whole path at each character: 25 times the 1.8 s of a fifth of it
    segment.words("裙")
    assert sys.modules[segment._COPY].finalseg.viterbi is jieba_words.likeliest_states
    text = character * 100_000
    assert "".join(segment.words(text)) == text


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from([1, 2, 4]), min_size=1),
    st.text("abcd", min_size=1, max_size=12),
)
@example({"a": 4, "b": 4, "ab": 2}, "abab")  # equally likely ways: the longer word
@settings(deadline=None)
def test_the_way_through_a_block_is_that_of_jieba(
    jieba: ModuleType, dictionary: dict[str, int], block: str
) -> None:
    beginnings = {word[:end]: 0 for word in dictionary for end in range(1, len(word))}
    frequencies, total = beginnings | dictionary, 8
    theirs, ours = jieba.Tokenizer(), jieba.Tokenizer()
    theirs.FREQ, theirs.total, theirs.initialized = frequencies, total, True
    jieba_words.use_dictionary(ours, frequencies, total)
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


@pytest.fixture(scope="module")
def rust() -> segment.Cut:
    pytest.importorskip("rjieba", reason="needs the optional package rjieba")
    return segment.cutter("rjieba")


@given(TEXTS | st.text(max_size=20))
@example("裙\ud800子")
@example("\ud800")
@settings(max_examples=200, deadline=None)
def test_the_fast_segmenter_loses_no_character(rust: segment.Cut, text: str) -> None:
    assert "".join(rust(text)) == text


def test_the_fast_segmenter_cuts_almost_as_jieba(rust: segment.Cut) -> None:
    generator = random.Random(1)
    plain = [piece for piece in PIECES if not set(piece) & set("-.%#+&_\x00")]
    texts = ["".join(generator.choices(plain, k=20)) for _ in range(300)]
    assert [rust(text) for text in texts] == [segment.words(text) for text in texts]
    assert rust("hip-hop") == ["hip-hop"]  # the known difference
    assert segment.words("hip-hop") == ["hip", "-", "hop"]


def test_the_fast_segmenter_cannot_be_changed_from_afar(rust: segment.Cut) -> None:
    import rjieba

    rust("裙")
    rjieba.add_word("连衣裙上衣", 10**6, None)
    assert rjieba.cut("连衣裙上衣") == ["连衣裙上衣"]
    assert rust("连衣裙上衣") == ["连衣裙", "上衣"]


def test_a_segmenter_carries_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert segment.identify("jieba") == "jieba-0.42.1"
    versions = {"rjieba": "0.9"}
    monkeypatch.setattr(optional.metadata, "version", versions.__getitem__)
    assert segment.identify("rjieba") == "rjieba-0.9"


def test_an_unknown_segmenter_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"found 'thulac'\)\. Choose one of: jieba, rjieba\."):
        segment.cutter("thulac")


def test_an_absent_segmenter_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise optional.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(optional.metadata, "version", absent)
    with pytest.raises(ConfigError, match=r"segmenter rjieba: .* Run: pip install rjieba"):
        segment.cutter("rjieba")


def test_an_absent_package_is_named_by_the_choice_that_needs_it() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.x: the package no_such_package is needed"):
        optional.load("no_such_package.part", "metrics.x")
    with pytest.raises(ConfigError, match="Run: pip install no_such_package"):
        optional.version_of("no_such_package", "metrics.x")
