"""The grammar of a row in JSON: where an object ends, and what it says.

`Walk` follows an object through bytes that may not all be there yet, one step for each bracket, so a row costs time
in proportion to its length however it is written. It knows comments and trailing commas, and that no text spans a
line end; it does not look into texts and numbers. `parse` does, with the strict reader of orjson; only what orjson
refuses is stripped of comments and trailing commas and read again.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal, NoReturn

import orjson

from tasks.rows import DEPTH

State = Literal["whole", "partial", "broken", "deep"]

# Possessive throughout: what has matched is never taken back, so no input makes these try twice.
_REMARK = rb"\*[^*]{0,1000}+(?:\*(?!/)[^*]{0,1000}+){0,100}+"
GAP = rb"[ \t\r\n]*+(?:/(?:/[^\r\n]*+|" + _REMARK + rb"\*/)[ \t\r\n]*+)*+"
_OPEN_TEXT = rb'"(?:[^"\\\r\n]++|\\[^\r\n])*+'
TEXT = _OPEN_TEXT + rb'"'
VALUE = TEXT + rb"|(?:true|false|null|-?[0-9][-+.0-9eE]*+)(?!\w)"
ATOM = rb"(?:" + TEXT + rb"|[-+.\w]++)"
_NAME = TEXT + GAP + rb":" + GAP
_MEMBERS = rb"(?:" + _NAME + ATOM + GAP + rb"(?:," + GAP + rb"|(?=\})))*+"
_ITEMS = rb"(?:" + ATOM + GAP + rb"(?:," + GAP + rb"|(?=\])))*+"
# What is flat, then the next bracket; no group is set where the text ends, or is broken, before one.
_OBJECT = _MEMBERS + rb"(\}|" + _NAME + rb"[\[{])?+"
_LIST = _ITEMS + rb"([\]\[{])?+"
_FIRST = {ord("{"): re.compile(GAP + _OBJECT), ord("["): re.compile(GAP + _LIST)}
_NEXT = {
    ord("{"): re.compile(GAP + rb"(?:(\})|," + GAP + _OBJECT + rb")?+"),
    ord("["): re.compile(GAP + rb"(?:(\])|," + GAP + _LIST + rb")?+"),
}
# What may stand before the place where a member or an item breaks off.
_BEGUN = re.compile(rb"(?:" + TEXT + GAP + rb"(?::" + GAP + rb"(?:" + ATOM + GAP + rb")?+)?+)?+")
# The last tokens of a text that goes on: a few whole ones, and the beginning of another.
_CUT = re.compile(
    rb"(?:(?:" + ATOM + rb"|:)" + GAP + rb"){0,4}+"
    rb"(?:" + _OPEN_TEXT + rb"\\?+|/(?:" + _REMARK + rb")?+)?+\Z"
)
_NEAR = 256  # so that what is found can be shown
_CLOSING = frozenset(b"]}")

_TEXT_OR = r'("(?:[^"\\]++|\\.)*+")|'
_COMMENT = re.compile(_TEXT_OR + r"//[^\r\n]*+|/\*(?:[^*]|\*(?!/))*+\*/")
_TRAILING_COMMA = re.compile(_TEXT_OR + r",(?=[ \t\r\n]*+[}\]])")
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class Wrong(ValueError):
    """An object that cannot be read: a code of `tasks.rows`, and *what is wrong (what was found)*."""

    def __init__(self, code: str, reason: str):
        super().__init__(reason)
        self.code, self.reason = code, reason


class Walk:
    """The way through one object, as far as the text goes."""

    __slots__ = ("_from", "_pattern", "at", "opened")

    def __init__(self, start: int):
        self.opened = [start]
        """Where the brackets stand that are not closed yet."""
        self.at = self._from = start + 1
        """Up to here all is well; after the object once it is whole."""
        self._pattern = _FIRST[ord("{")]

    def on(self, text: bytes, ended: bool) -> State:
        """Go on to the end of the object, or of the text, or to what is wrong.

        Args:
            text: What there is so far.
            ended: Whether that is all.
        """
        opened, pattern, at = self.opened, self._pattern, self._from
        while True:
            found = pattern.match(text, at)
            if found is None or found.lastindex is None:
                reached = found.end() if found else at
                near = not ended and len(text) - reached < _NEAR
                cut = near or goes_on(text, reached)
                self._pattern, self._from = pattern, at
                self.at = reached if cut else _broken_at(text, reached)
                return "partial" if cut else "broken"
            at = found.end()
            bracket = text[at - 1]
            if bracket in _CLOSING:
                opened.pop()
                if not opened:
                    self.at = at
                    return "whole"
                pattern = _NEXT[text[opened[-1]]]
            else:
                opened.append(at - 1)
                if len(opened) > DEPTH:
                    self.at = at
                    return "deep"
                pattern = _FIRST[bracket]


def _broken_at(text: bytes, at: int) -> int:
    begun = _BEGUN.match(text, at)
    return begun.end() if begun else at


def goes_on(text: bytes, at: int) -> bool:
    """Say whether a text may be cut here: inside a token, or between a few tokens."""
    return _CUT.match(text, at) is not None


def parse(raw: bytes) -> dict[str, Any]:
    """Return what an object says.

    Raises:
        Wrong: It says nothing that JSON allows.
    """
    try:
        value: dict[str, Any] = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _lenient(raw)
    return value


def _lenient(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as reason:
        raise Wrong("encoding", undecodable(raw, reason.start)) from reason
    for ornament in (_COMMENT, _TRAILING_COMMA):
        text = ornament.sub(lambda found: found[1] or " ", text)
    try:
        value: dict[str, Any] = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as reason:
        found = text[max(0, reason.pos - 10) : reason.pos + 20]
        raise Wrong("not-json", f"not JSON: {reason.msg} (found: {found!r})") from reason
    except Wrong:
        raise
    except ValueError as reason:  # an integer of more digits than Python reads
        raise Wrong("not-json", f"a number that is too long (found: {reason})") from reason
    if half := _HALF.search(raw):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as reason:
            what = f"half a pair of surrogates (found: {half[0].decode()} …)"
            raise Wrong("surrogate", what) from reason
    return value


def _refuse(constant: str) -> NoReturn:
    raise Wrong("not-finite", f"a number that is not finite (found: {constant})")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        _refuse(digits[:40])
    return value


def undecodable(raw: bytes, at: int) -> str:
    """Say what cannot be decoded: a byte as it is, or what `encodings` has carried along."""
    try:
        lost = ord(raw[at : at + 3].decode("utf-8", "surrogatepass"))
    except (UnicodeDecodeError, TypeError):
        lost = 0xDC00 + raw[at]
    found = f"0x{lost - 0xDC00:02x}" if 0xDC80 <= lost <= 0xDCFF else f"0x{lost:04x}"
    return (
        f"bytes that are not in the encoding of the file (found: {found} at byte {at} of the row)"
    )
