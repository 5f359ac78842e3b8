"""Checkpoints that are whole or not there, and one trainer to a work directory.

    work/lock                     held while a trainer runs
    work/step-000050/             weights, optimizer, random streams as safetensors; state.json
    work/step-000050/manifest.json   name, size and sha256 of each file; written last

A checkpoint is written into a hidden directory, synced, and renamed: a kill at any moment leaves the
old one or the new one. Reading verifies every hash and falls back to the one before. Two are kept.
Nothing is pickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from . import events
from .errors import ConfigError, Interrupted

if TYPE_CHECKING:
    from torch import Tensor

    from .stopping import Stop

_KEEP = 2
_MANIFEST = "manifest.json"
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Everything from which a run continues as if it had not stopped."""

    step: int
    """Optimizer steps done, which is also the position in the data and in the schedule."""
    job: str
    """Digest of what decides the weights; a checkpoint of another job is refused."""
    tensors: dict[str, dict[str, Tensor]]
    """By file: `weights`, `optimizer`, `random`."""
    values: dict[str, Any] = field(default_factory=dict)
    """What JSON holds: the metrics so far, counters, Python's random stream."""


def save(work: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and drop all but the newest two."""
    final = work / f"step-{checkpoint.step:06d}"
    partial = work / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in checkpoint.tensors.items():
        write_tensors(tensors, partial / f"{name}.safetensors")
    state = {"step": checkpoint.step, "job": checkpoint.job, "values": checkpoint.values}
    (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
    files = [_described(path) for path in sorted(partial.iterdir())]
    manifest = {"step": checkpoint.step, "job": checkpoint.job, "files": files}
    (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(work)
    for old in _found(work)[_KEEP:]:
        shutil.rmtree(old)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors; equal tensors give equal bytes.

    Raises:
        ConfigError: The disk is full, or the place cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt"})  # transformers refuses files without it
        path.chmod(0o644)  # it makes files that only their owner can read
    except SafetensorError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error}). Free space, or choose another directory."
        ) from error


def newest(work: Path, job: str) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, None where there is none.

    Raises:
        ConfigError: The directory holds checkpoints of another job.
    """
    for path in _found(work):
        if trouble := _trouble(path):
            events.text(f"checkpoint {path.name} is damaged and is left out: {trouble}")
            shutil.rmtree(path)
            continue
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if state["job"] != job:
            raise ConfigError(
                f"{path}: a checkpoint of another job (found {state['job'][:12]}, this one is "
                f"{job[:12]}). Give the job a work directory of its own, or clear this one."
            )
        tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
        return Checkpoint(state["step"], job, tensors, state["values"])
    return None


@contextmanager
def alone(work: Path, stop: Stop) -> Iterator[None]:
    """Hold the work directory; wait for another trainer that does.

    Raises:
        Interrupted: Asked to stop while waiting.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        waiting = False
        while not _locked(lock.fileno()):
            if not waiting:
                events.text(f"another trainer works in {work}: waiting for it to end")
            waiting = True
            if stop.asked:
                raise Interrupted("interrupted while waiting for another trainer.")
            time.sleep(0.1)
        for partial in work.glob(".*.partial"):
            shutil.rmtree(partial)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _found(work: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    return sorted(work.glob("step-*"), key=lambda path: (len(path.name), path.name), reverse=True)


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest}


def _trouble(path: Path) -> str:
    """Say what is wrong with a checkpoint; empty when nothing is."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        for promised in manifest["files"]:
            if _described(path / promised["name"]) != promised:
                return f"{promised['name']} is not what the manifest promises"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
