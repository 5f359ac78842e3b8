"""The data card: what the rows look like that a model is trained and measured on, and what became of the others.

`look` reads a split once, keeping lengths and a drawn sample instead of its texts, so a split of any
size can be described; `data_card` turns what it saw into a page.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tasks.ledger import Ledger
from tasks.reports.markdown import escape, table
from tasks.reports.pictures import counted, histogram, image
from tasks.reports.wording import clipped, number, percent, quantile

PLACEHOLDERS = ("<UNK>", "BRAND")
"""Stand in AdvertiseGen for what its authors removed: one of them in a third of the answers."""


_FILES = 50
"""Files that the table names; a page of a thousand shards would be read by nobody."""


class Row(NamedTuple):
    """A prompt and the answer that the data has for it."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Tokens:
    """How long some texts are for the model that will read them."""

    what: str
    """`train prompts`, `dev answers`, …"""
    texts: int
    quantiles: Mapping[str, float]
    """`p50`, `p95`, `p99`, `max`."""
    limit: int
    """Tokens that the model reads of them."""
    cut: int
    """Texts that are longer."""
    edges: Sequence[float] = ()
    """Borders of the bars of a histogram."""
    counts: Sequence[int] = ()


@dataclass
class Split:
    """What `look` saw of one split."""

    rows: int = 0
    prompt_characters: array[int] = field(default_factory=lambda: array("L"))
    answer_characters: array[int] = field(default_factory=lambda: array("L"))
    placeholders: dict[str, int] = field(default_factory=dict)
    """Answers that hold each placeholder."""
    sample: list[Row] = field(default_factory=list)


def look(rows: Iterable[Row], sample: int = 10, seed: int = 17) -> Split:
    """Read a split once; the sample is drawn evenly from all of it."""
    split, draw = Split(placeholders=dict.fromkeys(PLACEHOLDERS, 0)), random.Random(seed)
    for row in rows:
        split.rows += 1
        split.prompt_characters.append(len(row.prompt))
        split.answer_characters.append(len(row.answer))
        for each in PLACEHOLDERS:
            split.placeholders[each] += each in row.answer
        if len(split.sample) < sample:
            split.sample.append(row)
        elif (place := draw.randrange(split.rows)) < sample:
            split.sample[place] = row
    return split


def data_card(ledger: Ledger, splits: Mapping[str, Split], tokens: Sequence[Tokens] = ()) -> str:
    """Return the page of a dataset.

    Args:
        ledger: What became of every row that was read.
        splits: What `look` saw, by split; the first is the one that is trained on.
        tokens: How long the texts are for the model.
    """
    parts = [_headline(ledger), "## Where every row went", _files(ledger)]
    if ledger.reasons:
        parts += ["## Why rows were rejected", _reasons(ledger)]
    parts += ["## What the splits share", _overlap(ledger)]
    parts += [
        "## What the rows hold",
        _counts(ledger, splits),
        "## Length in characters",
        _lengths(splits),
    ]
    for name, split in list(splits.items())[:1]:
        parts += [_picture(name, "prompts", split.prompt_characters)]
        parts += [_picture(name, "answers", split.answer_characters)]
    if tokens:
        parts += ["## Length in tokens, and what the model does not see", _tokens(tokens)]
        parts += [_token_picture(each) for each in tokens if each.counts and "train" in each.what]
    for name, split in list(splits.items())[:1]:
        parts += [f"## Rows of {escape(name)} to look at", _sample(split.sample)]
    return "\n\n".join(parts) + "\n"


def _headline(ledger: Ledger) -> str:
    kept = sum(ledger.kept.values())
    named = ", ".join(f"{rows:,} {escape(name)}" for name, rows in ledger.kept.items())
    lines = [
        f"**{kept:,} of {ledger.rows:,} rows kept** ({named}), format {escape(ledger.format)}."
    ]
    lines.append(f"Train and dev were told apart by {escape(ledger.split_by)}.")
    if ledger.beyond_limit:
        lines.append(f"{ledger.beyond_limit:,} training rows lie beyond data.limit.")
    if ledger.left_out:
        lines.append(f"Not read: {escape(', '.join(ledger.left_out))}.")
    if ledger.template:
        lines.append(f"Around each prompt stands: {escape(ledger.template)}")
    return " ".join(lines)


