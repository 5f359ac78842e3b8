"""Measures how long the prompts and answers of a dataset are in the tokens of a model, and what will be cut.

Every row is encoded as training does it (`encode.py`), of the tokenizer alone: no weights, no torch. What is kept
is how often each length occurs, so that the numbers are exact and the memory does not grow with the rows.

    lengths.json    {"limits": {"max_prompt_tokens", "max_answer_tokens"}, "splits": {"train": …, "dev": …}}

A split has `rows`, `examples` (a conversation has one for each answer), `prompt_tokens` and `answer_tokens` before
cutting (`p50`, `p95`, `p99`, `max`, `mean`, `histogram`), `prompts_cut` and `answers_cut`, and `emptied`, answers of
which nothing to read is left. One emptied answer is an error; the file is written before it is raised. Prompts
include their template and the marker of the answer, answers their stop token: what the limits are about.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

from . import encode, events, families, records, template, tokenizer
from .encode import Emptied, Example
from .errors import ConfigError, Interrupted
from .job import Job, TrainSpec
from .stopping import Stop

RESULT = "lengths.json"
_SPLITS = ("train", "dev")
_BINS = 30
_PROGRESS_SECONDS = 0.5


def measure(job: Job, stop: Stop) -> None:
    """Measure the splits that are there and write `lengths.json`.

    Raises:
        ConfigError: There is nothing to measure, or the limits do not even hold what surrounds a prompt.
        DataError: A record is malformed, or nothing to read is left of an answer.
        Interrupted: Asked to stop.
    """
    spec, folder = job.train or TrainSpec(), Path(job.data)
    paths = {name: folder / f"{name}.jsonl" for name in _SPLITS}
    paths = {name: path for name, path in paths.items() if path.is_file()}
    counter = _Counter(job, spec, sum(map(records.count, paths.values())), stop)
    if not counter.total:
        raise ConfigError(f"{folder}: no rows to measure (found 0). Give it a train.jsonl.")
    splits = {name: counter.count(path) for name, path in paths.items()}
    _write(Path(job.out), spec, splits)
    for name, split in splits.items():
        events.text(f"{name}: {split.told()}")
    for split in splits.values():
        split.emptied.refuse(spec)


class _Split:
    """How often each length occurs in a split."""

    def __init__(self) -> None:
        self.rows = 0
        self.prompts: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.prompts_cut = 0
        self.answers_cut = 0
        self.emptied = Emptied()

    def add(self, where: str, example: Example) -> None:
        """Count an example."""
        self.prompts[example.prompt_tokens] += 1
        self.answers[example.answer_tokens] += 1
        self.prompts_cut += example.prompt_cut
        self.answers_cut += example.answer_cut
        self.emptied.look(where, example)

    def described(self) -> dict[str, Any]:
        """Return what is written of it."""
        return {
            "rows": self.rows,
            "examples": self.prompts.total(),
            "prompt_tokens": statistics(self.prompts),
            "answer_tokens": statistics(self.answers),
            "prompts_cut": self.prompts_cut,
            "answers_cut": self.answers_cut,
            "emptied": self.emptied.count,
        }

    def told(self) -> str:
        """Say in a line what matters."""
        longest = f"{max(self.prompts, default=0):,} and {max(self.answers, default=0):,}"
        return (
            f"{self.rows:,} rows with {self.prompts.total():,} answers, prompts and answers of up to "
            f"{longest} tokens; cut to their limits: {self.prompts_cut:,} prompts, "
            f"{self.answers_cut:,} answers"
        )


class _Counter:
    """Reads splits and says how far it is."""

    def __init__(self, job: Job, spec: TrainSpec, total: int, stop: Stop) -> None:
        self.total = total
        self._family = template.templated(
            families.load(job.family), template.of_dataset(Path(job.data))
        )
        self._tokenizer = tokenizer.load(Path(job.base))
        self._spec, self._stop = spec, stop
        self._done, self._spoke = 0, time.monotonic()

    def count(self, path: Path) -> _Split:
        """Count the lengths of a split."""
        split, last = _Split(), ""
        for where, example in encode.stream(path, self._family, self._tokenizer, self._spec):
            if where != last:
                self._advance()
                split.rows, last = split.rows + 1, where
            split.add(where, example)
        return split

    def _advance(self) -> None:
        if self._stop.asked:
            raise Interrupted(f"interrupted after {self._done:,} rows; run again.")
        self._done += 1
        now = time.monotonic()
        if now - self._spoke >= _PROGRESS_SECONDS or self._done == self.total:
            self._spoke = now
            events.progress(self._done, self.total, "row")


def statistics(lengths: Counter[int]) -> dict[str, Any]:
    """Return the exact percentiles (nearest rank), the mean, and the histogram of lengths."""
    count = lengths.total()
    if not count:
        none = {"edges": [0, 1], "counts": [0]}
        return {"p50": 0, "p95": 0, "p99": 0, "max": 0, "mean": 0.0, "histogram": none}
    ordered = sorted(lengths)
    reached = list(accumulate(lengths[length] for length in ordered))
    p50, p95, p99 = (ordered[bisect_left(reached, count * p / 100)] for p in (50, 95, 99))
    total = sum(length * times for length, times in lengths.items())
    return {
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": ordered[-1],
        "mean": round(total / count, 3),
        "histogram": _histogram(lengths, p99),
    }


def _histogram(lengths: Counter[int], most: int) -> dict[str, list[int]]:
    """Count by bins of equal width; the last one also takes the few that are far longer than most.

    Bin i holds the lengths from `edges[i]` on and below `edges[i + 1]`.
    """
    width = most // (_BINS - 1) + 1
    counts = [0] * _BINS
    for length, times in lengths.items():
        counts[min(length // width, _BINS - 1)] += times
    edges = [width * i for i in range(_BINS)]
    return {"edges": [*edges, max(width * _BINS, max(lengths) + 1)], "counts": counts}


def _write(out: Path, spec: TrainSpec, splits: dict[str, _Split]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    limits = {
        "max_prompt_tokens": spec.max_prompt_tokens,
        "max_answer_tokens": spec.max_answer_tokens,
    }
    found = {"limits": limits, "splits": {name: s.described() for name, s in splits.items()}}
    partial = out / f".{RESULT}.partial"
    partial.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / RESULT)
