"""Dataset formats: one file each, and the file name is the choice.

A format is a module with

    FIELDS: tuple[str, ...]                 the fields that a row must have
    def messages(row: dict[str, Any]) -> list[Message]

`messages` turns one row into the neutral record's messages: alternating roles that end with the
assistant. It raises `ValueError` with *what is wrong (what was found)*; the reader adds file and line.
Formats never see files, and never import each other.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def text(row: dict[str, Any], field: str) -> str:
    """Return a field that must hold text.

    Raises:
        ValueError: It is absent, of another type, or blank.
    """
    if field not in row:
        raise ValueError(f'no field "{field}" (found: {", ".join(sorted(row)) or "nothing"})')
    value = row[field]
    if not isinstance(value, str):
        raise ValueError(f'field "{field}" must be text (found: {type(value).__name__})')
    if not value.strip():
        raise ValueError(f'field "{field}" is blank (found: {value!r})')
    return value
