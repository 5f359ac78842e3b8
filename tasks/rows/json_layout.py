"""Where the next row begins after a broken one, judged by how the rows so far were laid out."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import islice
from typing import Any

from tasks.rows.json_grammar import GAP, TEXT
from tasks.rows.json_window import AHEAD, BEHIND, Window

_PAIRS, _NAME_BYTES = 8, 100
_BEFORE_ROW = re.compile(rb"([ \t]*+)[,\[\]}]?+(?:[ \t,\[\]}]|\xef\xbb\xbf)*+")
_SPACE = rb"[ \t\r\n]{0,64}+"
_SHORT = rb"""(?:(?:"(?:[^"\\\r\n]|\\[^\r\n]){0,256}+"|'[^'\r\n]{0,256}+')|[-+.\w]{1,64}+)"""
# As much of it as can be read: one of its quotes may be what is missing.
_OWN = re.compile(
    b"(?:\\{" + GAP + rb"""){0,4}+["']?+((?:[^"':,{}\[\]\\\r\n]|\\[^\r\n]){1,100}+)"""
    rb'(?:"%b:%b%b%b,%b"((?:[^"\\\r\n]|\\[^\r\n]){1,100}+)"[ \t]{0,16}+:)?+'
    % (_SPACE, _SPACE, _SHORT, _SPACE, _SPACE)
)
_MEMBER = re.compile(TEXT + rb"[ \t]{0,16}+:")
_LINE_END = re.compile(rb"[\r\n]")
_LINE_OR_NEXT = re.compile(rb"[\r\n]|\}[ \t]{0,64}+,[ \t]{0,64}+\{")
_NEXT = rb"\}[ \t]{0,64}+[,\r\n][ \t\r\n]{0,64}+\{"
_FIRST_NEXT, _IN_LIST = re.compile(_NEXT), re.compile(rb"\[[ \t\r\n]{0,64}+\{")
# A name on the next line, or anything on the same one; code in a text that was torn apart has neither.
_INSIDE = rb'(?=[ \t]{0,256}+["\'}/\w]|[ \t\r\n]{0,256}+["\'}/])'


class Layout:
    """How rows are laid out, as far as they were read."""

    def __init__(self) -> None:
        self.by_line = True
        """Each of the last rows stood on a line of its own, or there is none yet."""
        self.plain = True
        """And nothing else stood there."""
        self._shared = self._follows = False
        self._pairs: dict[tuple[str, ...], None] = {}
        self._names: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def lines(self) -> bool:
        """Whether rows stand on lines of their own for certain."""
        return self.by_line and bool(self._names)

    def learn(self, value: dict[str, Any], by_line: bool, plain: bool, follows: bool) -> None:
        """Learn from a good row.

        Args:
            value: What it says.
            by_line: It neither spans lines nor is followed by something on its line.
            plain: Not even by a comma.
            follows: Another row follows on its line.
        """
        self._shared = follows or self._follows
        self.by_line = by_line and not self._shared
        self.plain = plain and self.by_line
        self._follows = follows
        pair = tuple(islice(value, 2))
        if pair and pair not in self._pairs and len(self._pairs) < _PAIRS:
            self._pairs[pair] = None
            for ascii_only in (False, True):
                first, second = (_written(name, ascii_only) for name in (*pair, "")[:2])
                if len(first) <= _NAME_BYTES:
                    self._names += ((first, second if len(second) <= _NAME_BYTES else b""),)

    def starts(self, window: Window) -> re.Pattern[bytes]:
        """Return what the beginning of a row after the broken one here looks like; it ends with the brace."""
        text, at = window.text, window.at
        earliest = max(0, at - BEHIND)
        begun = max(text.rfind(b"\n", earliest, at), text.rfind(b"\r", earliest, at)) + 1
        lead = _BEFORE_ROW.fullmatch(text, begun, at)
        leads = lead is not None and (begun > 0 or window.base == 0)
        indent = len(lead[1]) if lead and leads else 0
        own = _OWN.match(text, at)
        names = self._names or (((own[1].strip(), own[2] or b""),) if own else ())
        flush = not self.lines and _flush(indent).match(text, at) is not None
        nests = not names and _nests(text, at)
        by_name = not leads or self._shared or not self._names or flush
        by_line = not flush or not (names or nests)
        return _starts(indent, names, by_name, by_line, nests)

    def end_of_loose(self, window: Window) -> re.Pattern[bytes] | None:
        """Return what ends a text here that is no object; None if that is the beginning of a row."""
        if not self.by_line or (not self._names and _MEMBER.match(window.text, window.at)):
            return None
        return _LINE_END if self._names else _LINE_OR_NEXT


def _nests(text: bytes, at: int) -> bool:
    """Say whether the first object after `},` is in a list of the row here, as far as can be seen."""
    found = _FIRST_NEXT.search(text, at, at + AHEAD)
    return found is not None and _IN_LIST.search(text, at, found.end()) is not None


def _written(name: str, ascii_only: bool) -> bytes:
    return json.dumps(name, ensure_ascii=ascii_only)[1:-1].encode()


def _named(first: bytes, second: bytes) -> bytes:
    """Return what a first name looks like, and the second where the value between is short and whole."""
    colon = rb'["\']%b["\']%b:%b' % (re.escape(first), _SPACE, _SPACE)
    if not second:
        return colon
    then = _SHORT + _SPACE + b"," + _SPACE + rb"""["']"""
    return colon + rb"""(?:%b%b["']|(?!%b))""" % (then, re.escape(second), then)


@lru_cache(maxsize=64)
def _flush(indent: int) -> re.Pattern[bytes]:
    """Return what a line looks like that goes on in the next, which is indented no deeper."""
    name = rb'(?<=[\[{:,])[\r\n]++[ \t]{0,%d}+["\']' % indent
    brace = rb"(?<=[\[{:])[\r\n]++[ \t]{0,%d}+\{" % indent
    return re.compile(rb"[^\r\n]{0,1024}+(?:%b|%b)" % (name, brace))


@lru_cache(maxsize=64)
def _starts(
    indent: int,
    names: tuple[tuple[bytes, bytes], ...],
    by_name: bool,
    by_line: bool,
    nests: bool,
) -> re.Pattern[bytes]:
    ways = []
    if by_line:
        before = rb"(?:[\[\]},]|\xef\xbb\xbf)[ \t]{0,8}+"
        ways.append(rb"[\r\n][ \t]{0,%d}+(?:%b){0,8}+\{%b" % (indent, before, _INSIDE))
    if by_name and names:
        known = b"|".join(_named(first, second) for first, second in dict.fromkeys(names))
        ways.append(rb"(?<![:{])(?<![:{] )\{(?=%b(?:%b))" % (_SPACE, known))
    elif by_name:
        ways.append((rb"\][ \t\r\n]{0,64}+" if nests else b"") + _NEXT)
    return re.compile(b"|".join(ways))
