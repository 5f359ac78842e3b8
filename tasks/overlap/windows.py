"""Hashes of all windows of some texts, a chunk of texts at a time.

The hash of a window is Σ c_i b^i mod 2^64 over its characters, taken from prefix sums: four passes of
numpy, whatever the length of the window. The texts of a chunk lie side by side; a window that reaches
over the end of its text is known by its place, and it is for the caller to leave it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Words = NDArray[np.uint32]
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]

CHUNK = 2**15
"""Characters in a chunk, up to twice as many: its arrays of 8 bytes a character stay in the cache."""
_BASE = 0xD1342543DE82EF95
"""Odd, so that its powers have inverses mod 2^64."""


class Chunk(NamedTuple):
    """Texts side by side.

    `characters: (n,)` code points; `ends: (texts,)` where each text ends; `rows: (texts,)` its number.
    """

    text: str
    characters: Words
    ends: Places
    rows: Places


class Windows:
    """Hashes of windows of one length."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._powers = powers(_BASE, 2 * CHUNK)
        # times the base once more: else windows that differ in their first character alone share their high bits
        self._inverses = powers(pow(_BASE, -1, 2**64), 2 * CHUNK) * np.uint64(_BASE)
        self._sums = np.zeros(2 * CHUNK + 1, np.uint64)
        self._found = np.zeros(2 * CHUNK, np.uint64)

    def hashes(self, characters: Words) -> Hashes:
        """Return the hash of the window at each place: `(n - length + 1,)`, good until the next call."""
        count = len(characters)
        found = np.multiply(characters, self._powers[:count], out=self._found[:count])
        np.cumsum(found, out=self._sums[1 : count + 1])
        found = found[: count - self.length + 1]
        np.subtract(self._sums[self.length : count + 1], self._sums[: len(found)], out=found)
        found *= self._inverses[: len(found)]
        return found

    def chunks(self, texts: Sequence[str], first: int = 0) -> Iterator[Chunk]:
        """Yield the texts of at least one window, numbered from `first`.

        A text longer than a chunk is cut into pieces that share length - 1 characters: each of its
        windows is in exactly one piece.
        """
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        numbers = np.arange(first, first + len(texts))
        if len(texts) and (lengths.min() < self.length or lengths.max() > CHUNK):
            texts, numbers = self._fitting(texts, first)
            lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.cumsum(lengths)
        start = done = 0
        while start < len(texts):
            # a text belongs to the chunk in which it begins, so that a chunk is under twice its size
            stop = int(np.searchsorted(ends, done + CHUNK)) + 1
            yield _side_by_side(texts[start:stop], ends[start:stop] - done, numbers[start:stop])
            done, start = int(ends[min(stop, len(ends)) - 1]), stop

    def _fitting(self, texts: Sequence[str], first: int) -> tuple[list[str], Places]:
        """Leave out what is too short, and cut what is too long."""
        pieces = [
            (piece, number)
            for number, text in enumerate(texts, first)
            if len(text) >= self.length
            for piece in ((text,) if len(text) <= CHUNK else self._cut(text))
        ]
        return [piece for piece, _ in pieces], np.array([row for _, row in pieces], np.int64)

    def _cut(self, text: str) -> Iterator[str]:
        for start in range(0, len(text) - self.length + 1, CHUNK - self.length + 1):
            yield text[start : start + CHUNK]


def powers(base: int, count: int) -> Hashes:
    """Return base^0, base^1, … mod 2^64."""
    steps = np.full(count, base, np.uint64)
    steps[0] = 1
    return np.multiply.accumulate(steps)


def _side_by_side(texts: Sequence[str], ends: Places, rows: Places) -> Chunk:
    text = "".join(texts)
    encoded = text.encode("utf-32-le", "surrogatepass")
    return Chunk(text, np.frombuffer(encoded, "<u4"), ends, rows)
