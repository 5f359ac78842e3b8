"""When a step may be skipped, and why it was not.

A key is the digest of *components*: the name of the step, the digest of each source file that the
step declares, and every leaf of its inputs, by value. Artifacts count by their digest, files by their
content; paths, times and the place where something runs never count. Prefect's own policies see only
the text of the task function and cannot be used for this: a changed helper would go unnoticed.

Each key's components are kept beside the cache, so that a miss can name the component that differs.
The lock is flock(2): the kernel frees it when its holder is killed, at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import fcntl
import functools
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.logging import get_logger
from prefect.results import ResultRecord  # type: ignore[attr-defined]
from prefect.transactions import IsolationLevel
from pydantic import BaseModel, ValidationError

from tasks import store

Components = dict[str, Any]


def components(
    step: str, sources: tuple[str, ...], inputs: Mapping[str, Any], packages: tuple[str, ...] = ()
) -> Components:
    """Return what a step's key is made of, by readable name.

    Args:
        step: Name of the step; two steps with equal inputs must not share a result.
        sources: Files and folders of this repository, relative to its root, that decide the output.
        inputs: The arguments of the call, without those that must not count.
        packages: Libraries another version of which gives another output.
    """
    parts: Components = {"step": step}
    for source in sources:
        for name, digest in _source_digests(source):
            parts[f"source {name}"] = digest
    for package in packages:
        parts[f"package {package}"] = version(package)
    for name, value in inputs.items():
        parts.update(_leaves(name, value))
    return parts


def key_of(parts: Components) -> str:
    """Return the key: the step's name, for people, and the digest of all components."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return f"{parts['step']}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


@functools.cache  # a process runs the code that it imported, also when a file is edited meanwhile
def _source_digests(source: str) -> list[tuple[str, str]]:
    path = store.PROJECT / source
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [
        (file.relative_to(store.PROJECT).as_posix(), store.file_digest(file)[:16]) for file in files
    ]


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "identity"):
        yield from _leaves(name, value.identity())
    elif isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _leaves(f"{name}.{field}", getattr(value, field))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from _leaves(f"{name}.{item.name}", getattr(value, item.name))
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _leaves(f"{name}.{key}", value[key])
    elif isinstance(value, list | tuple):
        yield f"{name}.length", len(value)
        for index, item in enumerate(value):
            yield from _leaves(f"{name}.{index}", item)
    else:
        yield name, _plain(name, value)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a {type(value).__name__} cannot be part of a cache key")


def pinned(inputs: Mapping[str, Any]) -> bool:
    """Say whether the inputs can only mean the same bytes; a step on others is never skipped."""
    return all(getattr(value, "pinned", True) for value in inputs.values())


