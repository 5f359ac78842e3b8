"""The line of models of each name: who is champion, and whom it beat.

One JSON file per name in the project's own folder, replaced atomically under a lock. Registering the same model
again changes nothing. A champion is remembered with its predecessor, so that judging the same model again
compares it with the same rival, and is served from the cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks import store
from tasks.artifacts import Model, Registration


class Entry(BaseModel):
    """One registered model."""

    model_config = ConfigDict(frozen=True)

    version: int
    digest: str
    model: str
    """The `Model`, as JSON: read back only when it is needed, since its bytes may be gone."""
    outcome: Literal["pass", "fail", "inconclusive"]
    scores: dict[str, float]
    dataset: str
    """Digest of the dataset that it was scored on."""
    predecessor: int | None
    """Version of the champion at the time it was registered."""


class Line(BaseModel):
    """Everything registered under one name."""

    champion: int | None = None
    entries: list[Entry] = []

    def find(self, digest: str) -> Entry | None:
        """Return the entry of a model."""
        return next((entry for entry in self.entries if entry.digest == digest), None)

    def at(self, version: int | None) -> Entry | None:
        """Return the entry of a version."""
        return next((entry for entry in self.entries if entry.version == version), None)


def _folder() -> Path:
    return store.home() / "registry"


def line(name: str) -> Line:
    """Return everything registered under a name."""
    try:
        return Line.model_validate_json((_folder() / f"{name}.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Line()


@contextlib.contextmanager
def _changing(name: str) -> Iterator[Line]:
    with store.writing(str(_folder())):
        _folder().mkdir(parents=True, exist_ok=True)
        with (_folder() / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = line(name)
            yield current
            partial = _folder() / f"{name}.partial"
            partial.write_text(current.model_dump_json(indent=2), encoding="utf-8")
            partial.replace(_folder() / f"{name}.json")


def incumbent(name: str, challenger: Model) -> Model | None:
    """Return the champion that a model has to face, or None when there is none.

    For a model that is registered already, that is the champion it faced then.
    """
    known = line(name)
    digest = getattr(challenger, "digest", None)
    if not isinstance(digest, str):  # in a plan, before the model exists
        return None
    mine = known.find(digest)
    champion = known.at(mine.predecessor if mine else known.champion)
    if champion is None:
        return None
    try:
        return Model.model_validate(json.loads(champion.model))
    except ValidationError as reason:
        logging.getLogger("finetune").warning(
            "champion %s version %d cannot be compared: %s",
            name,
            champion.version,
            reason.errors()[0]["msg"],
        )
        return None


def add(
    name: str,
    model: Model,
    outcome: Literal["pass", "fail", "inconclusive"],
    scores: dict[str, float],
    dataset: str,
) -> Registration:
    """Register a model, or judge it anew; on *pass* it becomes the champion, unless another has become it since."""
    with _changing(name) as current:
        entry = current.find(model.digest)
        if entry is None:
            entry = Entry(
                version=len(current.entries) + 1,
                digest=model.digest,
                model=model.model_dump_json(),
                outcome=outcome,
                scores=scores,
                dataset=dataset,
                predecessor=current.champion,
            )
            current.entries.append(entry)
        elif entry.outcome != outcome or entry.scores != scores:
            judged = {"outcome": outcome, "scores": scores, "dataset": dataset}
            current.entries.remove(entry)
            entry = entry.model_copy(update=judged)
            current.entries.append(entry)
        if outcome == "pass" and current.champion == entry.predecessor:
            current.champion = entry.version
        champion = current.champion == entry.version
    return Registration(name=name, version=entry.version, champion=champion, model=model)
