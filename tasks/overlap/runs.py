"""Runs of characters that dev answers share with training answers: a sign that they were trained on.

The windows of the dev answers are held as one sorted array of 64-bit words, hash above place. Each
window of a training answer is first asked for in a table of bits, twice, which some 99 of 100 do not
pass, then looked up, then compared character by character: what is counted is there, and nothing is
missed. A window that has been found is closed and compared no more, so that time stays proportional
to the text: 2 µs an answer of 118 characters.

Memory is at most 8 million dev characters of about 17 bytes, whatever comes, beside the answers while
they wait: 20,000 rows of 300 characters take 100 MB, AdvertiseGen's 1,070 take 2 MB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.overlap.windows import CHUNK, Chunk, Flags, Hashes, Places, Windows, Words

_CHARACTERS = 8_000_000
_LONGEST_RUN = 64
_PLACE_BITS = 23
"""Of a held window's 64 bits so many say where it stands: enough for all held characters."""
_SECOND = np.uint64(0xF1357AEA2E62A9C5)
"""What makes a second hash of the first."""
_EXAMPLES = 10


class Runs:
    """Dev answers that share a run of `length` characters with a training answer.

    Hold all dev answers, then look at the training answers. The first `limit` dev answers are
    searched for, as far as memory is granted; `held` counts them.
    """

    def __init__(self, length: int = 13, limit: int = 20_000) -> None:
        if not 1 <= length <= _LONGEST_RUN:
            raise ValueError(f"a run has 1 to {_LONGEST_RUN} characters (found {length})")
        self.held = 0
        self.examples: list[tuple[int, str]] = []
        """Up to ten finds: the number of a dev answer, from 0 as they came, and a run that it shares."""
        self._windows, self._limit = Windows(length), limit
        self._answers: list[str] = []
        self._characters = 0
        self._index: _Index | None = None

    def hold(self, answers: Sequence[str]) -> None:
        """Take dev answers, in batches, all of them before the first look."""
        if self._index is not None:
            raise RuntimeError("hold every dev answer before the first look")
        for answer in answers:
            fits = self._characters + len(answer) <= _CHARACTERS
            taken = answer if fits and self.held < self._limit else None
            self._answers.append(taken or "")
            self._characters += len(taken or "")
            self.held += taken is not None

    def look(self, answers: Sequence[str]) -> None:
        """Search training answers, in batches, for what the dev answers hold."""
        if self._index is None:
            self._index = _Index(self._answers, self._windows)
            self._answers = []
        for chunk in self._windows.chunks(answers):
            self._index.look(chunk, self.examples)

    @property
    def shared(self) -> int:
        """Count the dev answers that share a run."""
        return len(self.rows)

    @property
    def rows(self) -> list[int]:
        """Return the numbers of the dev answers that share a run, from 0 as they came."""
        return np.flatnonzero(self._index.shared).tolist() if self._index else []


