"""Checkpoints that are whole or not there, and one job to a work directory.

    work/lock                        held while a trainer runs
    work/step-000050/                weights, optimizer, random streams as safetensors; state.json
    work/step-000050/manifest.json   name, size and sha256 of each file; written last

A checkpoint is written into a hidden directory, synced, and renamed: a kill at any moment leaves the
old one or the new one. Reading verifies every hash and falls back to the one before. Two are kept.
Nothing is pickled.

Where several processes train, each writes what only it has: its part of sharded tensors
(`weights-00001-of-00002.safetensors`) and its random stream; what all have alike is written by the first.
The manifest, which also says where in the whole tensors each part lies, is written once all parts are
on the disk: it is the sign that a checkpoint is complete. Tensors are read by slices (`parts.py`), so that
any number of processes continues what any other number began.

Machines that train together have each a work directory, which may be one on a shared file system or not. No two
write the same file. When a run is taken up again each machine must find the files of all: a shared file system
does that, and so does a prefix in S3 that all write to and are filled from, such as the checkpoint directory
of SageMaker. If a part had not arrived there when the machines were lost, the manifest does not hold on one of
them and the checkpoint is left out on all.
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
from .parts import Found, held, sharded
from .parts import full_tensor as full_tensor
from .team import Team

if TYPE_CHECKING:
    from torch import Tensor

    from .stopping import Stop

_KEEP = 2
_MANIFEST = "manifest.json"
_STATE = "state.json"
_RANDOM = "random"


@dataclass(frozen=True)
class Checkpoint:
    """Everything from which a run continues as if it had not stopped."""

    step: int
    """Optimizer steps done, which is also the position in the data and in the schedule."""
    job: str
    """Digest of what decides the weights; a checkpoint of another job is refused."""
    tensors: dict[str, dict[str, Tensor]]
    """By file: `weights` and `optimizer`, sharded or alike in all processes; `random`, of this one."""
    values: dict[str, Any] = field(default_factory=dict)
    """What JSON holds: the metrics so far, counters. Those of the first process are kept."""


def save(work: Path, checkpoint: Checkpoint, team: Team | None = None) -> None:
    """Write a checkpoint and drop all but the newest two; every process of a team calls it.

    Raises:
        ConfigError: The disk is full, or the place cannot be written.
    """
    team = team or Team.single()
    final = work / f"step-{checkpoint.step:06d}"
    partial = work / f".{final.name}.partial"
    if team.local_rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
    team.wait()
    partial.mkdir(parents=True, exist_ok=True)
    mine = [
        file
        for group, tensors in checkpoint.tensors.items()
        for file in _write(partial, group, tensors, team)
    ]
    files = [file for theirs in team.gather(json.dumps(mine)) for file in json.loads(theirs)]
    if team.leads:
        _conclude(partial, checkpoint, files, team.size)
        _move(partial, final)
    team.wait()
    apart = team.local_rank == 0 and not team.leads and partial.is_dir()
    if apart:
        _move(partial, final)
    if team.agree(apart) and team.leads and len(_found(work)) == 1:
        events.text(
            "each machine keeps its own part of the checkpoints: "
            "to continue after a loss of one, each must get the files of all"
        )
    if team.local_rank == 0:
        for old in _found(work)[_KEEP:]:
            shutil.rmtree(old, ignore_errors=not team.alone)  # machines may share the directory


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


def newest(work: Path, job: str, team: Team | None = None) -> Found | None:
    """Return the newest checkpoint that is whole, None where there is none; every process calls it.

    Raises:
        ConfigError: The directory holds checkpoints of another job.
    """
    team = team or Team.single()
    seen = team.gather(json.dumps([path.name for path in _found(work)]))
    for name in sorted({name for names in seen for name in json.loads(names)}, key=_age):
        path = work / name
        troubles = team.gather(_trouble(path, team))
        if trouble := next(filter(None, troubles), ""):
            _leave_out(path, trouble, team)
            continue
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["job"] != job:
            raise ConfigError(
                f"{path}: a checkpoint of another job (found {manifest['job'][:12]}, this one is "
                f"{job[:12]}). Give the job a work directory of its own, or clear this one."
            )
        return _opened(path, manifest, team)
    return None


@contextmanager
def alone(work: Path, stop: Stop, team: Team | None = None) -> Iterator[None]:
    """Hold the work directory; wait for another trainer that does. Every process of a team calls it.

    Raises:
        Interrupted: Asked to stop while waiting.
    """
    team = team or Team.single()
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        waiting = False
        while not team.agree(team.leads and _locked(lock.fileno())):
            if not waiting and team.leads:
                events.text(f"another trainer works in {work}: waiting for it to end")
            waiting = True
            if team.agree(stop.asked):
                raise Interrupted("interrupted while waiting for another trainer.")
            time.sleep(0.1)
        if team.local_rank == 0:
            for partial in work.glob(".*.partial"):
                shutil.rmtree(partial, ignore_errors=not team.alone)
        team.wait()
        yield


def _write(
    folder: Path, group: str, tensors: dict[str, Tensor], team: Team
) -> list[dict[str, Any]]:
    """Write what this process is to write of a group; describe the file, if there is one."""
    spread = any(sharded(tensor) for tensor in tensors.values())
    own = group == _RANDOM
    kept, places = {}, {}
    for name, tensor in tensors.items():
        local, block = held(tensor)
        # what is alike in all processes is the first one's to write
        if (sharded(tensor) and local.numel()) or own or (team.leads and not sharded(tensor)):
            kept[name], places[name] = local, block.at
    if not (kept or team.leads):
        return []
    path = folder / _file(group, team.rank, team.size if spread or own else 1)
    write_tensors(kept, path)
    _sync(path)
    described = _described(path) | {"group": group}
    return [described | {"places": places} if spread else described]


def _file(group: str, rank: int, of: int) -> str:
    return f"{group}.safetensors" if of == 1 else f"{group}-{rank + 1:05d}-of-{of:05d}.safetensors"


def _conclude(folder: Path, checkpoint: Checkpoint, files: list[dict[str, Any]], size: int) -> None:
    """Write the state, and the manifest over all files."""
    state = {"step": checkpoint.step, "job": checkpoint.job, "values": checkpoint.values}
    (folder / _STATE).write_text(json.dumps(state), encoding="utf-8")
    manifest = {
        "step": checkpoint.step,
        "job": checkpoint.job,
        "processes": size,
        "files": [_described(folder / _STATE), *files],
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for name in (_STATE, _MANIFEST):
        _sync(folder / name)


def _move(partial: Path, final: Path) -> None:
    _sync(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(final.parent)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _found(work: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    return sorted(work.glob("step-*"), key=lambda path: _age(path.name))


def _age(name: str) -> int:
    digits = name.removeprefix("step-")
    return -int(digits) if digits.isdecimal() else 1


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest}


def _trouble(path: Path, team: Team) -> str:
    """Say what is wrong with a checkpoint; empty when nothing is.

    The processes of a machine divide the files among them.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        promises = manifest["files"]
        for promise in promises[team.local_rank :: team.local_size]:
            promised = {name: promise[name] for name in ("name", "size", "sha256")}
            if _described(path / promised["name"]) != promised:
                return f"{promised['name']} is not what the manifest promises"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _leave_out(path: Path, trouble: str, team: Team) -> None:
    """Say that a checkpoint is damaged.

    It is removed only where there is one machine: of several, one may lack what others still have.
    """
    if team.leads:
        events.text(f"checkpoint {path.name} is damaged and is left out: {trouble}")
        if team.machines == 1:
            shutil.rmtree(path)
    team.wait()


def _opened(path: Path, manifest: dict[str, Any], team: Team) -> Found:
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    streams = path / _file(_RANDOM, team.rank, team.size)
    same = manifest["processes"] == team.size
    random = load_file(streams) if same and streams.is_file() else None
    found = Found(path, state["step"], state["values"], random)
    for file in manifest["files"]:
        if file.get("group", _RANDOM) != _RANDOM:
            found.add(file["group"], file["name"], file.get("places", {}))
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
