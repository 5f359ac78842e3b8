"""Parts of the rows that deserve a score of their own: by attribute, by length, by script.

A mean over all rows hides that a model fails on one kind of them. Slices depend on the prompts and
the references alone, never on an answer, so every system is measured on the same ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import ceil

from tasks.errors import DataError
from tasks.metrics.attributes import attributes, describes_attributes
from tasks.metrics.scripts import script_of

LEAST = 30
"""Rows that a slice has at least: with fewer, its interval is wider than what anyone looks for."""


def slices(
    prompts: Sequence[str], references: Sequence[str], least: int = LEAST
) -> dict[str, list[int]]:
    """Return by name the numbers of the rows of each slice, ascending.

    | name                              | rows                                                    |
    | --------------------------------- | ------------------------------------------------------- |
    | `attribute: 颜色`                  | whose prompt has this key; only for `key#value` prompts |
    | `length: short`, `medium`, `long` | whose reference is in this third by characters          |
    | `script: Chinese`, `Latin`, …     | whose reference is written so, see `scripts.py`         |

    References of equal length share a third, so thirds need not be equal. Slices of fewer than
    `least` rows are left out, and such as leave out fewer rows themselves: they say what the whole
    says. Attributes come by falling number of rows.

    Raises:
        DataError: There are not as many prompts as references.
    """
    if len(prompts) != len(references):
        raise DataError(
            f"slices: each prompt needs its reference (found {len(prompts)} and "
            f"{len(references)}). Pass two lists of the same rows."
        )
    found: dict[str, list[int]] = defaultdict(list)
    parts = (_by_attribute(prompts), _by_length(references), _by_script(references))
    for part in parts:
        for name, row in part:
            found[name].append(row)
    most = len(prompts) - max(1, least)
    return {name: rows for name, rows in found.items() if least <= len(rows) <= most}


def _by_attribute(prompts: Sequence[str]) -> Iterator[tuple[str, int]]:
    if not describes_attributes(prompts):
        return
    rows: dict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        for key in {key for key, _ in attributes(prompt) or ()}:
            rows[key].append(row)
    for key in sorted(rows, key=lambda key: (-len(rows[key]), key)):
        for row in rows[key]:
            yield f"attribute: {key}", row


def _by_length(references: Sequence[str]) -> Iterator[tuple[str, int]]:
    lengths = sorted(map(len, references))
    last = [lengths[ceil(third * len(lengths) / 3) - 1] for third in (1, 2) if lengths]
    names = ("short", "medium", "long")
    for name in names:
        for row, reference in enumerate(references):
            if names[sum(len(reference) > limit for limit in last)] == name:
                yield f"length: {name}", row


def _by_script(references: Sequence[str]) -> Iterator[tuple[str, int]]:
    written = [script_of(reference) for reference in references]
    for name in ("Chinese", "Latin", "mixed", "other"):
        for row, script in enumerate(written):
            if script == name:
                yield f"script: {name}", row