class _Index:
    """The windows of the dev answers, and which answers have been found."""

    def __init__(self, answers: Sequence[str], windows: Windows) -> None:
        self._windows = windows
        self._within = np.uint64(2**_PLACE_BITS - 1)
        self.shared: Flags = np.zeros(len(answers), np.bool_)
        self._hold(answers)
        self._held.sort()
        self._closed = np.zeros(len(self._held), np.bool_)
        self._sieve = _Sieve(16 * len(self._held))
        for at in range(0, len(self._held), CHUNK):
            keys = self._held[at : at + CHUNK] & ~self._within
            self._sieve.add(keys)
            self._sieve.add(keys * _SECOND)

    def _hold(self, answers: Sequence[str]) -> None:
        """Keep the characters, the hash and place of each window, and whose they are."""
        beyond = self._windows.length - 1
        lengths = [len(answer) for answer in answers if len(answer) > beyond]
        # the pieces of a long answer share characters
        shared = sum(beyond * ((length - beyond - 1) // (CHUNK - beyond)) for length in lengths)
        self._characters: Words = np.empty(sum(lengths) + shared, np.uint32)
        self._held: Hashes = np.empty(sum(lengths) - beyond * len(lengths), np.uint64)
        ends: list[Places] = [np.zeros(0, np.int64)]
        rows: list[Places] = [np.zeros(0, np.int64)]
        start = done = 0
        for chunk in self._windows.chunks(answers):
            inside = np.ones(len(chunk.characters), np.bool_)
            inside[(chunk.ends[:, None] - np.arange(1, beyond + 1)).ravel()] = False
            places = np.flatnonzero(inside)
            hashes = self._windows.hashes(chunk.characters)[places] & ~self._within
            self._held[done : done + len(places)] = hashes | (places + start).astype(np.uint64)
            self._characters[start : start + len(inside)] = chunk.characters
            ends.append(chunk.ends + start)
            rows.append(chunk.rows)
            start, done = start + len(inside), done + len(places)
        self._ends, self._rows = np.concatenate(ends), np.concatenate(rows)

    def look(self, chunk: Chunk, examples: list[tuple[int, str]]) -> None:
        """Mark the answers that share a window with these texts; add examples until they are enough."""
        places, first = self._candidates(chunk)
        if not len(places):
            return
        asked = _at(chunk.characters, places, self._windows.length)
        if len(np.unique(first)) < len(first):
            # one of each text is enough; a row of the matrix as one value makes them comparable
            seen = asked.view(np.dtype((np.void, asked.itemsize * asked.shape[1]))).ravel()
            _, one = np.unique(seen, return_index=True)
            asked, places, first = asked[one], places[one], first[one]
        last = np.searchsorted(self._held, self._held[first] | self._within, side="right")
        for place, row in self._mark(asked, first, last - first):
            if len(examples) < _EXAMPLES:
                at = int(places[place])
                examples.append((row, chunk.text[at : at + self._windows.length]))

    def _candidates(self, chunk: Chunk) -> tuple[Places, Places]:
        """Return windows of the chunk that may be held: where they stand, and where in `_held`."""
        hashes = self._windows.hashes(chunk.characters)
        places = np.flatnonzero(self._sieve.passes(hashes))
        keys = hashes[places] & ~self._within
        again = self._sieve.passes(keys * _SECOND)
        places, keys = places[again], keys[again]
        if not len(places):
            return places, places
        first = np.minimum(np.searchsorted(self._held, keys), len(self._held) - 1)
        open_ = ((self._held[first] ^ keys) <= self._within) & ~self._closed[first]
        places, first = places[open_], first[open_]
        end = chunk.ends[np.searchsorted(chunk.ends, places, side="right")]
        inside = places + self._windows.length <= end
        return places[inside], first[inside]

    def _mark(self, asked: Words, first: Places, count: Places) -> list[tuple[int, int]]:
        """Compare windows with all held ones of the same hash; return which found a new answer first."""
        until = np.cumsum(count)
        closes = np.ones(len(asked), np.bool_)
        finds: list[tuple[int, int]] = []
        for start in range(0, int(until[-1]), CHUNK):
            step = np.arange(start, min(start + CHUNK, int(until[-1])))
            which = np.searchsorted(until, step, side="right")
            held = self._held[first[which] + step - (until - count)[which]] & self._within
            places = held.astype(np.int64)
            same = (_at(self._characters, places, self._windows.length) == asked[which]).all(axis=1)
            closes[which[~same]] = False
            rows, one = np.unique(
                self._rows[np.searchsorted(self._ends, places[same], side="right")],
                return_index=True,
            )
            new = ~self.shared[rows]
            self.shared[rows] = True
            finds += zip(which[same][one[new]].tolist(), rows[new].tolist(), strict=True)
        self._closed[first[closes]] = True
        return finds


class _Sieve:
    """A table of bits that says of a hash that it was surely not added, by its first bits."""

    def __init__(self, room: int) -> None:
        width = min(27, max(16, room.bit_length()))
        self._shift = np.uint64(64 - width)
        self._bits = np.zeros(2 ** (width - 3), np.uint8)

    def add(self, hashes: Hashes) -> None:
        """Set a bit for each hash."""
        number = hashes >> self._shift
        bit = np.uint8(1) << (number.astype(np.uint8) & np.uint8(7))
        np.bitwise_or.at(self._bits, number >> np.uint64(3), bit)

    def passes(self, hashes: Hashes) -> Flags:
        """Say of each hash whether it may have been added."""
        number = hashes >> self._shift
        bit = number.astype(np.uint8) & np.uint8(7)
        byte = self._bits[(number >> np.uint64(3)).view(np.int64)]
        passing: Flags = ((byte >> bit) & np.uint8(1)).view(np.bool_)
        return passing


def _at(characters: Words, places: Places, length: int) -> Words:
    """Return the windows at the places, a row each: `(places, length)`."""
    windows: Words = np.lib.stride_tricks.sliding_window_view(characters, length)[places]
    return windows
