"""Rows whose fields have names of their own: `data.columns` says which field holds what.

A format sees the row as if its fields had the usual names; what it says of them is said by the names in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.errors import DataError
from tasks.formats import Message, Unfit

Row = dict[str, Any]
Reader = Callable[[Row], list[Message]]

_USUAL = {"prompt": ("query", "instruction", "input", "context"), "response": ("completion",)}
"""Names that the format pairs would look at; a column that is named takes their place."""


def require(columns: Mapping[str, str], sample: Sequence[Row], shown: str) -> None:
    """Refuse a column that no row of a sample has: its name is misspelt.

    Args:
        columns: What a field holds, to its name in the rows.
        sample: The first rows of a file.
        shown: The file, for the message.

    Raises:
        DataError: There is such a column.
    """
    for what, name in columns.items():
        if sample and not any(name in row for row in sample):
            found = ", ".join(sorted(sample[0])) or "nothing"
            raise DataError(
                f'{shown}: no row has the field "{name}" of data.columns.{what} (found: {found}). '
                "Check the spelling."
            )


def renaming(messages: Reader, columns: Mapping[str, str]) -> Reader:
    """Return a reader of rows in which the columns have the given names."""
    usual = {name for what in columns for name in (what, *_USUAL.get(what, ()))}

    def read(row: Row) -> list[Message]:
        for what in ("prompt", "response"):
            if what in columns and columns[what] not in row:
                found = ", ".join(sorted(row)) or "nothing"
                raise Unfit("missing-field", f'no field "{columns[what]}" (found: {found})')
        renamed = {name: value for name, value in row.items() if name not in usual}
        renamed |= {what: row[name] for what, name in columns.items() if name in row}
        try:
            return messages(renamed)
        except Unfit as unfit:
            told = str(unfit)
            for what, name in columns.items():
                told = told.replace(f'"{what}"', f'"{name}"')
            raise Unfit(unfit.code, told) from unfit

    return read
