"""What flows between steps: frozen references to bytes in the store.

Equal digests mean equal bytes. Nothing here holds a time, a host or a run, which would change the key
of every later step. A reference can only be built while the store still holds its bytes, whole: a
record of Prefect's cache that promises lost bytes therefore reads as *not there*, and the step runs again.

The import path of each class is part of the stored records: moving one forgets the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, model_validator

from tasks import store

Kind = Literal["base", "lora", "qlora", "prefix", "full"]
"""What the files of a `Model` are: a base model, adapters or a prefix for one, or all weights anew."""


class Artifact(BaseModel):
    """A finished directory of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    """Directory; relative to the project's folder when the store is, so that both can move."""
    digest: str
    """SHA-256 over the sorted lines `<sha256>  <size>  <relative path>` of its files."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if trouble := store.trouble(self.uri, self.digest):
            raise ValueError(trouble)
        return self

    def identity(self) -> dict[str, Any]:
        """Return what a cache key sees of it: the content, not the place."""
        return {"artifact": type(self).__name__, "digest": self.digest}


class RawFile(Artifact):
    """The source as it arrived."""

    files: tuple[str, ...]
    """Names of the files, relative to `uri`."""

    def identity(self) -> dict[str, Any]:
        """Return what a cache key sees of it: what a file is called can decide its split."""
        return super().identity() | {"files": self.files}

    def told(self) -> str:
        """Say in a few words what this is."""
        return f"{', '.join(self.files)} ({self.digest[:8]})"


class Dataset(Artifact):
    """`train.jsonl` and `dev.jsonl`: one neutral record `{"messages": […]}` a line; `ledger.json` accounts for all."""

    content: str
    """Digest of the rows and their template alone: other files that tell the same train the same model."""
    format: str
    records: dict[str, int]
    """Rows by split."""
    duplicates: int = 0
    """Rows left out because they say the same as another."""
    rejected: int = 0
    """Rows that cannot be used."""

    def identity(self) -> dict[str, Any]:
        """Return what a cache key sees of it."""
        return {"artifact": "Dataset", "digest": self.content}

    def told(self) -> str:
        """Say in a few words what this is."""
        rows = ", ".join(f"{count:,} {split}" for split, count in self.records.items())
        less = {"duplicates": self.duplicates, "rejected": self.rejected}
        without = "".join(f", {count:,} {what}" for what, count in less.items() if count)
        return f"{rows} rows{without} ({self.content[:8]})"


class DataCard(Artifact):
    """`data-card.md`, what a person should know of the rows, and `lengths.json`, how long they are in tokens."""

    cut: dict[str, float]
    """Share of the texts of which the model does not see all, 0 to 1, by `train prompts`, `dev answers`, …"""

    def told(self) -> str:
        """Say in a few words what this is."""
        cut = [f"{share:.1%} of {what}" for what, share in self.cut.items() if share]
        return f"cut: {', '.join(cut)}" if cut else "every row fits the model"


class Model(Artifact):
    """A base model, or what was trained on one."""

    family: str
    kind: Kind
    base: Model | None = None
    """The model under the adapters."""

    def identity(self) -> dict[str, Any]:
        """Return what a cache key sees of it: the same bytes are prompted otherwise in another family."""
        return super().identity() | {"family": self.family, "kind": self.kind}

    @property
    def foundation(self) -> Model:
        """The base model: of adapters the one beneath, else itself."""
        return self.base or self

    def told(self) -> str:
        """Say in a few words what this is."""
        what = "base model" if self.kind == "base" else self.kind
        return f"{what} of family {self.family} ({self.digest[:8]})"


class Predictions(Artifact):
    """`predictions.jsonl`: `{"prompt", "reference", "prediction", "finish"}` a line, in the split's order.

    Of a model also `generated_predictions.txt`, `{"labels", "predict"}` a line, as the published scripts write it.
    """

    rows: int
    dataset: str
    """Digest of the dataset that was answered."""
    model: str
    """Digest of the model that answered; empty for a baseline."""

    def told(self) -> str:
        """Say in a few words what this is."""
        return f"{self.rows:,} answers ({self.digest[:8]})"


class Interval(BaseModel):
    """A mean and the bounds of its bootstrap interval, in percent."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float


SUMMARY = "summary.json"
"""Beside the scores of each row: what they mean, and all measures of the whole."""
SLICES = "slices.json"
"""Beside them: the numbers of the rows of each slice, the same for every system that answered them."""


class Scores(Artifact):
    """`scores.jsonl`: the scores of each row, in the order of the predictions."""

    protocol: str
    """Id of the metric, with segmenter and versions."""
    dataset: str
    """Digest of the dataset whose prompts were answered."""
    rows: int
    empty: int
    """Answers that were empty; they score 0."""
    metrics: dict[str, Interval]
    """`rouge_1`, `rouge_2`, `rouge_l`, `bleu_4`: percent."""
    extras: dict[str, float]
    """Measures beside the protocol, such as attribute coverage: shares from 0 to 1."""

    def told(self) -> str:
        """Say in a few words what this is."""
        means = {name: f"{value.mean:.1f}" for name, value in self.metrics.items()}
        return f"ROUGE-2 {means['rouge_2']}, BLEU-4 {means['bleu_4']}"


class Comparison(BaseModel):
    """The new model against one rival on one metric, paired by row."""

    model_config = ConfigDict(frozen=True)

    rival: str
    metric: str
    difference: Interval
    """New minus rival, percentage points."""
    p: float | None = None
    """How likely it is by chance, against what a rule asks for, 0 to 1 (sign-flip test, two-sided)."""


class Verdict(Artifact):
    """`verdict.json`: whether the new model is good enough, and why."""

    outcome: Literal["pass", "fail", "inconclusive"]
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    def told(self) -> str:
        """Say in a few words what this is."""
        return f"{self.outcome}: {self.reasons[0]}"


class Registration(BaseModel):
    """A model's place in the line of its name."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    champion: bool
    """Whether this model now is the one to beat."""
    model: Model

    def told(self) -> str:
        """Say in a few words what this is."""
        return f"{self.name} version {self.version}{', champion' if self.champion else ''}"


class Endpoint(BaseModel):
    """A served model."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: str
    pid: int
    model: str
    """Digest of the model behind it."""
    golden: int
    """Golden prompts that were sent."""
    equal: int
    """How many of them were answered exactly as offline."""

    def told(self) -> str:
        """Say in a few words what this is."""
        return f"{self.url}, {self.equal} of {self.golden} golden answers equal"


class Report(Artifact):
    """`report.html`: the run on one page that needs nothing else."""

    def told(self) -> str:
        """Say in a few words what this is."""
        return f"report.html ({self.digest[:8]})"


def read(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file of an artifact."""
    with (store.resolve(artifact.uri) / name).open("rb") as file:
        return [orjson.loads(line) for line in file]


@dataclass(frozen=True)
class FinetuneResult:
    """Everything that one run of the flow came to."""

    registration: Registration
    data: Dataset
    answers: dict[str, Predictions]
    """By system: `tuned`, `base`, the baselines, and `champion` when there was one."""
    scores: dict[str, Scores]
    """By the same systems."""
    verdict: Verdict
    report: Report | None
    """None when it could not be written."""
    endpoint: Endpoint | None


@dataclass(frozen=True)
class EvaluateResult:
    """Everything that one evaluation came to."""

    answers: dict[str, Predictions]
    """By system: `tuned` is the subject, `against` whom it is compared with, and the baselines."""
    scores: dict[str, Scores]
    """By the same systems."""
    verdict: Verdict
    report: Report | None
    """None when it could not be written."""
