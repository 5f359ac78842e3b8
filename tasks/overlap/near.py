"""Near-duplicates: texts that say nearly the same, such as an advert with one word changed.

Near means a Jaccard similarity of at least 0.7 between the sets of 5-character pieces of two texts.
Kept of each text are 7 words of 32 bits, each from 3 min-hashes, and one word with 2 bits of each of
16 min-hashes: 32 bytes. Two texts with an equal word, and enough equal bits, are compared exactly.
With probability s^3 texts of similarity s agree in one word; `expected_recall` puts it together: 0.93
at 0.7, 0.99 at 0.8. 2 µs a text of 118 characters; AdvertiseGen's rows have next to nothing to compare.

Texts of fewer than 5 characters are left out; of a text only the first 20,000 characters count. Where
more than 50 texts agree in a word, each is compared with the next one only, and comparing ends after
as many characters as could be read in some seconds. Then `Found.complete` is false, and the counts
are lower bounds.

Source: Broder 1997, "On the resemblance and containment of documents".
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tasks.overlap.windows import Flags, Hashes, Places, Windows, Words, powers

_PIECE = 5
_LONGEST = 20_000
_BANDS = 7
_IN_BAND = 3
_BITS = 16
"""Min-hashes of which two bits are kept."""
_ENOUGH = 9
"""Of these so many must agree."""
_CROWD = 50
_PATIENCE = 10_000_000
"""Characters compared at most, and 20 more for each text: a second or two."""
_AT_ONCE = 2**12
"""Texts of which the pairs are listed at once."""
_KEPT = 50_000
"""Characters of texts whose pieces are kept: some 7 MB."""
_ODD = 0xBEA225F9EB34556D
_EXAMPLES = 10


class Found(NamedTuple):
    """Near-duplicates among some texts."""

    pairs: int
    rows: int
    """Texts that are in a pair."""
    complete: bool
    """Whether every candidate was compared; if not, there are at least so many."""
    examples: list[tuple[int, int]]
    """Up to ten pairs, by the numbers of their texts, from 0 as they came."""


def expected_recall(similarity: float) -> float:
    """Return the share of the pairs of a similarity, 0 to 1, that become candidates."""
    banded = 1 - (1 - similarity**_IN_BAND) ** _BANDS
    equal = similarity + (1 - similarity) / 4
    enough = sum(
        math.comb(_BITS, count) * equal**count * (1 - equal) ** (_BITS - count)
        for count in range(_ENOUGH, _BITS + 1)
    )
    return banded * enough


class Near:
    """Counts near-duplicates among all the texts that it is given."""

    def __init__(self) -> None:
        self.texts = 0
        self._windows = Windows(_PIECE)
        self._words = [array("I") for _ in range(_BANDS + 1)]
        odd = powers(_ODD, 2 * _BANDS * _IN_BAND + 1)[1:]
        self._joiners: Hashes = odd[::2].reshape(_BANDS, _IN_BAND, 1)
        self._mixers: Words = (odd[1::2] >> np.uint64(32)).astype(np.uint32) | np.uint32(1)

    def add(self, texts: Sequence[str]) -> None:
        """Take texts, in batches; they are numbered from 0 as they come."""
        # words that no text has, for those that are too short
        numbers = np.arange(self.texts, self.texts + len(texts), dtype=np.uint64)
        words = np.empty((_BANDS + 1, len(texts)), np.uint32)
        words[:] = (numbers * self._joiners[0, 0, 0]) >> np.uint64(32)
        for chunk in self._windows.chunks([text[:_LONGEST] for text in texts]):
            least = self._least(self._windows.hashes(chunk.characters), chunk.ends)
            words[:-1, chunk.rows] = self._bands(least)
            words[-1, chunk.rows] = _bits(least)
        for kept, new in zip(self._words, words, strict=True):
            kept.frombytes(new.tobytes())
        self.texts += len(texts)

    def _least(self, hashes: Hashes, ends: Places) -> Words:
        """Return the least hash of each text in each of the orders: `(orders, texts)`."""
        pieces = (hashes >> np.uint64(32)).astype(np.uint32)
        # a window over the end of a text counts as the text's last
        beyond = ends[:-1, None] - np.arange(1, _PIECE)
        pieces[beyond] = pieces[ends[:-1] - _PIECE][:, None]
        starts = np.concatenate([[0], ends[:-1]])
        least = np.empty((len(self._mixers), len(ends)), np.uint32)
        mixed = np.empty_like(pieces)
        for order, mixer in enumerate(self._mixers):
            np.multiply(pieces, mixer, out=mixed)
            np.minimum.reduceat(mixed, starts, out=least[order])
        return least

    def _bands(self, least: Words) -> Words:
        parts: Hashes = least.reshape(_BANDS, _IN_BAND, -1) * self._joiners
        joined: Hashes = parts.sum(axis=1)
        return (joined >> np.uint64(32)).astype(np.uint32)

    def pairs(self, text_of: Callable[[int], str]) -> Found:
        """Compare what may be near; `text_of` returns a text again by its number."""
        *bands, bits = [np.frombuffer(words, np.uint32) for words in self._words]
        judge = _Judge(text_of, self.texts)
        crowds: list[Words] = []
        for band, words in enumerate(bands):
            order = words.astype(np.uint64)
            order <<= np.uint64(32)
            order |= np.arange(self.texts, dtype=np.uint32)
            order.sort()
            starts, sizes = _groups(order)
            crowds.append((order[starts[sizes > _CROWD]] >> np.uint64(32)).astype(np.uint32))
            judge.complete &= not len(crowds[band])
            for left, right, crowded in _neighbours(order, starts, sizes):
                new = _agree(bits[left], bits[right])
                for earlier, crowd in zip(bands[:band], crowds, strict=False):
                    word = earlier[left]
                    new &= (word != earlier[right]) | (
                        np.isin(word, crowd) if len(crowd) else False
                    )
                judge.compare(left[new], right[new], crowded[new])
                if judge.is_tired:
                    return judge.found()
        return judge.found()


def _bits(least: Words) -> Words:
    """Return two bits of each of the first min-hashes, side by side: `(texts,)`."""
    shifts = np.arange(0, 2 * _BITS, 2, dtype=np.uint32)[:, None]
    bits: Words = np.bitwise_or.reduce((least[:_BITS] & np.uint32(3)) << shifts, axis=0)
    return bits


def _agree(left: Words, right: Words) -> Flags:
    """Say which pairs have enough bits in common."""
    other = left ^ right
    unequal = np.bitwise_count((other | other >> np.uint32(1)) & np.uint32(0x55555555))
    enough: Flags = unequal <= _BITS - _ENOUGH
    return enough


def _groups(order: Hashes) -> tuple[Places, Places]:
    """Return where the groups of an equal word begin in the sorted order, and their sizes above 1."""
    repeats = np.concatenate(
        [np.zeros(0, np.int64)]
        + [
            start
            + np.flatnonzero((order[start + 1 :][:_AT_ONCE] ^ order[start:-1][:_AT_ONCE]) < 2**32)
            for start in range(0, len(order) - 1, _AT_ONCE)
        ]
    )
    first = np.flatnonzero(np.diff(repeats, prepend=-2) != 1)
    return repeats[first], np.diff(first, append=len(repeats)) + 1


def _neighbours(
    order: Hashes, starts: Places, sizes: Places
) -> Iterator[tuple[Places, Places, Flags]]:
    """Yield pairs of texts with an equal word, and whether each is of a crowd: all, or the next only."""
    until = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        end = int(np.searchsorted(until, until[begin] + _AT_ONCE)) + 1
        some, count = starts[begin:end], sizes[begin:end]
        inner = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        place = np.repeat(some, count) + inner
        ahead = np.repeat(count, count) - inner
        crowded = np.repeat(count > _CROWD, count)
        near = [
            np.flatnonzero((ahead > distance) & (~crowded | (distance == 1)))
            for distance in range(1, min(_CROWD, int(count.max())))
        ]
        left = np.concatenate(near)
        by_group = np.argsort(left, kind="stable")
        right = place[left] + np.repeat(np.arange(1, len(near) + 1), [len(one) for one in near])
        left, right = left[by_group], right[by_group]
        yield _rows(order[place[left]]), _rows(order[right]), crowded[left]
        begin = end


def _rows(words: Hashes) -> Places:
    return (words & np.uint64(2**32 - 1)).astype(np.int64)


class _Judge:
    """Compares texts, each pair exactly, and counts."""

    def __init__(self, text_of: Callable[[int], str], texts: int) -> None:
        self.complete = True
        self._text_of = text_of
        self._texts: dict[int, str] = {}
        self._sets: dict[int, set[str]] = {}
        self._characters = 0
        self._involved = np.zeros(texts, np.bool_)
        self._pairs = array("Q")
        self._patience = _PATIENCE + 20 * texts

    @property
    def is_tired(self) -> bool:
        """Say whether enough has been compared."""
        return self._patience <= 0

    def compare(self, left: Places, right: Places, crowded: Flags) -> None:
        """Compare the texts of each pair; in a crowd not those that are known to be near others."""
        needless = crowded & self._involved[left] & self._involved[right]
        for one, other in zip(left[~needless].tolist(), right[~needless].tolist(), strict=True):
            if self.is_tired:
                return
            if self._near(one, other):
                self._pairs.append(one << 32 | other)
                self._involved[one] = self._involved[other] = True

    def _near(self, one: int, other: int) -> bool:
        first, second = self._text(one), self._text(other)
        self._patience -= 20
        if first == second:
            return len(first) >= _PIECE
        self._patience -= len(first) + len(second)
        mine, its = self._pieces(one, first), self._pieces(other, second)
        shared = len(mine & its)
        return shared > 0 and 10 * shared >= 7 * (len(mine) + len(its) - shared)

    def _text(self, row: int) -> str:
        """Return a text; the last ones are kept, as a text is compared with several."""
        text = self._texts.get(row)
        if text is None:
            text = self._text_of(row)[:_LONGEST]
            self._characters += len(text)
            if self._characters > _KEPT:
                self._texts, self._sets, self._characters = {}, {}, len(text)
            self._texts[row] = text
        return text

    def _pieces(self, row: int, text: str) -> set[str]:
        if row not in self._sets:
            last = len(text) - _PIECE
            self._sets[row] = {text[start : start + _PIECE] for start in range(last + 1)}
        return self._sets[row]

    def found(self) -> Found:
        """Return the counts; a pair that was met twice counts once."""
        pairs = np.unique(np.frombuffer(self._pairs, np.uint64))
        examples = [(pair >> 32, pair & 2**32 - 1) for pair in pairs[:_EXAMPLES].tolist()]
        complete = self.complete and not self.is_tired
        return Found(len(pairs), int(self._involved.sum()), complete, examples)
