"""Rows of the files that people have: JSON Lines, or one JSON array.

Strict: the first malformed row ends the reading with its file and line, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tasks.errors import DataError

Row = dict[str, Any]


def read(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield each row with its place, `file:line` (in a JSON array `file:[index]`).

    Raises:
        DataError: The file is not UTF-8, not JSON, or a row is not an object.
    """
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:1] == b"<":
        raise DataError(
            f"{path.name}:1: this is a web page (found: {head[:16].decode('utf-8', 'replace')!r}). "
            "Download the file itself."
        )
    yield from _array(path) if head[:1] == b"[" else _lines(path)


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            stripped = line.removeprefix(b"\xef\xbb\xbf").strip()
            if stripped:
                place = f"{path.name}:{number}"
                yield place, _object(place, _parse(place, stripped))


def _array(path: Path) -> Iterator[tuple[str, Row]]:
    rows = _parse(path.name, path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    for index, row in enumerate(rows):
        place = f"{path.name}:[{index}]"
        yield place, _object(place, row)


def _parse(place: str, raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as reason:
        start = raw[:40].decode("utf-8", "replace")
        raise DataError(
            f"{place}: not JSON in UTF-8: {reason} (found: {start!r}). Mend or remove this row."
        ) from reason


def _object(place: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise DataError(
            f"{place}: a row must be an object (found: {type(row).__name__}). Mend or remove this row."
        )
    return row
