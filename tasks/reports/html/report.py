"""What the page of a run shows, and nothing else.

Everything but the name may be missing. Scores and differences are in percent and in percentage
points, measures beside the protocol as `reports/wording.py` knows them: shares from 0 to 1. Texts may
hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.reports.pictures import Point

if TYPE_CHECKING:
    from tasks.artifacts import Interval

NEW, BASE = "tuned", "base"
"""Names of the systems that the page treats apart: the new model, and what it was trained from."""

TITLES = {
    NEW: "new model",
    "champion": "champion",
    "against": "compared with",
    BASE: "base model",
    "retrieval": "nearest training answer",
    "template": "template",
    "random": "random training answer",
    "references": "references",
}
"""What systems are called before a person; any other name is shown as it is."""


@dataclass(frozen=True)
class Run:
    """What this run is."""

    name: str
    version: str = ""
    base: str = ""
    """The model it started from."""
    method: str = ""
    """Such as `lora, rank 16`."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows by split."""
    date: str = ""
    """Shown when it is given; a page without one is the same however often it is written."""


@dataclass(frozen=True)
class Override:
    """A person's decision against the verdict."""

    decision: str
    """What was done all the same, such as `deployed`."""
    by: str = ""
    reason: str = ""
    date: str = ""


@dataclass(frozen=True)
class Decision:
    """The verdict."""

    outcome: str
    """`pass`, `fail` or `inconclusive`."""
    reasons: Sequence[str] = ()
    override: Override | None = None


@dataclass(frozen=True)
class System:
    """One system that answered the rows."""

    name: str
    """A key of `TITLES`, or any other name."""
    rows: int
    metrics: Mapping[str, Interval] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)
    """Measures beside the protocol."""
    empty: int | None = None
    """Answers without a character; None where nobody counted."""
    protocol: str = ""
    """Full id of the protocol of its metrics."""
    note: str = ""
    """A few words on what this system is, such as a version."""


@dataclass(frozen=True)
class Difference:
    """The new model against a rival on one metric, paired by row."""

    rival: str
    metric: str
    points: Interval
    """New minus rival."""
    p: float | None = None
    """Two-sided p-value, 0 to 1; None where none was computed."""


@dataclass(frozen=True)
class Published:
    """Figures that others published, under settings of their own."""

    name: str
    settings: str
    """What they were measured with, such as `references cut to 64 tokens`."""
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Scoreboard:
    """Who scored what."""

    systems: Sequence[System]
    """In the order to show."""
    differences: Sequence[Difference] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the protocol and the intervals: segmenter, normalisation, reference cut, resamples, seed."""
    confidence: float = 0.95
    """That of the intervals, 0 to 1."""
    warnings: Sequence[str] = ()
    """What else a reader must know before believing a score."""
    published: Sequence[Published] = ()


@dataclass(frozen=True)
class Training:
    """How the training went."""

    points: Sequence[Point]
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Slice:
    """A part of the rows, and how the new model does on it."""

    kind: str
    """What the rows were parted by: `attribute`, `length`, `language`."""
    name: str
    rows: int
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Slices:
    """Parts of the rows."""

    parts: Sequence[Slice]
    by: str
    """Metric whose mean decides which slice is worst."""
    enough: int
    """Rows below which a slice says little: greyed, and behind the others."""


@dataclass(frozen=True)
class Spread:
    """Row scores on one metric."""

    metric: str
    new: Sequence[float]
    base: Sequence[float] = ()


@dataclass(frozen=True)
class Answered:
    """One row as the systems answered it."""

    number: int
    """Place in the split, from 1."""
    prompt: str
    reference: str
    answers: Mapping[str, str]
    """By system, in the order to show."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By system and metric."""
    missed: Sequence[str] = ()
    """What the prompt asks for and the new model does not say, as it stands in the prompt."""
    contradicted: Sequence[str] = ()
    """What the new model says against the prompt, as it stands in the answer."""
    cut: Sequence[str] = ()
    """Systems whose answer ended at the token limit."""
    history: Sequence[tuple[str, str]] = ()
    """Messages before the prompt: role and text."""


@dataclass(frozen=True)
class Group:
    """Answers that stand together, such as the worst 20."""

    title: str
    rows: Sequence[Answered]


@dataclass(frozen=True)
class SideBySide:
    """The answers that are shown, of all there are."""

    groups: Sequence[Group]
    of: int
    """Answers in the split."""
    by: str
    """Metric that told worst from best."""
    seed: int
    """By which the random ones were drawn."""


@dataclass(frozen=True)
class Share:
    """So many rows of so many."""

    what: str
    rows: int
    of: int


@dataclass(frozen=True)
class DataAccount:
    """What became of the rows of the source."""

    read: int
    kept: Mapping[str, int]
    """By split."""
    duplicates: int
    rejected: Mapping[str, int]
    """By reason."""
    leaks: Sequence[Share] = ()
    """Such as dev rows whose prompt is trained on."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Anything else: format, how the splits were told apart."""
    beyond_limit: int = 0
    """Kept rows that were then left out, because so many were not wanted."""


@dataclass(frozen=True)
class Lineage:
    """Where the model came from."""

    digests: Mapping[str, str] = field(default_factory=dict)
    """Of data, models, answers, scores: the artifact to its digest or address."""
    base_revision: str = ""
    spec: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    price: str = ""
    """With its currency; empty is shown as unknown."""


@dataclass(frozen=True)
class RunReport:
    """The page of one run."""

    run: Run
    verdict: Decision | None = None
    scores: Scoreboard | None = None
    training: Training | None = None
    slices: Slices | None = None
    spreads: Sequence[Spread] = ()
    answers: SideBySide | None = None
    data: DataAccount | None = None
    lineage: Lineage | None = None
    repeat: str = ""
    """Command that does it again."""