@dataclass
class ContentPolicy(CachePolicy):
    """Prefect's side of it: compute the key of a call and leave its components for `why`."""

    step: str = ""
    sources: tuple[str, ...] = ()
    ignoring: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    entirely: tuple[str, ...] = ()

    def parts(self, inputs: Mapping[str, Any]) -> Components:
        """Return the components of a call's key."""
        counted = {name: value for name, value in inputs.items() if name not in self.ignoring}
        sources = tuple(source.format(**inputs) for source in self.sources)
        counted |= {
            f"{name}.digest": inputs[name].digest for name in self.entirely if name in inputs
        }
        return components(self.step, sources, counted, self.packages)

    def compute_key(
        self,
        task_ctx: Any,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the key under which Prefect keeps the result of this call."""
        if not pinned(inputs):
            return None
        parts = self.parts(inputs)
        key = key_of(parts)
        remember(key, parts)
        return key


def policy(step: str, **counted: tuple[str, ...]) -> ContentPolicy:
    """Return the policy of a step: its key, and a lock so that two runs never compute it at once."""
    made = ContentPolicy(step=step, **counted)  # type: ignore[arg-type]
    for source in made.sources:
        if "{" not in source:
            _source_digests(source)
    made.isolation_level = IsolationLevel.SERIALIZABLE
    made.lock_manager = Locks()
    return made


def _notes(step: str) -> Path:
    return store.home() / "keys" / step


def remember(key: str, parts: Components) -> None:
    """Keep a key's components, atomically; losing them costs an explanation, never a result."""
    note = _notes(parts["step"]) / f"{key}.json"
    if note.exists():
        os.utime(note)
        return
    with store.writing(str(store.home())):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{uuid.uuid4().hex}")
        partial.write_text(json.dumps(parts, ensure_ascii=False), encoding="utf-8")
        partial.replace(note)


def why(parts: Components) -> str:
    """Say why a call with these components is not served from the cache."""
    key = key_of(parts)
    earlier = [note for note in _notes(parts["step"]).glob("*.json") if note.stem != key]
    if (_notes(parts["step"]) / f"{key}.json").exists():
        return "ran with exactly this before, but its result was not finished or is damaged"
    if not earlier:
        return "has not run here before"
    recent = sorted(earlier, key=_newest)[:50]
    differences: list[list[str]] = [_difference(_read(note), parts) for note in recent]
    nearest: list[str] = min(differences, key=lambda names: len(names))
    return ", ".join(nearest)


def _newest(note: Path) -> float:
    return -note.stat().st_mtime


def _read(note: Path) -> Components:
    with contextlib.suppress(OSError, ValueError):
        loaded: Components = json.loads(note.read_text(encoding="utf-8"))
        return loaded
    return {}


def _difference(before: Components, after: Components) -> list[str]:
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return [f"{name}: {_show(before.get(name))} → {_show(after.get(name))}" for name in names]


def _show(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def damage(record: bytes) -> str | None:
    """Say why a stored record of Prefect cannot be used, or None when it can."""
    try:
        ResultRecord.deserialize(record)
    except ValidationError as reason:
        return str(reason.errors()[0]["msg"]).removeprefix("Value error, ")
    except ValueError as reason:
        return str(reason)
    return None


class Locks:
    """Prefect's lock manager on flock(2); see `prefect.locking.protocol.LockManager`."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, str]] = {}
        self._mutex = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # Prefect deep-copies policies; descriptors and thread locks stay with their owner.
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> Locks:
        return Locks()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Locks)

    __hash__ = None  # type: ignore[assignment]

    def _file(self, key: str) -> Path:
        folder = store.home() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{Path(key).name}.lock"

    def _try(self, key: str) -> int | None:
        descriptor = os.open(self._file(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def _acquire(self, key: str, holder: str) -> bool:
        with self._mutex:
            if key in self._held:
                return self._held[key][1] == holder
            descriptor = self._try(key)
            if descriptor is None:
                return False
            self._held[key] = (descriptor, holder)
            return True

    def _waits(
        self, key: str, holder: str, timeout: float | None, poll: float = 0.2
    ) -> Iterator[float]:
        """Yield the seconds to sleep until the lock is held or the time is up."""
        started, told = time.monotonic(), False
        while not self._acquire(key, holder):
            if timeout is not None and time.monotonic() - started >= timeout:
                return
            if not told:
                get_logger("finetune").info("another run is computing %s; waiting for it", key)
                told = True
            yield poll

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Take the lock, waiting at most `acquire_timeout` seconds; None waits for ever."""
        for pause in self._waits(key, holder, acquire_timeout):
            time.sleep(pause)
        return self.is_lock_holder(key, holder)

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Take the lock without blocking the event loop."""
        for pause in self._waits(key, holder, acquire_timeout):
            await asyncio.sleep(pause)
        return self.is_lock_holder(key, holder)

    def release_lock(self, key: str, holder: str) -> None:
        """Give the lock back.

        Raises:
            ValueError: The holder does not hold it.
        """
        with self._mutex:
            descriptor, owner = self._held.get(key, (-1, None))
            if owner != holder:
                raise ValueError(f"{holder} does not hold the lock of {key}")
            del self._held[key]
            os.close(descriptor)

    def is_locked(self, key: str) -> bool:
        """Say whether anybody, in any process, holds the lock."""
        with self._mutex:
            if key in self._held:
                return True
            descriptor = self._try(key)
            if descriptor is None:
                return True
            os.close(descriptor)
            return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Say whether this holder has the lock."""
        with self._mutex:
            return self._held.get(key, (-1, None))[1] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock; False when the time is up first."""
        started = time.monotonic()
        while self.is_locked(key):
            if timeout is not None and time.monotonic() - started >= timeout:
                return False
            time.sleep(0.2)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds the lock, without blocking the event loop."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)