def _files(ledger: Ledger) -> str:
    rows = []
    for file in ledger.files[:_FILES]:
        lies = f"{file.container}, {file.encoding}" if file.encoding else file.container
        counts = (file.rows, file.kept, file.duplicates, file.rejected)
        unread = " (then the limit)" if file.unread else ""
        named = [escape(file.file), escape(file.split), escape(file.format or "no rows")]
        rows.append([*named, escape(lies + unread), *(f"{count:,}" for count in counts)])
    if len(ledger.files) > _FILES:
        rows.append([f"and {len(ledger.files) - _FILES:,} more", *[""] * 7])
    if len(rows) > 1:
        kept = sum(file.kept for file in ledger.files)
        sums = (ledger.rows, kept, ledger.duplicates, ledger.rejected)
        rows.append(["**all**", "", "", "", *(f"**{count:,}**" for count in sums)])
    header = ["file", "split", "format", "lies as", "rows", "kept", "duplicates", "rejected"]
    return table(header, rows, "llllr")


def _reasons(ledger: Ledger) -> str:
    rows = [
        [escape(code), f"{count:,}", percent(count / ledger.rows)]
        for code, count in ledger.reasons.items()
    ]
    told = "Every one stands in `rejected.jsonl` beside the rows, with its file, line and text."
    return table(["reason", "rows", "share"], rows, "lr") + f"\n\n{told}"


def _overlap(ledger: Ledger) -> str:
    found = ledger.overlap
    if found is None:
        return "Not looked for (data.overlap is off)."
    dev = ledger.kept["dev"]
    run = f"share {found.run_characters} characters of the answer with a training answer"
    least = "" if found.near_complete else ", at least"
    if found.near_looked_at < sum(ledger.kept.values()):
        least += f" (of {found.near_looked_at:,} compared)"
    searched = "" if found.dev_looked_at == dev else f" (of {found.dev_looked_at:,} searched)"
    rows = [
        ["dev rows whose prompt is trained on", _share(found.dev_with_trained_prompt, dev)],
        [f"dev rows that {run}{searched}", _share(found.dev_with_shared_run, found.dev_looked_at)],
        [
            f"rows that are near-duplicates of another{least}",
            _share(found.near_rows, found.near_looked_at),
        ],
    ]
    shared = ", ".join(f"“{escape(run)}”" for run in found.shared_runs)
    return table(["", "rows"], rows, "lr") + (f"\n\nShared, for example: {shared}" * bool(shared))


def _counts(ledger: Ledger, splits: Mapping[str, Split]) -> str:
    rows = []
    for name, split in splits.items():
        placeholders = [_share(split.placeholders[each], split.rows) for each in PLACEHOLDERS]
        repeated = f"{ledger.repeated_prompts.get(name, 0):,}"
        rows.append([escape(name), f"{split.rows:,}", *placeholders, repeated])
    held = [f"answers with {escape(each)}" for each in PLACEHOLDERS]
    return table(["split", "rows", *held, "repeated prompts"], rows, "lr")


def _lengths(splits: Mapping[str, Split]) -> str:
    rows = []
    for name, split in splits.items():
        texts = {"prompts": split.prompt_characters, "answers": split.answer_characters}
        for what, lengths in texts.items():
            marks = [quantile(lengths, share) for share in (0.5, 0.95, 0.99, 1.0)]
            rows.append([escape(f"{name} {what}"), *(number(mark, 0) for mark in marks)])
    return table(["", "p50", "p95", "p99", "max"], rows, "lr")


def _picture(split: str, what: str, lengths: Sequence[int]) -> str:
    title = f"Length of {split} {what} in characters"
    return image(histogram(lengths, title, "characters"), title)


def _tokens(tokens: Sequence[Tokens]) -> str:
    rows = [
        [
            escape(each.what),
            *(number(value, 0) for value in each.quantiles.values()),
            f"{each.limit:,}",
            _share(each.cut, each.texts),
        ]
        for each in tokens
    ]
    header = ["", *tokens[0].quantiles, "tokens kept", "longer than that"]
    return table(header, rows, "lr")


def _token_picture(tokens: Tokens) -> str:
    title = f"Length of {tokens.what} in tokens"
    marks = {0.5: tokens.quantiles["p50"], 0.95: tokens.quantiles["p95"]}
    return image(counted(tokens.edges, tokens.counts, title, "tokens", marks), title)


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
