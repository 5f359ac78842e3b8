r"""Records of a table, and what is broken between them: one broken row costs one row.

A cell may hold line breaks, so one quote too many could swallow the rest of a file. The end of a record is
therefore looked for in at most LOOK_LINES lines and LOOK_CHARACTERS characters. When it is not there, or stands
where no cell can end, the lines looked at decide how much is given up:

* most of them are rows by themselves: the quote was a stray one. Its line is the broken row, and reading goes on
  with the very next line; up to where it had looked, a quote inside an unquoted cell is no longer taken for text;
* most of them are not: they are lines of the one broken row, and go with it, at most BELONG_LINES of them.

Looking ahead is paid for with characters that were read: `_EARNED` for each, `_START` to begin with. So a file in
which every line opens a quote takes time proportional to its size.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator

from tasks.errors import DataError
from tasks.rows import MAX_ROW, Bad, Row, clip

LOOK_LINES = 1_000
LOOK_CHARACTERS = 1 << 20
BELONG_LINES = 100

_START, _EARNED = 4 * LOOK_CHARACTERS, 4
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _TooFar(Exception):
    """The record goes on beyond what may be looked at, or begins with a line that is too long."""


def physical(texts: Iterator[str]) -> Iterator[str]:
    r"""Yield whole lines that end in \r\n, \n or \r, from lines or from pieces of lines.

    A line longer than MAX_ROW is cut, but stays longer than MAX_ROW.
    """
    begun: list[str] = []
    size = 0
    for text in texts:
        last = len(text) - 1
        if not begun and 0 <= last == text.find("\n") and text.find("\r", 0, last - 1) < 0:
            yield text
            continue
        for piece in _LINE.findall(text):
            if begun and begun[-1].endswith("\r") and piece != "\n":
                yield "".join(begun)
                begun, size = [], 0
            begun.append(piece if size <= MAX_ROW else piece[len(piece.rstrip("\r\n")) :])
            size += len(piece)
            if piece.endswith("\n"):
                yield "".join(begun)
                begun, size = [], 0
    if begun:
        yield "".join(begun)


class Feed:
    """Lines for csv, one record at a time; what a record took can be given back."""

    def __init__(self, lines: Iterator[str]):
        self._lines = lines
        self._back: deque[str] = deque()
        self.taken: list[str] = []
        """Lines of the record that is being read."""
        self.number = 1
        """Line at which it begins."""
        self.ended = False
        self._looked = self._read = self._spent = 0

    def peek(self, lines: int, characters: int) -> list[str]:
        """Return the first lines, before any of them is taken."""
        while len(self._back) < lines and characters > 0 and (line := next(self._lines, "")):
            self._back.append(line)
            characters -= len(line)
        return list(self._back)

    def skip(self) -> None:
        """Pass over one line."""
        next(self.lines())
        self.settle()

    def lines(self) -> Iterator[str]:
        """Yield the lines that follow, and note them as taken.

        Raises:
            _TooFar: The next line does not belong to this record any more; it is not taken.
        """
        taken, back, lines = self.taken, self._back, self._lines
        self.ended = False
        while True:
            line = back.popleft() if back else next(lines, "")
            if not line:
                self.ended = True
                return
            if taken or len(line) > MAX_ROW:
                self._look(line)
            taken.append(line)
            yield line

    def _look(self, line: str) -> None:
        if not self.taken:
            self.taken.append(line)
            raise _TooFar
        self._looked = len(line) + (self._looked if len(self.taken) > 1 else 0)
        room = min(LOOK_CHARACTERS, _START + _EARNED * self._read - self._spent)
        if len(self.taken) > LOOK_LINES or self._looked > room:
            self._back.appendleft(line)
            raise _TooFar

    def look_for_quote(self) -> bool:
        """Take lines up to the next with an odd number of quotes, and say whether there is one."""
        try:
            return any(_odd(line) for line in self.lines())
        except _TooFar:
            return False

    def give_back(self, kept: int) -> None:
        """Take no more than the first `kept` lines of the record."""
        self._back.extendleft(reversed(self.taken[kept:]))
        self._spent += sum(map(len, self.taken[kept:]))
        del self.taken[kept:]

    def settle(self) -> None:
        """Be done with the lines taken."""
        taken = self.taken
        self.number += len(taken)
        for line in taken:
            self._read += len(line)
        taken.clear()


class Records:
    """Rows under a header, and the broken ones."""

    def __init__(self, feed: Feed, delimiter: str, names: tuple[str, ...] = ()):
        # of the whole process, 128 KiB otherwise; only ever raised
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW + LOOK_CHARACTERS))
        self._feed, self._names = feed, names
        # a dialect that exists is not checked again by each reader
        self._dialect = csv.reader([], delimiter=delimiter, strict=True).dialect
        cell = rf'(?:"[^"]*+(?:""[^"]*+)*+"|[^"{re.escape(delimiter)}\r\n]*+)'
        self._clean = re.compile(rf"{cell}(?:{re.escape(delimiter)}{cell})*+(?:\r\n|\r|\n)?")
        self._wary = 0  # up to this line a quote inside an unquoted cell is not taken for text

    def header(self, name: str) -> list[str]:
        """Read the first record that is not blank.

        Raises:
            DataError: There is none, or it is broken.
        """
        feed = self._feed
        try:
            for cells in csv.reader(feed.lines(), self._dialect):
                text = "".join(feed.taken)
                if not text.strip():
                    feed.settle()
                    continue
                if _SURROGATE.search(text):
                    raise DataError(
                        f"{name}:{feed.number}: the header cannot be decoded (found: {clip(text)}). "
                        "Say data.encoding, or mend the header."
                    )
                feed.settle()
                return cells
        except (csv.Error, _TooFar) as reason:
            found = str(reason) or f"{len(feed.taken)} lines without the end of a cell"
            raise DataError(
                f"{name}:{feed.number}: the header cannot be read as CSV (found: {found}). "
                "Mend its quotes, or say data.container and data.delimiter."
            ) from reason
        raise DataError(f"{name}: no header (found an empty table). Give a file with rows.")

    def rows(self) -> Iterator[Row | Bad]:
        """Yield every record after the header."""
        feed, taken, names, width = self._feed, self._feed.taken, self._names, len(self._names)
        while True:
            try:
                for cells in csv.reader(feed.lines(), self._dialect):
                    if (
                        len(cells) == width
                        and len(taken) == 1
                        and feed.number > self._wary
                        and _decoded(taken[0])
                    ):
                        yield Row(feed.number, dict(zip(names, cells, strict=True)), taken[0])
                    elif found := self._judge(cells):
                        yield found
                    feed.settle()
                return
            except (csv.Error, _TooFar) as reason:
                found = self._mend(reason)
            yield found
            feed.settle()

    def _judge(self, cells: list[str]) -> Row | Bad | None:
        """Return what a record that csv could read is; None for a blank line."""
        feed, width = self._feed, len(self._names)
        text, fits = "".join(feed.taken), len(cells) == width
        counted = f"a row must have {width} cells, as the header (found: {len(cells)})"
        clean = fits and self._clean.fullmatch(text) is not None
        if len(feed.taken) > 1 and not clean:
            return self._split("quote" if fits else "cells", counted, ended=True)
        if not cells or (not text.strip() and len(cells) < width):
            return None
        if not fits:
            return Bad(feed.number, "cells", counted, clip(text))
        if feed.number <= self._wary and not clean:
            what = "a quote inside a cell that is not quoted (found: one, after a broken row)"
            return Bad(feed.number, "quote", what, clip(text))
        if lost := _SURROGATE.search(text):
            what = (
                f"text that cannot be decoded (found: {_byte(lost[0])} at character {lost.start()})"
            )
            return Bad(feed.number, "encoding", what, clip(text))
        return Row(feed.number, dict(zip(self._names, cells, strict=True)), text)

    def _mend(self, reason: Exception) -> Bad:
        """Return the broken row that csv, or looking ahead, stopped at."""
        feed = self._feed
        if len(feed.taken[0]) > MAX_ROW:
            what = f"a row may have {MAX_ROW:,} characters (found: more)"
            return Bad(feed.number, "too-long", what, clip(feed.taken[0]))
        if isinstance(reason, _TooFar) or feed.ended:
            what = f"an opening quote is not closed (found: no end in {len(feed.taken)} lines)"
            return self._split("quote", what, ended=False)
        where = feed.number + len(feed.taken) - 1
        what = f"text follows a closing quote (found: in line {where})"
        # an odd number of quotes leaves a cell open: its other lines are not rows either
        ended = not _odd("".join(feed.taken)) or feed.look_for_quote()
        return self._split("quote", what, ended)

    def _split(self, code: str, what: str, ended: bool) -> Bad:
        """Give back the lines that are not of the broken row."""
        feed = self._feed
        rest = feed.taken[1:]
        beyond = len(rest) > BELONG_LINES or not (ended or feed.ended)
        standing = [] if beyond else [self._stands(line) for line in rest if line.strip()]
        kept = len(feed.taken)
        if beyond or 2 * sum(standing) > len(standing):
            kept, code = 1, "quote"
        elif ended and standing and standing[-1]:
            kept -= 1
        if kept < len(feed.taken):
            self._wary = feed.number + len(rest)
            feed.give_back(kept)
        if kept > 1:
            what = f"{what[:-1]}; lines {feed.number} to {feed.number + kept - 1} belong together)"
        return Bad(feed.number, code, what, clip("".join(feed.taken)))

    def _stands(self, line: str) -> bool:
        """Say whether a line is a row by itself, or the first line of one."""
        if self._clean.fullmatch(line):
            return self._width(line) == len(self._names)
        closed = f'{line}"'
        return self._clean.fullmatch(closed) is not None and self._width(closed) <= len(self._names)

    def _width(self, line: str) -> int:
        return len(next(csv.reader([line], self._dialect)))


def _odd(text: str) -> bool:
    return text.count('"') % 2 == 1


def _decoded(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _byte(mark: str) -> str:
    code = ord(mark)
    return f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
