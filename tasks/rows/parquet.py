"""Rows of Parquet files: columns are fields; lists and structs become lists and objects.

pyarrow reads few rows at a time and no column chunk ahead. What Python cannot hold costs one row: text that is not
UTF-8, a time beyond its calendar. What is broken in the file ends the reading. A file that unfolds to hundreds of
times its size is refused, as an archive is: in Parquet a value that repeats takes next to no room.

Codes of bad rows: `too-long`, `encoding` (text that is not UTF-8), `value` (what Python has no value for).
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tasks.errors import ConfigError, DataError
from tasks.rows import MAX_ROW, RAW_CHARACTERS, Bad, Row, clip

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

_ROWS, _BATCH = 64, 16 << 20
_BUFFER = 1 << 16  # without one a whole column chunk is read at once
_UNHELD = (ValueError, OverflowError, LookupError)
_FREE, _RATIO, _LEAST = 1 << 30, 200, 64  # bytes, times, bytes of a row


def rows(stream: BinaryIO, name: str) -> Iterator[Row | Bad]:
    """Return the rows of a Parquet file; their `line` is the number of the record.

    Args:
        stream: At its beginning. One that cannot seek is copied to a temporary file.
        name: Of the file, for messages.

    Raises:
        DataError: Not Parquet, damaged, or its columns cannot be told apart; also while rows are read.
        ConfigError: pyarrow is not installed.
    """
    with contextlib.ExitStack() as stack:
        if not stream.seekable():
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stream, copy, 1 << 20)
            stream = cast(BinaryIO, copy)
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        with _translated(name, "before its first row"):
            file = _open(stream)
            _check(file, name)
        return _read(file, name, size, stack.pop_all())


def _open(stream: BinaryIO) -> ParquetFile:
    try:
        from pyarrow.parquet import ParquetFile  # 0.3 s: only where Parquet is read
    except ModuleNotFoundError as reason:
        raise ConfigError(
            f"data: Parquet needs pyarrow (found {reason}). Install this project with its dependencies."
        ) from reason
    return ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER)


def _check(file: ParquetFile, name: str) -> None:
    names = file.schema_arrow.names
    twice = [each for each, times in Counter(names).items() if times > 1]
    if twice or not names:
        found = f"{clip(twice[0])} twice" if twice else "none"
        raise DataError(
            f"{name}: the columns cannot be told apart (found: {found}). "
            "Give every column a name of its own."
        )


def _read(
    file: ParquetFile, name: str, size: int, stack: contextlib.ExitStack
) -> Iterator[Row | Bad]:
    number = unfolded = 0
    with stack:
        batches = _batches(file)
        while True:
            with _translated(name, f"after record {number:,}"):
                batch = next(batches, None)
            if batch is None:
                return
            unfolded += max(batch.nbytes, _LEAST * batch.num_rows)
            if unfolded > max(_FREE, _RATIO * size):
                raise DataError(
                    f"{name}: it unfolds to more than {_RATIO} times its size (found: {unfolded:,} bytes "
                    f"or more from {size:,}). Save what is needed as JSON Lines if this is right."
                )
            yield from _records(batch, number + 1)
            number += batch.num_rows


def _batches(file: ParquetFile) -> Iterator[RecordBatch]:
    """Yield a few rows at a time, fewer where rows are large."""
    groups = range(file.metadata.num_row_groups)
    for at_once, alike in groupby(groups, lambda group: _at_once(file.metadata.row_group(group))):
        yield from file.iter_batches(batch_size=at_once, row_groups=list(alike), use_threads=False)


def _at_once(group: Any) -> int:
    """Return how many rows of a row group to read at once."""
    # not by the metadata of its columns: pyarrow 25 ends the process where those are damaged
    return int(min(_ROWS, max(1, _BATCH * group.num_rows // max(1, group.total_byte_size))))


def _records(batch: RecordBatch, first: int) -> Iterator[Row | Bad]:
    values = _values(batch) if batch.nbytes <= MAX_ROW else None
    if values is not None:
        yield from map(Row, range(first, first + len(values)), values)
        return
    for index in range(batch.num_rows):
        yield _record(batch.slice(index, 1), first + index)


def _values(batch: RecordBatch) -> list[dict[str, Any]] | None:
    """Return rows as Python has them; None when one of them cannot be."""
    try:
        return cast(list[dict[str, Any]], batch.to_pylist())
    except _UNHELD:
        return None


def _record(row: RecordBatch, number: int) -> Row | Bad:
    if row.nbytes > MAX_ROW:
        what = f"a row may have {MAX_ROW:,} bytes (found: {row.nbytes:,})"
        return Bad(number, "too-long", what, _shown(row))
    try:
        return Row(number, row.to_pylist()[0])
    except UnicodeDecodeError as reason:
        found = f"byte 0x{reason.object[reason.start]:02x} at byte {reason.start}"
        return Bad(number, "encoding", f"text that is not UTF-8 (found: {found})", _shown(row))
    except _UNHELD as reason:
        return Bad(
            number, "value", f"a value that Python cannot hold (found: {reason})", _shown(row)
        )


def _shown(row: RecordBatch) -> str:
    """Return the beginning of what the cells of a row hold."""
    cells = []
    for name, column in zip(row.schema.names, row.columns, strict=True):
        cell = column[0]
        buffer = cell.as_buffer() if hasattr(cell, "as_buffer") else None
        if buffer is not None:
            start = buffer.slice(0, min(buffer.size, 4 * RAW_CHARACTERS)).to_pybytes()
            shown = start.decode("utf-8", "backslashreplace")
        else:
            shown = repr(column.type)
        cells.append(f"{name}: {shown}")
    return clip("\n".join(cells))


@contextlib.contextmanager
def _translated(name: str, where: str) -> Iterator[None]:
    """Turn what pyarrow raises into a DataError; what the stream itself raises passes."""
    try:
        yield
    except (
        ValueError,
        OSError,
        RuntimeError,
        LookupError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as reason:
        if isinstance(reason, OSError) and reason.errno is not None:
            raise
        found = " ".join(str(reason).split())[:300] or type(reason).__name__
        raise DataError(
            f"{name}: this Parquet file cannot be read {where} (found: {found}). "
            "Fetch or write it again."
        ) from reason
