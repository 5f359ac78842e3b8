r"""Tables as text: CSV and TSV, as a desk exports them.

The first record holds the field names, every cell is text, an empty cell is "". The csv module of the standard
library reads, strictly. The delimiter is the chosen one; else that of Excel's first line `sep=;`; else the only one
of comma, tab, semicolon and bar that splits the header and, as many times, each of the first records. A file of one
column is a table only if somebody says so: `data.container`, or its name. Blank lines are nothing.

What csv refuses costs one row (`records.py`). Codes of broken rows:

    cells       another number of cells than the header has
    quote       a quote that is not closed, or closed before the end of its cell
    encoding    what could not be decoded
    too-long    a line of more than MAX_ROW characters
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from tasks.errors import ConfigError, DataError
from tasks.rows import Bad, Reading, Row
from tasks.rows.records import Feed, Records, physical

Known = Callable[[frozenset[str]], bool]

_DELIMITERS = {"csv": ",;", "tsv": "\t", "auto": ",\t;|"}
_SPOKEN = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_LONGEST = 200
_HEAD_LINES, _HEAD_CHARACTERS, _HEAD_RECORDS = 1_000, 1 << 20, 20
_EXCEL = re.compile(r"sep=([^\r\n])\s*", re.IGNORECASE)


def rows(
    lines: Iterator[str], name: str, reading: Reading, known: Known
) -> tuple[str, Iterator[Row | Bad]]:
    """Return the name of the container, CSV or TSV, and the rows of a table.

    Args:
        lines: Decoded text that keeps its line ends, in lines or in pieces of lines; a lone surrogate stands for
            what could not be decoded.
        name: Of the file, for messages.
        reading: Its container and delimiter, where they are chosen.
        known: Whether a format claims these field names: it decides between delimiters that both fit.

    Raises:
        DataError: No delimiter fits, or several do; the header is broken, lacks a name, or has one twice.
        ConfigError: The chosen delimiter cannot be one.
    """
    if reading.delimiter and (len(reading.delimiter) > 1 or reading.delimiter in '"\r\n'):
        raise ConfigError(
            f"data.delimiter: not a delimiter (found {reading.delimiter!r}). "
            "Give one character, neither a quote nor the end of a line."
        )
    feed = Feed(physical(lines))
    head = feed.peek(_HEAD_LINES, _HEAD_CHARACTERS)
    if not "".join(head).strip():
        raise DataError(f"{name}: no header (found an empty table). Give a file with rows.")
    marked = _EXCEL.fullmatch(head[0])
    if marked:
        feed.skip()
    delimiter = reading.delimiter or (
        marked[1] if marked else _delimiter(head, name, reading, known)
    )
    names = _names(Records(feed, delimiter).header(name), name)
    return "TSV" if delimiter == "\t" else "CSV", Records(feed, delimiter, names).rows()


def is_table(sample: str, name: str, reading: Reading, known: Known) -> bool:
    """Say whether a text that begins with this sample may be a table."""
    if reading.delimiter or _said(name, reading) or _EXCEL.match(sample):
        return True
    head = Feed(physical(iter([sample]))).peek(_HEAD_LINES, _HEAD_CHARACTERS)
    looks = [look for each in _DELIMITERS["auto"] if (look := _look(head, each))]
    return any(
        _wrong(look.names) == "" and (known(look.fields) or 0 < look.records == look.good)
        for look in looks
    )


@dataclass(frozen=True)
class _Look:
    """The first records of a table under one delimiter."""

    delimiter: str
    names: tuple[str, ...]
    records: int
    good: int
    """Records that have as many cells as the header."""

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(self.names)


def _look(head: list[str], delimiter: str) -> _Look | None:
    """Return None where the delimiter does not split the header."""
    feed = Feed(iter(head))
    try:
        names = _stripped(Records(feed, delimiter).header(""))
    except DataError:
        return None
    if len(names) < 2:
        return None
    first = list(islice(Records(feed, delimiter, names).rows(), _HEAD_RECORDS + 1))
    # the head may end inside a record: the last one counts only where it is all there is
    first = first[:-1] if len(first) > 1 else first
    return _Look(delimiter, names, len(first), sum(isinstance(each, Row) for each in first))


def _delimiter(head: list[str], name: str, reading: Reading, known: Known) -> str:
    candidates = _DELIMITERS.get(reading.container, _DELIMITERS["auto"])
    looks = [look for each in candidates if (look := _look(head, each))]
    if not looks:
        return _only_column(head, name, reading)
    fitting = [look for look in looks if look.good == look.records]
    claimed = [look for look in fitting or looks if known(look.fields)]
    mostly = [look for look in looks if 2 * look.good > look.records]
    for chosen in (fitting, claimed, mostly, looks):
        if len(chosen) == 1:
            return chosen[0].delimiter
    found = "; ".join(
        f"{_SPOKEN[look.delimiter]} with the names {_shown(look.names)}"
        for look in fitting or looks
    )
    raise DataError(
        f"{name}:1: more than one delimiter splits this table (found: {found}). Set data.delimiter."
    )


def _only_column(head: list[str], name: str, reading: Reading) -> str:
    if not _said(name, reading):
        raise DataError(
            f"{name}:1: no delimiter splits the header (found: {_shown((''.join(head).strip().splitlines()[0],))}). "
            "Set data.container to csv if this is a table of one column, or data.delimiter."
        )
    return "\t" if reading.container == "tsv" or name.lower().endswith(".tsv") else ","


def _said(name: str, reading: Reading) -> bool:
    """Say whether somebody calls this a table."""
    return reading.container in ("csv", "tsv") or name.lower().endswith((".csv", ".tsv"))


def _shown(names: tuple[str, ...]) -> str:
    shown = ", ".join(names)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _stripped(cells: list[str]) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in cells)


def _wrong(names: tuple[str, ...]) -> str:
    """Return what is wrong with the names of a header, or nothing."""
    found = f"(found: {_shown(names)})"
    if "" in names:
        return f"column {names.index('') + 1} of the header has no name {found}"
    twice = [each for each, times in Counter(names).items() if times > 1]
    if twice:
        return f'the header has "{_shown((twice[0],))}" twice {found}'
    quoted = [each for each in names if each.startswith('"')]
    if quoted:
        return f"a quote in the header does not begin its cell {found}"
    return ""


def _names(cells: list[str], name: str) -> tuple[str, ...]:
    names = _stripped(cells)
    if wrong := _wrong(names):
        raise DataError(
            f"{name}: {wrong}. Give every column a name of its own, without spaces around its quotes."
        )
    return names
