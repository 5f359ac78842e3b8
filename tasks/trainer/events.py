"""What the trainer says: lines on standard output, and how its parent reads them.

    [metric] step=10 loss=2.3102 learning_rate=0.002
    [progress] done=10 total=150 unit=step
    [ready] url=http://127.0.0.1:8000
    [error] data/train.jsonl:3: an answer is empty. Leave the row out.

Any other line is for people. Numbers are written so that `float()` reads them back, `nan` and
exponents included: a divergence must not become invisible. This is the trainer's only printer, and
`parse` and `definitions` are its only readers. Standard library only, because the parent imports it.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

_FIELD = re.compile(r"(\w+)=(\S+)")
_NUMBER = r"[-+]?(?:[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?|inf|nan)"

METRICS = {
    "loss": "mean over the answer tokens since the last line, in nats",
    "dev_loss": "the same over the held-out rows",
    "learning_rate": "rate of the step",
    "gradient_norm": "norm of the step's gradient before clipping",
    "tokens": "tokens read so far, padding apart",
    "tokens_per_second": "tokens read in a second, padding apart, over all devices",
    "peak_memory_gib": "most memory that the process held, GiB; on a GPU its own",
}
"""Every name that a metric line of a training can have, and what it is."""


@dataclass(frozen=True)
class Metric:
    """Numbers at an optimizer step."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    done: int
    total: int
    unit: str
    """`step` while training, `row` while answering or measuring."""


@dataclass(frozen=True)
class Ready:
    """A server answers."""

    url: str


@dataclass(frozen=True)
class Failure:
    """Why the process ends badly."""

    message: str


def metric(step: int, **values: float) -> None:
    """Report numbers at an optimizer step."""
    numbers = " ".join(f"{name}={float(value)!r}" for name, value in values.items())
    text(f"[metric] step={step} {numbers}")


def progress(done: int, total: int, unit: str) -> None:
    """Report how far the work is."""
    text(f"[progress] done={done} total={total} unit={unit}")


def ready(url: str) -> None:
    """Report that a server answers at an address."""
    text(f"[ready] url={url}")


def error(message: str) -> None:
    """Report why the process ends badly, in one line."""
    text(f"[error] {' '.join(message.split())}")


def text(line: str) -> None:
    """Write a line for people.

    A parent that is gone must not end the work before its checkpoint: the lines then go nowhere.
    """
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(line: str) -> Metric | Progress | Ready | Failure | None:
    """Read a line back; None for one that is for people."""
    tag, _, rest = line.strip().partition(" ")
    if tag == "[error]":
        return Failure(rest)
    fields = dict(_FIELD.findall(rest))
    try:
        if tag == "[metric]":
            step = int(fields.pop("step"))
            return Metric(step, {name: float(value) for name, value in fields.items()})
        if tag == "[progress]":
            return Progress(int(fields["done"]), int(fields["total"]), fields["unit"])
        if tag == "[ready]":
            return Ready(fields["url"])
    except (KeyError, ValueError):
        return None  # a line of someone else that happens to begin like ours
    return None


def definitions() -> list[dict[str, str]]:
    """Return what finds the metrics in a log: `Name` and `Regex`, as SageMaker's training jobs take them.

    Each expression has one group, the number; exponents, `nan` and `inf` are matched.
    """
    return [
        {"Name": name, "Regex": rf"\[metric\] step=[0-9]+ (?:\S+ )*{name}=({_NUMBER})(?: |$)"}
        for name in METRICS
    ]
