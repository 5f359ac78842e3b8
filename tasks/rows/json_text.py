"""Rows of JSON text in whatever layout: lines, arrays, pretty-printed or on one line, concatenated, with comments.

Everything between objects that only separates them is skipped: blanks, commas, brackets, comments, byte-order marks.
While rows stand on a line each, a line is given to orjson as it is; all else is followed bracket by bracket.

One broken row costs one row. Where an object breaks off, reading goes on at the next place that looks like the
beginning of a row (`json_layout.py`):

* an object that begins a line, indented no deeper than the broken one;
* where rows share a line or are not indented, an object whose first two names are those of a row so far (of the
  broken row, before there is one; an object after `},` if its name cannot be read either).

The text in between goes with the broken row. The second rule is not used while rows stand on a line each, so what is
nested in a broken row does not become a row. An object with other text behind it on its line is no row either.

Work is proportional to the file, also where a file was written to cost more: an object that is found open when an
outer one breaks is known to be broken too (`_doomed`), and once more than `_WORK` times what was read has been
followed, reading goes on behind what was followed. MAX_ROW and two chunks are the most that is held.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Generator, Iterator

import orjson

from tasks.rows import DEPTH, MAX_ROW, RAW_CHARACTERS, Bad, Row, clip
from tasks.rows.json_grammar import VALUE, Walk, Wrong, goes_on, parse, undecodable
from tasks.rows.json_layout import Layout
from tasks.rows.json_window import AHEAD, CHUNK, Window

_WORK = 16
_TRAIL = 256
_HEAD = 4 * RAW_CHARACTERS
_BRACE = ord("{")
_FOLLOWING = re.compile(rb"[ \t]{0,64}+(,?+)[ \t]{0,64}+")
_VALUES = re.compile(rb"(?:(?:" + VALUE + rb")[ \t]*+(?:[,\]][ \t,\]]*+|(?=[\r\n])|\Z))*+")
_CLOSED_TWICE = re.compile(rb"\}[ \t,\]}]*+(?=[\r\n{]|\Z)")
_LINE_END = re.compile(rb"[\r\n]")


def rows(chunks: Iterator[bytes]) -> Iterator[Row | Bad]:
    """Yield every row of a JSON text, and every place where there should be one.

    Args:
        chunks: UTF-8 in pieces of any size; what is not valid UTF-8 costs its row.
    """
    return Reader(chunks).rows()


class Reader:
    """Reads rows one after another; its window and its work can be looked at."""

    def __init__(self, chunks: Iterator[bytes], chunk: int = CHUNK):
        self.window = Window(chunks, chunk)
        self.walked = 0
        """Bytes that were followed bracket by bracket, each time they were."""
        self._layout = Layout()
        self._doomed: set[int] = set()  # where broken objects begin, in the whole text
        self._no_remark_ends = 0  # up to here, in the whole text, no comment ends
        self._no_line_ends = 0  # nor a line

    def rows(self) -> Iterator[Row | Bad]:
        """Yield rows and broken rows in their order."""
        window, layout = self.window, self._layout
        while window.reach():
            if window.text[window.at] == _BRACE:
                if layout.plain and window.base + window.at >= self._no_line_ends:
                    other = yield from self._lines()
                    if not other:
                        continue
                yield self._object()
            elif not self._skip_comment():
                yield self._loose()

    def _lines(self) -> Generator[Row, None, bool]:
        """Read rows that stand on a line each; return whether the next line holds something else."""
        window, loads, value, other = self.window, orjson.loads, None, True
        make = tuple.__new__  # half the time of calling Row
        text, at, line, newline = window.text, window.at, window.line_at(window.at), window.newline
        while text[at : at + 1] == b"{":
            end = text.find(newline, at, at + MAX_ROW + 1)
            if end < 0:
                if window.ended or len(text) - at >= window.chunk:
                    self._no_line_ends = window.base + len(text)
                    break
                window.move(at, line)
                window.more(at)
                text, at = window.text, window.at
                continue
            raw = text[at:end]
            if (b"[" in raw or raw.find(b"{", 1) > 0) and _perhaps_deep(raw):
                break
            try:
                value = loads(raw)
            except orjson.JSONDecodeError:
                break
            yield make(Row, (line, value, raw))
            line += 1
            at = end + 1
        else:
            other = False
        window.move(at, line)
        if value is not None:
            self._layout.learn(value, by_line=True, plain=True, follows=False)
        return other

    def _object(self) -> Row | Bad:
        """Read the object that begins here, whatever lines it spans."""
        window = self.window
        if window.base + window.at in self._doomed:
            return self._broken("unterminated", "the object is not closed (found: another in it)")
        walk = Walk(window.at)
        state: str
        while (state := walk.on(window.text, window.ended)) == "partial" and not window.ended:
            if len(window.text) - window.at > MAX_ROW:
                state = "too-long"
                break
            if window.more(window.at):
                self.walked += walk.at - window.at
                walk = Walk(window.at)
        self.walked += walk.at - window.at
        return self._whole(walk.at) if state == "whole" else self._fallen(walk, state)

    def _whole(self, end: int) -> Row | Bad:
        """Read the object that ends before `end`."""
        window = self.window
        if len(window.text) - end < _TRAIL and not window.ended:
            end -= window.more(window.at)
        following = _FOLLOWING.match(window.text, end)
        comma, after = (following[1], following.end()) if following else (b"", end)
        then = window.text[after : after + 1]
        if then not in b"{]\r\n/" and not comma and not window.text.startswith(BOM_UTF8, after):
            found = _snippet(window.text, end)
            return self._broken("not-json", f"text after the object (found: {found})", end)
        raw, line = window.text[window.at : end], window.line_at(window.at)
        window.at = end
        if len(raw) > MAX_ROW:
            return Bad(line, "too-long", _too_long(len(raw)), clip(raw))
        try:
            value = parse(raw)
        except Wrong as wrong:
            return Bad(line, wrong.code, wrong.reason, clip(raw))
        by_line = then in b"\r\n" and b"\n" not in raw and b"\r" not in raw
        self._layout.learn(value, by_line, by_line and not comma, follows=then == b"{")
        return Row(line, value, raw)

    def _fallen(self, walk: Walk, state: str) -> Bad:
        """Give up the object that could not be followed to its end."""
        window = self.window
        opened = walk.opened[1:]
        if state in ("too-long", "deep"):
            # the last row that has begun may be well; those around it did not end before it began
            starts = self._layout.starts(window).finditer(
                window.text, window.at + 1, walk.at + 1024
            )
            opened = [brace for each in starts if (brace := each.end() - 1) in walk.opened][:-1]
        self._doomed = {brace for brace in self._doomed if brace > window.base + window.at}
        self._doomed.update(window.base + brace for brace in opened)
        tired = self.walked > _WORK * (window.base + window.at) + 4 * MAX_ROW
        after = walk.at if tired else window.at + 1
        found = _snippet(window.text, walk.at)
        told = {
            "too-long": ("too-long", ""),
            "deep": ("too-deep", f"a row may be nested {DEPTH} deep (found: more)"),
            "partial": ("unterminated", "the object is not closed (found: the end of the file)"),
        }
        place = f"from byte {walk.at - window.at} of the row on"
        code, reason = told.get(state, ("not-json", f"not JSON {place} (found: {found})"))
        return self._broken(code, reason, after)

    def _broken(
        self, code: str, reason: str, after: int = 0, until: re.Pattern[bytes] | None = None
    ) -> Bad:
        """Give up what begins here, and go to where the next row begins."""
        window, layout = self.window, self._layout
        after = after or window.at + 1
        if len(window.text) - window.at < AHEAD and not window.ended:
            after -= window.more(window.at)
        line, start = window.line_at(window.at), window.base + window.at
        raw = window.text[window.at : window.at + _HEAD]
        late = _LINE_END if layout.lines else None
        window.seek(until or layout.starts(window), after, late)
        size = window.base + window.at - start
        raw = raw[:size]
        if code == "too-long":
            reason = _too_long(size)
        try:
            raw.decode()
        except UnicodeDecodeError as broken:
            if code == "not-json" and broken.start < len(raw) - 3:
                code, reason = "encoding", undecodable(raw, broken.start)
        return Bad(line, code, reason, clip(raw.rstrip(b" \t\r\n,") if size < _HEAD else raw, size))

    def _loose(self) -> Bad:
        """Give up what is no object: values up to the end of the line, or text that is no JSON at all."""
        window = self.window
        while True:
            values = _VALUES.match(window.text, window.at)
            end = values.end() if values else window.at
            long = len(window.text) - window.at > MAX_ROW
            if window.ended or long or not goes_on(window.text, end):
                break
            window.more(window.at)
        found = _snippet(window.text, window.at)
        if closers := _CLOSED_TWICE.match(window.text, window.at):
            end = closers.end()
        elif end == window.at:
            until = self._layout.end_of_loose(window)
            return self._broken("not-json", f"not an object (found: {found})", until=until)
        raw, line = window.text[window.at : end], window.line_at(window.at)
        window.at = end
        try:
            orjson.loads(b"[" + raw.strip(b" \t,]") + b"]")
        except orjson.JSONDecodeError:
            return Bad(line, "not-json", f"not an object (found: {found})", clip(raw))
        return Bad(line, "not-an-object", f"a row must be an object (found: {found})", clip(raw))

    def _skip_comment(self) -> bool:
        """Go behind the comment that begins here, if one does and ends."""
        window = self.window
        if window.text.startswith(b"//", window.at):
            window.seek(_LINE_END, window.at, None)
            return True
        if not window.text.startswith(b"/*", window.at):
            return False
        look = max(window.at + 2, self._no_remark_ends - window.base)
        while (end := window.text.find(b"*/", look)) < 0 and not window.ended:
            look = max(look, len(window.text) - 1)
            if look - window.at > MAX_ROW:
                break
            look -= window.more(window.at)
        if end < 0:
            self._no_remark_ends = window.base + max(look, len(window.text) - 1)
            return False
        window.at = end + 2
        return True


def _perhaps_deep(raw: bytes) -> bool:
    return raw.count(b"{") + raw.count(b"[") > DEPTH


def _snippet(text: bytes, at: int) -> str:
    line = _LINE_END.split(text[at : at + 120], maxsplit=1)[0].decode("utf-8", "replace")[:30]
    if line:
        return repr(line)
    return "the end of the line" if at < len(text) else "the end of the file"


def _too_long(size: int) -> str:
    return f"a row may have {MAX_ROW} bytes (found: {size})"
