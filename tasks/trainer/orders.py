"""Reads a job, and says what is wrong with it before anything heavy is imported.

What each action needs stands in `_NEEDED`; directories that are read must be there. Whether the models fit each
other is found by the code that opens them.
"""

from __future__ import annotations

import json
from pathlib import Path

from . import families
from .errors import ConfigError
from .job import Job
from .team import size_of_environment

_NEEDED: dict[str, tuple[str, ...]] = {
    "train": ("base", "data", "out", "work"),
    "predict": ("base", "data", "out", "work"),
    "lengths": ("base", "data", "out", "work"),
    "serve": ("base",),
    "merge": ("base", "tuned", "out"),
    "adopt": ("base", "tuned", "out"),
    "export": ("base", "tuned", "out"),
}
_READ = ("base", "data", "tuned")

_RECORD = "model.json"  # model.RECORD, whose module imports torch

ACTIONS = tuple(_NEEDED)
"""What the trainer can be asked for."""

# Why a tuned model of some kind cannot be what an action makes.
_REFUSED = {
    ("merge", "prefix"): (
        "a prefix stands before the text and cannot become part of the weights. "
        "Answer with it as it is"
    ),
    ("merge", "full"): "it is a whole model already, with nothing to merge. Use it as it is",
    ("export", "full"): (
        "it is a whole model, not an adapter; only adapters have a form of ChatGLM's own. "
        "It loads with transformers as it is"
    ),
}


def read(path: Path, action: str) -> Job:
    """Read a job and check what can be checked at once.

    Raises:
        ConfigError: It is not a job, or cannot work as asked.
    """
    try:
        job = Job.read(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: not a job ({type(error).__name__}: {error}).") from error
    if job.action != action:
        raise ConfigError(f"{path}: action: the job says {job.action!r} (asked for {action!r}).")
    if action in ("train", "lengths") and job.tuned:
        raise ConfigError(f"{path}: tuned: only a base model is trained (found {job.tuned!r}).")
    _check_places(job, path)
    families.load(job.family)
    if action in ("adopt", "export") and job.family != "chatglm":
        raise ConfigError(
            f"{path}: family: adapters are exchanged with ChatGLM's own layouts only "
            f"(found {job.family!r}). Use 'chatglm'."
        )
    if action in ("merge", "export"):
        _check_kind(job)
    if action != "train" and size_of_environment() > 1:
        raise ConfigError(
            f"{path}: action: only train runs in several processes (found {action!r}). "
            "Start it without torchrun."
        )
    return job


def _check_places(job: Job, path: Path) -> None:
    needed = _NEEDED[job.action]
    for name in dict.fromkeys([*needed, *_READ]):
        place = getattr(job, name)
        if name in needed and not place:
            raise ConfigError(f"{path}: {name}: is empty. Name a directory.")
        if place and name in _READ and not Path(place).is_dir():
            raise ConfigError(f"{path}: {name}: no such directory (found {place!r}). Name another.")
    if job.action in ("merge", "adopt", "export"):
        out = Path(job.out).resolve()
        for name in ("base", "tuned"):
            if out == Path(getattr(job, name)).resolve():
                raise ConfigError(f"{path}: out: is the directory of {name}. Name another.")


def _check_kind(job: Job) -> None:
    """Refuse what cannot be merged or exported, by the record of the tuned model."""
    record = Path(job.tuned) / _RECORD
    try:
        kind = json.loads(record.read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{record}: not the record of a tuned model ({type(error).__name__}: {error}). "
            "Name a model that was tuned here; an adapter from elsewhere is read by `adopt`."
        ) from error
    if reason := _REFUSED.get((job.action, kind)):
        raise ConfigError(f"{record}: {reason} (found kind {kind!r}).")
