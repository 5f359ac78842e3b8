"""Rows of the files that people have: JSON in every layout, CSV, TSV, Parquet; every row is read or accounted for.

`open_rows` looks at the beginning of a stream, decides encoding and container, and yields `Row` and `Bad` in the
order of the file. What concerns one row is a `Bad` with its line, a code and the raw text; what concerns the whole
file is a DataError. Names of files decide nothing in JSON: a `.json` may hold an array, a `.txt` JSON Lines.

Codes of JSON and Parquet rows (those of tables are told in `delimited.py`):

    not-json        the text breaks the grammar of JSON; nothing is mended but comments and trailing commas
    not-an-object   valid JSON, but a number, a text, a list
    unterminated    the end of the file comes before the end of the object
    too-long        more than MAX_ROW bytes
    too-deep        nested deeper than DEPTH
    encoding        bytes that are not in the file's encoding
    not-finite      NaN, Infinity, or a number beyond them
    surrogate       half a pair of surrogates, escaped: no text can hold it
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from tasks.errors import DataError

MAX_ROW = 8 << 20
"""Bytes of the longest row that is read; in a table, characters."""
RAW_CHARACTERS = 2000
"""Characters of a broken row that are kept."""
DEPTH = 64
"""How deep lists and objects of a row may be nested: what Python prints and compares without running out of stack."""

_HEAD = 4 << 20  # what the encoding is decided on
_SAMPLE = 1 << 16  # what the container is decided on
_READ = 1 << 20

_MAGIC = (
    (b"PK\x03\x04", "a zip archive or an Office document", "Save a spreadsheet as CSV UTF-8."),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", "Save it as CSV UTF-8."),
    (b"%PDF-", "a PDF", "Give the rows as JSON Lines or CSV."),
    (b"\x89PNG", "a picture", "Give the rows as JSON Lines or CSV."),
    (b"\xff\xd8\xff", "a picture", "Give the rows as JSON Lines or CSV."),
    (b"GIF8", "a picture", "Give the rows as JSON Lines or CSV."),
    (b"\x1f\x8b", "compressed twice", "Unpack it once."),
    (b"\xfd7zXZ\x00", "an xz archive", "Unpack it, or pack it with gzip."),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it, or pack it with gzip."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it, or pack it as zip."),
    (b"Rar!\x1a\x07", "a rar archive", "Unpack it, or pack it as zip."),
    (b"SQLite format 3\x00", "a database", "Export the table as CSV."),
    (b"ARROW1\x00\x00", "an Arrow file", "Save it as Parquet."),
    (b"\x93NUMPY", "a numpy array", "Give the rows as JSON Lines or CSV."),
    (b"\x89HDF", "an HDF5 file", "Save it as Parquet."),
)
_PARQUET = b"PAR1"
_WEB = re.compile(r"<(?:!doctype|html|head|body|\?xml|error|script)\b", re.IGNORECASE)
_BEFORE = re.compile(r"(?:\s+|//[^\r\n]*|/\*(?:[^*]|\*(?!/))*+\*/)*+")
_JSON_LINE = re.compile(r'^[ \t\[,]*+\{\s*"', re.MULTILINE)


class Row(NamedTuple):
    """One row, and the line at which it begins, from 1; in Parquet the number of the record."""

    line: int
    value: dict[str, Any]
    raw: str | bytes = ""
    """The row as it stands in the file; empty where the file holds no text."""


class Bad(NamedTuple):
    """One row that cannot be read: a stable code, *what is wrong (what was found)*, and its text, cut."""

    line: int
    code: str
    reason: str
    raw: str


@dataclass(frozen=True)
class Reading:
    """What a person says about the files; "auto" and "" leave it to the bytes."""

    container: str = "auto"
    """auto, json, csv, tsv or parquet."""
    encoding: str = "auto"
    """auto, utf-8, utf-16 or gb18030."""
    delimiter: str = ""
    """Between the cells of a table."""


@dataclass
class Opened:
    """What a stream turned out to be, and its rows."""

    container: str
    """JSON, CSV, TSV or Parquet."""
    encoding: str
    """utf-8, utf-8 with BOM, utf-16-le, utf-16-be, gb18030; empty where there is no text."""
    rows: Iterator[Row | Bad]


def clip(text: str | bytes, size: int = 0) -> str:
    """Return text cut to RAW_CHARACTERS, and told so; what cannot be decoded is shown as an escape.

    Args:
        text: What to show.
        size: Bytes of the whole, where `text` is only its beginning.
    """
    if isinstance(text, bytes):
        shown = text[: 4 * RAW_CHARACTERS].decode("utf-8", "backslashreplace")
        size = max(size, len(text))
    else:
        shown = text[: RAW_CHARACTERS + 1].encode("utf-8", "backslashreplace").decode()
        size = max(size, len(text.encode("utf-8", "surrogatepass")))
    if len(shown) <= RAW_CHARACTERS and size <= 4 * RAW_CHARACTERS:
        return shown
    return f"{shown[:RAW_CHARACTERS]} … ({size} bytes)"


def open_rows(
    stream: BinaryIO, name: str, reading: Reading, known: Callable[[frozenset[str]], bool]
) -> Opened:
    """Decide what a stream holds, and return its rows, read as they are asked for.

    Args:
        stream: Read once from here to its end; it need not be seekable.
        name: Of the file, for messages.
        reading: An explicit choice wins over what the bytes look like.
        known: Whether a format claims these column names.

    Raises:
        DataError: Empty, a web page, a document or another binary, or neither JSON nor a table; also while
            reading, where the whole file is concerned (a broken Parquet file).
    """
    from tasks.rows import delimited, encodings, json_text

    head = _peek(stream)
    if reading.container == "parquet" or head.startswith(_PARQUET):
        return _parquet(stream, head, name, reading)
    _refuse(head, name)
    encoding = encodings.sniff(head, len(head) < _HEAD, name, reading.encoding)
    sample = encodings.sample(head, encoding, _SAMPLE)
    chunks = chain((head,), iter(lambda: stream.read(_READ), b""))
    if _is_json(sample, name, reading, known):
        rows = json_text.rows(encodings.as_utf8(chunks, encoding))
        return Opened("JSON", encoding.label, rows)
    container, table = delimited.rows(encodings.as_text(chunks, encoding), name, reading, known)
    return Opened(container, encoding.label, table)


def _peek(stream: BinaryIO) -> bytes:
    parts, size = [], 0
    while size < _HEAD and (part := stream.read(_HEAD - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _refuse(head: bytes, name: str) -> None:
    """Refuse what cannot be text with rows."""
    if not head:
        raise DataError(f"{name}: the file is empty (found 0 bytes). Give a file with rows.")
    for magic, what, advice in _MAGIC:
        if head.startswith(magic):
            found = magic[:4].decode("ascii", "backslashreplace")
            raise DataError(f"{name}: this is {what} (found: {found!r} at its beginning). {advice}")


def _is_json(
    sample: str, name: str, reading: Reading, known: Callable[[frozenset[str]], bool]
) -> bool:
    """Say whether the text is JSON; if not, it is a table.

    Raises:
        DataError: It is blank, a web page, or neither.
    """
    from tasks.rows import delimited

    begun = _BEFORE.match(sample)
    start = sample[begun.end() if begun else 0 :]
    if not sample.strip("\0 \t\r\n"):
        raise DataError(f"{name}: the file is empty (found only blanks). Give a file with rows.")
    if _WEB.match(start):
        raise DataError(
            f"{name}:1: this is a web page (found: {start[:16]!r}). Download the file itself."
        )
    if reading.container != "auto":
        return reading.container == "json"
    if start[:1] in ("{", "["):
        return True
    if delimited.is_table(sample, name, reading, known):
        return False
    if _JSON_LINE.search(sample):  # only its first rows are broken
        return True
    raise DataError(
        f"{name}: neither JSON nor a table (found: {clip(start[:40])!r}). "
        "Give JSON Lines, a JSON array, CSV or Parquet; data.container and data.delimiter say which it is."
    )


def _parquet(stream: BinaryIO, head: bytes, name: str, reading: Reading) -> Opened:
    if reading.container not in ("auto", "parquet"):
        raise DataError(
            f"{name}: this is Parquet (found: PAR1 at its beginning), but data.container says "
            f"{reading.container}. Leave data.container at auto."
        )
    from tasks.rows import parquet

    if isinstance(getattr(stream, "raw", stream), io.FileIO | io.BytesIO) and stream.seekable():
        # places in the file are counted from its beginning, so it must be there
        if stream.seek(-len(head), io.SEEK_CUR) == 0:
            return Opened("Parquet", "", parquet.rows(stream, name))
        head = b""
    again = io.BufferedReader(_Again(head, stream))
    return Opened("Parquet", "", parquet.rows(again, name))


class _Again(io.RawIOBase):
    """A stream from its beginning, after somebody has looked at it."""

    def __init__(self, head: bytes, stream: BinaryIO):
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._head[: len(buffer)] or self._stream.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)
