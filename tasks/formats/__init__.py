"""Dataset formats: one file each, and the file name is the choice.

A format is a module with

    FIELDS: tuple[str, ...]                     the fields that a row must have, for messages
    def claims(names: frozenset[str]) -> bool   is a row with these field names of this format?
    def messages(row: dict[str, Any]) -> list[Message]
    TURN: tuple[str, str]                       only where formats share FIELDS: a field that holds
                                                turns, and the field of a turn that tells them apart

`messages` turns one row into the neutral record's messages: one system turn or none, then user and
assistant in turn, the assistant last. What does not fit raises `Unfit`; the reader adds file and line.
Fields that a format does not name, such as an id, are left out; where leaving one out would change
the meaning, the row is unfit. Formats never see files, and never import each other; what several
share is here and in `_conversation.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypedDict

Role = Literal["system", "user", "assistant"]

Code = Literal[
    "missing-field",  # a field that the format needs is absent
    "not-text",  # a text is a number, null, a list, a picture
    "blank",  # a text is empty, or only white space and zero-width characters
    "surrogate",  # half a surrogate pair: not a character, cannot be written as UTF-8
    "nul",  # a text holds U+0000, which tokenizers and tools cut at
    "turns",  # the turns are not a list of objects
    "roles",  # an unknown speaker, or speakers in another order than user, assistant, …
    "tools",  # tool calls, tool definitions, tool answers
    "history",  # the earlier turns of a pair cannot be read
    "loss",  # asks to learn some turns and not others; every answer is learned
    "conflict",  # two fields for the same thing, with different texts
    "unread-field",  # a field whose loss would change the meaning
]
"""Why a row is unfit: stable words, by which rejected rows are counted."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


class Unfit(ValueError):
    """A row that a format cannot take; its text is *what is wrong (what was found)*."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code


_BLANK = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
"""White space, as Python knows it, and the zero-width characters that copying from a page leaves."""
_NAMES = 12
_CHARACTERS = 40


def text(row: dict[str, Any], field: str, turn: int = 0) -> str:
    """Return a field that must hold text; `turn` says which turn the row is, from 1.

    Raises:
        Unfit: It is absent, no text, blank, or holds what cannot be written.
    """
    value = row.get(field)
    # nearly every text shows by its first character that it is not blank
    if isinstance(value, str) and (value[:1] not in _BLANK or value.strip(_BLANK)):
        # One encoding finds lone surrogates and NUL: on Chinese text half the time of looking for each.
        try:
            if 0 not in value.encode():
                return value
        except UnicodeEncodeError:
            pass
    raise _wrong(row, field, turn)


def _wrong(row: dict[str, Any], field: str, turn: int) -> Unfit:
    where = f"turn {turn}: " if turn else ""
    if field not in row:
        return Unfit("missing-field", f'{where}no field "{field}" (found: {listed(row)})')
    value = row[field]
    if not isinstance(value, str):
        return Unfit("not-text", f'{where}field "{field}" must be text (found: {kind(value)})')
    if not value.strip(_BLANK):
        return Unfit("blank", f'{where}field "{field}" is blank (found: {shown(value)})')
    if "\0" in value:
        near = value[max(0, value.index("\0") - 10) :]
        return Unfit("nul", f'{where}field "{field}" holds NUL, U+0000 (found: {shown(near)})')
    half = next(character for character in value if "\ud800" <= character <= "\udfff")
    found = f"U+{ord(half):04X}"
    return Unfit("surrogate", f'{where}field "{field}" holds half a character (found: {found})')


def optional(row: dict[str, Any], field: str) -> str:
    """Return a field that may be absent, null or blank, all of which give an empty text.

    Raises:
        Unfit: It holds something, and that is no text that can be written.
    """
    value = row.get(field)
    if value is None or (isinstance(value, str) and not value.strip(_BLANK)):
        return ""
    return text(row, field)


def given(value: Any) -> bool:
    """Say whether a field holds something: not null, blank, false or empty, also as JSON text."""
    if isinstance(value, str):
        return value.strip(_BLANK) not in ("", "[]", "{}", "null")
    return bool(value)


def refuse_unread(row: dict[str, Any], fields: Iterable[str]) -> None:
    """Refuse a row in which fields say something that the format would leave out.

    Raises:
        Unfit: One of the fields is given.
    """
    for field in fields:
        value = row.get(field)
        if given(value):
            raise Unfit("unread-field", f'field "{field}" would be lost (found: {shown(value)})')


_SEEN_OR_HEARD = ("images", "videos", "audios", "image", "video", "audio")
_PREFERENCE = ("label", "kto_tag")


def refuse_beside(row: dict[str, Any]) -> None:
    """Refuse a row that holds pictures or sound, or that marks its answer as wanted or not.

    Raises:
        Unfit: It does.
    """
    refuse_unread(row, _SEEN_OR_HEARD)
    for field in _PREFERENCE:
        if isinstance(row.get(field), bool):
            told = (
                f'every answer is learned, also an unwanted one (found: "{field}" is {row[field]})'
            )
            raise Unfit("loss", told)


def listed(names: Iterable[str]) -> str:
    """Return names for a message: in their order, escaped where they would not print, not too many."""
    every = list(names)
    some = [shown(name)[1:-1] for name in every[:_NAMES]]
    more = [f"and {len(every) - _NAMES} more"] if len(every) > _NAMES else []
    return ", ".join([*some, *more]) or "nothing"


def shown(value: Any) -> str:
    """Return a value for a message: a text quoted, escaped and cut; of others, what they are."""
    if isinstance(value, str):
        return repr(value if len(value) <= _CHARACTERS else value[:_CHARACTERS] + "…")
    if isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**64):
        return str(value)
    return kind(value)


def kind(value: Any) -> str:
    """Return what sort of value this is, in the words of JSON."""
    words = {type(None): "null", bool: "true or false", int: "a number", float: "a number"}
    words |= {str: "text", list: "a list", dict: "an object"}
    return words.get(type(value), type(value).__name__)
