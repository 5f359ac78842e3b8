"""Overlap, against the same counted by hand: runs exactly, near-duplicates with the promised recall."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.overlap import Found, Near, Runs, expected_recall, near, runs, windows

SHARED = Path(__file__).parents[2] / "shared" / "data" / "advertisegen"

# Few letters, so that windows meet; beyond the first plane, half characters and NUL are letters, too.
LETTERS = "ab裙\0\ud800👗"
TEXTS = st.lists(st.text(st.sampled_from(LETTERS), max_size=40), max_size=12)
FOUR_HASHES = np.uint64(3 << 62)
WORDS = "简约大方的版型设计，连衣裙上衣牛仔外套。显瘦百搭舒适面料印花条纹圆领短袖高腰宽松"


def pieces(text: str, length: int) -> set[str]:
    return {text[start : start + length] for start in range(len(text) - length + 1)}


def sharing(dev: Sequence[str], train: Sequence[str], length: int) -> list[int]:
    trained = set().union(*(pieces(text, length) for text in train))
    return [row for row, text in enumerate(dev) if not trained.isdisjoint(pieces(text, length))]


def alike(texts: Sequence[str]) -> set[tuple[int, int]]:
    sets = [pieces(text, 5) for text in texts]
    where: dict[str, list[int]] = {}
    found = set()
    for other, mine in enumerate(sets):
        shared = Counter(one for piece in mine for one in where.setdefault(piece, []))
        for one, count in shared.items():
            if count >= 0.7 * (len(mine) + len(sets[one]) - count):
                found.add((one, other))
        for piece in mine:
            where[piece].append(other)
    return found


def looked(dev: Sequence[str], train: Sequence[str], length: int, batch: int = 5) -> Runs:
    found = Runs(length)
    for start in range(0, len(dev), batch):
        found.hold(dev[start : start + batch])
    for start in range(0, len(train), batch):
        found.look(train[start : start + batch])
    return found


def added(texts: Sequence[str], batch: int = 1000) -> Found:
    kept = Near()
    for start in range(0, len(texts), batch):
        kept.add(texts[start : start + batch])
    return kept.pairs(texts.__getitem__)


def advert(draw: random.Random, length: int) -> str:
    return "".join(draw.choices(WORDS, k=length))


def changed(draw: random.Random, text: str, times: int) -> str:
    letters = list(text)
    for _ in range(times):
        letters[draw.randrange(len(letters))] = draw.choice(WORDS)
    return "".join(letters)


@settings(deadline=None, max_examples=150)
@given(TEXTS, TEXTS, st.integers(1, 9), st.integers(1, 5))
def test_runs_are_those_that_sets_of_windows_share(
    dev: list[str], train: list[str], length: int, batch: int
) -> None:
    found = looked(dev, train, length, batch)
    expected = sharing(dev, train, length)
    assert (found.held, found.shared, found.rows) == (len(dev), len(expected), expected)
    for row, run in found.examples:
        assert len(run) == length
        assert run in dev[row]
        assert any(run in text for text in train)
    assert len({row for row, _ in found.examples}) == min(len(expected), 10)


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_runs_are_exact_even_when_all_hashes_are_nearly_equal(
    dev: list[str], train: list[str], length: int
) -> None:
    hashes = windows.Windows.hashes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows.Windows, "hashes", lambda *given: hashes(*given) & FOUR_HASHES)
        assert looked(dev, train, length).rows == sharing(dev, train, length)


@settings(deadline=None, max_examples=30)
@given(TEXTS, TEXTS, st.integers(1, 5))
def test_runs_are_exact_across_the_pieces_of_long_texts(
    dev: list[str], train: list[str], length: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "CHUNK", 10)
        patch.setattr(runs, "CHUNK", 10)
        assert looked(dev, train, length).rows == sharing(dev, train, length)


def test_a_run_is_found_at_every_place_of_a_long_text() -> None:
    draw = random.Random(17)
    long = advert(draw, 3 * windows.CHUNK)
    for start in (0, windows.CHUNK - 13, windows.CHUNK - 12, windows.CHUNK, 2 * windows.CHUNK - 7):
        run = long[start : start + 13]
        assert looked([run, "另" * 13], [long], 13).rows == [0]
        assert looked([long], [run], 13).rows == [0]
    assert looked([long[-13:]], [long], 13).rows == [0]


def test_a_run_does_not_reach_over_the_end_of_an_answer() -> None:
    assert looked(["abcdef"], ["xabc", "defx"], 6).shared == 0
    assert looked(["abc", "def"], ["abcdef"], 6).shared == 0
    assert looked(["abcdef"], ["abcdef"], 6).shared == 1


def test_only_as_many_answers_are_held_as_are_granted() -> None:
    found = Runs(3, limit=2)
    found.hold(["abcd", "efgh", "ijkl"])
    found.look(["abcdefghijkl"])
    assert (found.held, found.rows) == (2, [0, 1])


def test_an_answer_too_large_for_the_memory_is_left_out_and_not_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "_CHARACTERS", 10)
    found = Runs(3)
    found.hold(["abcdef", "ghijkl", "mno"])
    found.look(["abcdefghijklmno"])
    assert (found.held, found.rows) == (2, [0, 2])


def test_the_same_run_everywhere_marks_all_who_share_it() -> None:
    dev = ["裙" * 30] * 50 + [f"{number:05}{'裙' * 9}" for number in range(50)]
    found = looked(dev, ["裙" * 100] * 3, 9)
    assert found.rows == list(range(100))
    assert len(found.examples) == 10


def test_dev_answers_come_before_the_first_look() -> None:
    found = Runs()
    assert (found.held, found.shared, found.rows) == (0, 0, [])
    found.look(["x" * 20])
    assert found.shared == 0
    with pytest.raises(RuntimeError, match="before the first look"):
        found.hold(["x" * 20])


@pytest.mark.parametrize("length", [0, 65])
def test_a_run_has_a_length_that_can_be_searched(length: int) -> None:
    with pytest.raises(ValueError, match=r"1 to 64 characters \(found "):
        Runs(length)


def test_memory_of_runs_is_about_twenty_bytes_a_character() -> None:
    draw = random.Random(17)
    answers = [advert(draw, 300) for _ in range(1500)]
    found = Runs()
    tracemalloc.start()
    found.hold(answers)
    found.look(["x" * 20])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25 * 300 * 1500 + 4_000_000


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_of_nine_tenths_are_all_found_and_none_is_made_up(seed: int) -> None:
    draw = random.Random(seed)
    texts = [advert(draw, draw.randrange(20, 150)) for _ in range(150)]
    texts += [changed(draw, draw.choice(texts), draw.randrange(3)) for _ in range(100)]
    draw.shuffle(texts)
    expected = alike(texts)
    sets = [pieces(text, 5) for text in texts]
    close = {
        (one, other)
        for one, other in expected
        if len(sets[one] & sets[other]) >= 0.9 * len(sets[one] | sets[other])
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_EXAMPLES", 10_000)
        found = added(texts)
    assert close <= set(found.examples) <= expected
    assert found.complete
    assert found.pairs == len(found.examples) > 40
    assert found.rows == len({row for pair in found.examples for row in pair})
    assert added(texts, batch=7) == found._replace(examples=found.examples[:10])


def test_recall_is_what_is_promised() -> None:
    draw = random.Random(17)
    planted = [(text := advert(draw, 110), changed(draw, text, 2 + n % 2)) for n in range(1000)]
    texts = [text for pair in planted for text in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_EXAMPLES", 10_000)
        found = set(added(texts).examples)
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for number, (one, other) in enumerate(planted):
        mine, its = pieces(one, 5), pieces(other, 5)
        similarity = len(mine & its) / len(mine | its)
        if similarity >= 0.7:
            hits[similarity >= 0.8].append((2 * number, 2 * number + 1) in found)
    for high, each in hits.items():
        assert len(each) > 100
        assert sum(each) / len(each) > expected_recall(0.8 if high else 0.7) - 0.02
    assert 0.93 < expected_recall(0.7) < expected_recall(0.8) < expected_recall(1) == 1


def test_a_crowd_of_equal_texts_costs_one_comparison_each() -> None:
    texts = ["一条白色的裙子，很好看，也很舒适。"] * 3000
    read: list[int] = []
    kept = Near()
    kept.add(texts)
    found = kept.pairs(lambda row: read.append(row) or texts[row])  # type: ignore[func-returns-value]
    assert found.rows == 3000
    assert found.pairs >= 2999
    assert not found.complete
    assert len(read) < 3 * 3000


def test_comparing_ends_when_it_has_taken_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(17)
    text = advert(draw, 100)
    texts = [changed(draw, text, 1) for _ in range(400)]
    everything = added(texts)
    monkeypatch.setattr(near, "_PATIENCE", 2000)
    few = added(texts)
    assert not few.complete
    assert 0 < few.pairs < everything.pairs
    assert 0 < few.rows < everything.rows


def test_a_few_equal_texts_are_all_pairs() -> None:
    texts = ["一条白色的裙子，很好看。"] * 10 + ["别的话，说的是裤子和鞋。"] * 2
    found = added(texts)
    assert (found.pairs, found.rows, found.complete) == (45 + 1, 12, True)


def test_each_pair_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["一条白色的裙子，很好看。"] * 10
    monkeypatch.setattr(near, "_PATIENCE", 45 * 20 - 20 * len(texts) + 1)
    assert added(texts) == added(texts)._replace(pairs=45, rows=10, complete=True)
    monkeypatch.setattr(near, "_PATIENCE", 44 * 20 - 20 * len(texts))
    assert added(texts).pairs == 44


def test_texts_of_fewer_than_five_characters_are_left_out() -> None:
    assert added(["", "裙", "裙子好看"] * 200) == Found(0, 0, True, [])
    assert added(["裙子很好看", "", "裙子很好看"]) == Found(1, 2, True, [(0, 2)])
    assert added([]) == Found(0, 0, True, [])


def test_of_a_very_long_text_the_beginning_counts() -> None:
    draw = random.Random(17)
    start = advert(draw, 20_000)
    texts = [start + advert(draw, 50_000), start + advert(draw, 9), advert(draw, 60_000)]
    assert added(texts) == Found(1, 2, True, [(0, 1)])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.sampled_from(LETTERS), max_size=30), max_size=25))
def test_nothing_is_called_near_that_is_not(texts: list[str]) -> None:
    found = added(texts, batch=4)
    expected = alike(texts)
    assert set(found.examples) <= expected
    assert found.pairs <= len(expected)
    equal = {pair for pair in expected if pieces(texts[pair[0]], 5) == pieces(texts[pair[1]], 5)}
    assert found.pairs >= len(equal)


def test_memory_of_near_is_at_most_forty_bytes_a_text() -> None:
    draw = random.Random(17)
    batches = [[advert(draw, 60) for _ in range(2000)] for _ in range(3)]
    kept = Near()
    kept.add(batches[0])
    tracemalloc.start()
    for _ in range(5):
        for batch in batches:
            kept.add(batch)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 40 * 5 * 6000 + 50_000


@pytest.fixture(scope="module")
def adverts() -> dict[str, list[str]]:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data/advertisegen")
    read = {}
    for split in ("train", "dev"):
        with (SHARED / f"{split}.json").open(encoding="utf-8") as lines:
            read[split] = [json.loads(line)["summary"] for line in lines]
    return read


@pytest.mark.parametrize("length", [13, 20, 30])
def test_runs_of_real_adverts_are_those_that_sets_of_windows_share(
    adverts: dict[str, list[str]], length: int
) -> None:
    found = looked(adverts["dev"], adverts["train"], length, batch=2048)
    assert found.rows == sharing(adverts["dev"], adverts["train"], length)
    assert 0 < found.shared < len(adverts["dev"])


def test_near_duplicates_of_real_adverts_are_found(adverts: dict[str, list[str]]) -> None:
    texts = adverts["train"][:1200] + adverts["dev"]
    expected = alike(texts)
    found = added(texts)
    assert found.complete
    assert 0.9 * len(expected) <= found.pairs <= len(expected)
