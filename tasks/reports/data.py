"""The data card: what the rows look like that a model was trained and measured on.

`look` reads a split once, keeping lengths and a drawn sample instead of its texts, so a split of any
size can be described; `data_card` turns what it saw into a page.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.reports.markdown import escape, table
from tasks.reports.pictures import histogram, image
from tasks.reports.wording import clipped, number, percent, quantile

PLACEHOLDER = "<UNK>"
"""Stands in AdvertiseGen for what its authors removed: in a third of the answers."""


class Row(NamedTuple):
    """A prompt and the answer that the data has for it."""

    prompt: str
    answer: str


class Cut(NamedTuple):
    """How many texts were longer than what the model reads of them."""

    limit: int
    """Tokens that are kept."""
    cut: int
    """Texts that were longer."""
    rows: int


@dataclass
class Split:
    """What `look` saw of one split."""

    rows: int = 0
    prompt_characters: list[int] = field(default_factory=list)
    answer_characters: list[int] = field(default_factory=list)
    placeholders: int = 0
    """Answers that hold the placeholder."""
    prompts: set[int] = field(default_factory=set)
    """Hashes of the prompts: enough to count repetitions and what two splits share."""
    sample: list[Row] = field(default_factory=list)


def look(rows: Iterable[Row], sample: int = 10, seed: int = 17) -> Split:
    """Read a split once; the sample is drawn evenly from all of it."""
    split, draw = Split(), random.Random(seed)
    for row in rows:
        split.rows += 1
        split.prompt_characters.append(len(row.prompt))
        split.answer_characters.append(len(row.answer))
        split.placeholders += PLACEHOLDER in row.answer
        split.prompts.add(hash(row.prompt))
        if len(split.sample) < sample:
            split.sample.append(row)
        elif (place := draw.randrange(split.rows)) < sample:
            split.sample[place] = row
    return split


def data_card(
    format_name: str, splits: Mapping[str, Split], cuts: Mapping[str, Cut] | None = None
) -> str:
    """Return the page of a dataset.

    Args:
        format_name: The format that the rows were read as.
        splits: What `look` saw, by split; the first is the one that is trained on.
        cuts: What the model does not see, by a name such as `train answers`.
    """
    total = sum(split.rows for split in splits.values())
    named = ", ".join(f"{split.rows:,} {escape(name)}" for name, split in splits.items())
    parts = [f"**{total:,} rows** ({named}), format {escape(format_name)}.", _counts(splits)]
    parts += ["## Length in characters", _lengths(splits)]
    if splits:
        first, split = next(iter(splits.items()))
        parts += [_picture(first, "prompts", split.prompt_characters)]
        parts += [_picture(first, "answers", split.answer_characters)]
    if cuts:
        parts += ["## What the model does not see", _cuts(cuts)]
    for name, split in splits.items():
        parts += [f"## Rows of {escape(name)} to look at", _sample(split.sample)]
        break
    return "\n\n".join(parts) + "\n"


def _counts(splits: Mapping[str, Split]) -> str:
    trained = next(iter(splits.values()), Split())
    rows = []
    for name, split in splits.items():
        shared = "" if split is trained else f"{len(split.prompts & trained.prompts):,}"
        placeholders = _share(split.placeholders, split.rows)
        repeated = f"{split.rows - len(split.prompts):,}"
        rows.append([escape(name), f"{split.rows:,}", placeholders, repeated, shared])
    header = ["split", "rows", f"answers with {escape(PLACEHOLDER)}", "repeated prompts"]
    return table([*header, f"prompts also in {escape(next(iter(splits), 'train'))}"], rows, "lr")


def _lengths(splits: Mapping[str, Split]) -> str:
    rows = []
    for name, split in splits.items():
        texts = {"prompts": split.prompt_characters, "answers": split.answer_characters}
        for what, lengths in texts.items():
            marks = [quantile(lengths, share) for share in (0.5, 0.95, 0.99, 1.0)]
            rows.append([escape(f"{name} {what}"), *(number(mark, 0) for mark in marks)])
    return table(["", "p50", "p95", "p99", "max"], rows, "lr")


def _picture(split: str, what: str, lengths: Sequence[int]) -> str:
    title = f"Length of {split} {what}"
    return image(histogram(lengths, title, "characters"), title)


def _cuts(cuts: Mapping[str, Cut]) -> str:
    rows = [
        [escape(name), f"{cut.limit:,}", _share(cut.cut, cut.rows)] for name, cut in cuts.items()
    ]
    return table(["texts", "tokens kept", "longer than that"], rows, "lr")


def _share(part: int, whole: int) -> str:
    return f"{part:,}\u00a0({percent(part / whole)})" if whole else "0"


def _sample(rows: Sequence[Row]) -> str:
    """Return a numbered list: V1 of the UI does not break lines within tables."""
    items = [
        f"{index}. prompt: {escape(clipped(row.prompt, 400))}\n"
        f"    - answer: {escape(clipped(row.answer, 600))}"
        for index, row in enumerate(rows, start=1)
    ]
    return "\n".join(items) or "No rows."
