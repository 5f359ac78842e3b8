"""Reads the lines of a dataset: one neutral record `{"messages": […]}` each, checked, never guessed at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ConfigError, DataError

ROLES = ("system", "user", "assistant")

Conversation = list[dict[str, str]]


def read(path: Path) -> Iterator[tuple[str, Conversation]]:
    """Yield the messages of each line, with `path:line` before them.

    Raises:
        ConfigError: There is no such file.
        DataError: A line is not a conversation that ends with an answer.
    """
    try:
        lines = path.open("rb")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent}: no {path.name} here. Name a dataset with train.jsonl and dev.jsonl."
        ) from error
    with lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            yield where, _messages(line, where)


def count(path: Path) -> int:
    """Count the lines of a file."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines)


def _messages(line: bytes, where: str) -> Conversation:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not a JSON object in UTF-8 ({error}).") from error
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{where}: no list "messages" (found {_short(row)}).')
    found = [_message(m, i, where) for i, m in enumerate(messages)]
    if found[-1]["role"] != "assistant" or len(found) < 2:
        roles = ", ".join(m["role"] for m in found)
        raise DataError(f"{where}: must end with an answer to something (found the roles {roles}).")
    if not all(m["content"].strip() for m in found if m["role"] == "assistant"):
        raise DataError(f"{where}: an answer is empty. Leave the row out.")
    return found


def _message(message: Any, index: int, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DataError(f"{where}: messages[{index}]: not an object (found {_short(message)}).")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise DataError(
            f"{where}: messages[{index}]: role must be system, user or assistant (found {role!r})."
        )
    if not isinstance(content, str):
        raise DataError(
            f"{where}: messages[{index}]: content must be a text (found {_short(content)})."
        )
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: messages[{index}]: content holds half a character (a lone surrogate). "
            "Repair it."
        ) from error
    return {"role": role, "content": content}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
