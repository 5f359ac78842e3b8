"""The line of models of each name: who is champion, whom it beat, and what it came from.

One JSON file per name in the project's own folder, replaced atomically under a lock. Registering the same model
again changes nothing. A champion is remembered with its predecessor, so that judging the same model again
compares it with the same rival, and is served from the cache. A person can promote any version or roll back to
the champion before; each change is kept with its reason, and a model that was rolled back is never promoted by a
verdict again.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks import store
from tasks.artifacts import Model, Registration, Scores
from tasks.errors import ConfigError


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
    evidence: str = ""
    """The `Scores`, as JSON."""
    lineage: dict[str, str] = {}
    """What it came from: dataset, base and its address, verdict, by digest."""
    withdrawn: bool = False
    """A person rolled it back: no verdict makes it champion again, only a person."""


class Change(BaseModel):
    """One change of the champion."""

    model_config = ConfigDict(frozen=True)

    version: int
    why: str
    at: str
    """When, UTC."""


class Line(BaseModel):
    """Everything registered under one name."""

    champion: int | None = None
    entries: list[Entry] = []
    changes: list[Change] = []

    def crown(self, version: int, why: str) -> None:
        """Make a version champion, and keep why."""
        if self.champion == version:
            return
        self.champion = version
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.changes.append(Change(version=version, why=why, at=now))

    def replace(self, entry: Entry) -> None:
        """Put an entry in the place of the one of its version."""
        at = next(i for i, each in enumerate(self.entries) if each.version == entry.version)
        self.entries[at] = entry

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


def names() -> list[str]:
    """Return the names under which something is registered."""
    return sorted(path.stem for path in _folder().glob("*.json"))


def add(
    name: str,
    model: Model,
    outcome: Literal["pass", "fail", "inconclusive"],
    scores: Scores,
    lineage: Mapping[str, str],
) -> Registration:
    """Register a model, or judge it anew; on *pass* it becomes the champion.

    Not so when another has become it since, or when a person has rolled this one back.
    """
    judged: dict[str, Any] = {
        "outcome": outcome,
        "scores": {metric: value.mean for metric, value in scores.metrics.items()},
        "dataset": scores.dataset,
        "evidence": scores.model_dump_json(),
        "lineage": dict(lineage),
    }
    with _changing(name) as current:
        entry = current.find(model.digest)
        if entry is None:
            entry = Entry(
                version=len(current.entries) + 1,
                digest=model.digest,
                model=model.model_dump_json(),
                predecessor=current.champion,
                **judged,
            )
            current.entries.append(entry)
        else:
            entry = entry.model_copy(update=judged)
            current.replace(entry)
        unchallenged = current.champion == entry.predecessor and not entry.withdrawn
        if outcome == "pass" and unchallenged:
            current.crown(entry.version, "passed")
        champion = current.champion == entry.version
    return Registration(name=name, version=entry.version, champion=champion, model=model)


def promote(name: str, version: int, why: str) -> Line:
    """Make a version champion, whatever its verdict.

    Raises:
        ConfigError: There is no such version, it is champion already, its bytes are gone, or no
            reason is given.
    """
    _require_reason(why)
    with _changing(name) as current:
        entry = _entry(current, name, version)
        _whole(entry, name)
        if current.champion == version:
            raise ConfigError(
                f"champions.{name}: version {version} is the champion already (found since "
                f"{current.changes[-1].at}, because: {current.changes[-1].why}). Nothing was changed."
            )
        current.replace(entry.model_copy(update={"withdrawn": False}))
        current.crown(version, why)
    return current


def roll_back(name: str, why: str) -> Line:
    """Make the champion before the present one champion again; the present one is withdrawn.

    Raises:
        ConfigError: There was none before, its bytes are gone, or no reason is given.
    """
    _require_reason(why)
    with _changing(name) as current:
        before = _before(current)
        if current.champion is None or before is None:
            raise ConfigError(
                f"champions.{name}: there is nothing to roll back to (found no other champion before). "
                "Promote a version instead."
            )
        _whole(before, name)
        dethroned = _entry(current, name, current.champion)
        current.replace(dethroned.model_copy(update={"withdrawn": True}))
        current.crown(before.version, why)
    return current


def _before(current: Line) -> Entry | None:
    """Return the champion before the present one that was not withdrawn since."""
    for change in reversed(current.changes):
        entry = current.at(change.version)
        if entry and entry.version != current.champion and not entry.withdrawn:
            return entry
    return None


def entry_of(name: str, version: int) -> Entry:
    """Return a registered version.

    Raises:
        ConfigError: There is none.
    """
    return _entry(line(name), name, version)


def model_of(name: str, version: int = 0, where: str = "subject") -> Model:
    """Return a registered model; version 0 is the champion.

    Args:
        name: Its line.
        version: Its version.
        where: The section that names it, for messages.

    Raises:
        ConfigError: There is no such name or version, or its bytes are gone.
    """
    current = line(name)
    if not current.entries:
        raise ConfigError(
            f"{where}.name: nothing is registered as {name!r} "
            f"(found {', '.join(names()) or 'none'}). Choose one of them."
        )
    if not version and current.champion is None:
        raise ConfigError(
            f"{where}.version: {name} has no champion (found {_versions(current)}). Name a version."
        )
    return _whole(_entry(current, name, version or current.champion or 0), name)


def _entry(current: Line, name: str, version: int) -> Entry:
    entry = current.at(version)
    if entry is None:
        raise ConfigError(
            f"champions.{name}: there is no version {version} (found {_versions(current)}). "
            "Choose one of them."
        )
    return entry


def _versions(current: Line) -> str:
    return ", ".join(str(each.version) for each in current.entries) or "none"


def _whole(entry: Entry, name: str) -> Model:
    try:
        return Model.model_validate(json.loads(entry.model))
    except ValidationError as reason:
        raise ConfigError(
            f"champions.{name}: version {entry.version} is not there any more "
            f"(found {reason.errors()[0]['msg']}). Train it again, or choose another."
        ) from reason


def _require_reason(why: str) -> None:
    if not why.strip():
        raise ConfigError(
            "champions.why: a person's decision needs a reason (found none). Say why."
        )
