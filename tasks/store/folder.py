"""The store that is a folder: directories named by the digest of what is in them.

    <store>/<kind>/<first 16 digits of the digest>/…files…, record.json

`record.json` is written last and the directory is moved into place in one rename, so that a kill at
any moment leaves either nothing or a whole artifact. It lists every file with size and SHA-256, which
`trouble` checks before an artifact is used. Beside the list it says how the artifact was made: the
inputs, versions, time. None of that enters the digest.

A relative store lies below the project's folder (`PROJECT`), wherever that is: artifacts then carry
relative addresses, and moving the folder moves the cache with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, TransientError

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that relative addresses start from."""
RECORD = "record.json"
_INCOMING = ".incoming"
DIGITS = 16
"""Digits of the digest that name a directory."""

_known: dict[tuple[str, int, int, int], str] = {}


def home() -> Path:
    """Return the folder of everything this project keeps on the machine."""
    return PROJECT / os.environ.get("FINETUNE_HOME", ".finetune")


def local() -> str:
    """Return the address of this machine's own store, where steps without a store put their work."""
    return f"{os.environ.get('FINETUNE_HOME', '.finetune')}/store"


def resolve(uri: str) -> Path:
    """Return the directory behind an address."""
    return PROJECT / uri.removeprefix("file://")


def address(store: str, kind: str, digest: str) -> str:
    """Return where an artifact lies in a store."""
    return f"{store.rstrip('/')}/{kind}/{digest[:DIGITS]}"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hashing it again only when size, time or inode changed."""
    stat = path.stat()
    seen = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if seen not in _known:
        with path.open("rb") as file:
            _known[seen] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[seen]


def listing(directory: Path) -> list[dict[str, Any]]:
    """Return name, size and SHA-256 of every file below a directory, sorted by name."""
    files = sorted(
        (path.relative_to(directory).as_posix(), path)
        for path in directory.rglob("*")
        if path.is_file() and path != directory / RECORD
    )
    return [
        {"path": name, "size": path.stat().st_size, "sha256": file_digest(path)}
        for name, path in files
    ]


def digest_of(files: list[dict[str, Any]]) -> str:
    """Return the digest of a listing."""
    lines = (f"{file['sha256']}  {file['size']}  {file['path']}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def trouble(uri: str, digest: str) -> str | None:
    """Say what is wrong with an artifact's bytes, or None when they are whole."""
    directory = resolve(uri)
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{uri}: the store does not hold this artifact"
    except (OSError, ValueError) as reason:
        return f"{uri}: its record cannot be read ({reason})"
    if not isinstance(record, dict) or record.get("digest") != digest:
        return f"{uri}: its record is of something else"
    try:
        # a file that somebody else put there is no damage
        names = {file["path"] for file in record["files"]}
        found = digest_of([file for file in listing(directory) if file["path"] in names])
    except (KeyError, TypeError):
        return f"{uri}: its record cannot be read"
    except OSError as reason:
        return f"{uri}: a file cannot be read ({reason})"
    return None if found == digest else f"{uri}: its files are not those of the record"


def record(uri: str) -> dict[str, Any]:
    """Return the record of an artifact: its files, and how it was made."""
    loaded: dict[str, Any] = json.loads((resolve(uri) / RECORD).read_text(encoding="utf-8"))
    return loaded


@contextlib.contextmanager
def scratch(store: str) -> Iterator[Path]:
    """Yield an empty directory on the store's disk; it is gone afterwards unless committed.

    A lock beside it lives as long as this process: what killed processes left is swept here.

    Raises:
        ConfigError: The store cannot be written, or its disk is full.
    """
    with writing(store):
        incoming = resolve(store) / _INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        _sweep(incoming)
        with _locked(incoming) as lock:
            directory = lock.with_suffix("")
            directory.mkdir()
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
                lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(incoming: Path) -> Iterator[Path]:
    """Hold a new lock file. One that was swept between its making and its locking is not held: make another."""
    while True:
        path = incoming / f"{uuid.uuid4().hex}.lock"
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                yield path
                return


def _sweep(incoming: Path) -> None:
    for left in incoming.glob("*.lock"):
        with contextlib.suppress(OSError), left.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left.with_suffix(""), ignore_errors=True)
            left.unlink()
    for left in incoming.iterdir():
        if left.is_dir() and not left.with_suffix(".lock").exists():
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def writing(store: str) -> Iterator[None]:
    """Translate what a disk can refuse into sentences; what happens elsewhere than in the store passes through."""
    try:
        yield
    except OSError as reason:
        if reason.filename and not Path(str(reason.filename)).is_relative_to(resolve(store)):
            raise
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigError(
                f"store.uri: the disk of {resolve(store)} is full ({_free(store)}). "
                "Free some space and run again: finished steps are kept."
            ) from reason
        if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise ConfigError(
                f"store.uri: {resolve(store)} cannot be written ({reason.strerror}). "
                "Choose a directory that this user may write."
            ) from reason
        if reason.errno in (errno.EIO, errno.EBUSY, errno.ESTALE, errno.EAGAIN):
            raise TransientError(f"store.uri: {resolve(store)}: {reason.strerror}.") from reason
        raise


def _free(store: str) -> str:
    directory = resolve(store)
    while not directory.exists():
        directory = directory.parent
    return f"{shutil.disk_usage(directory).free / 2**20:.0f} MiB free"


def commit(directory: Path, store: str, kind: str, made: Mapping[str, Any]) -> tuple[str, str]:
    """Move a finished directory into the store and return its address and digest.

    The same bytes that are already there, whole, are kept. A damaged copy is replaced.

    Args:
        directory: What `scratch` of the same store yielded.
        store: Address of the store.
        kind: Sort of artifact, the folder below the store: `models`, `datasets`, …
        made: How it was made; goes into the record, not into the digest.

    Raises:
        ConfigError: The store cannot be written, or its disk is full.
    """
    files = listing(directory)
    digest = digest_of(files)
    uri = address(store, kind, digest)
    target = resolve(uri)
    with writing(store):
        write_synced(directory / RECORD, record_text(digest, files, made))
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if trouble(uri, digest) is None:
                return uri, digest
            swap_in(directory, target)
    return uri, digest


def swap_in(directory: Path, target: Path) -> None:
    """Move what `scratch` yielded to its place; a damaged directory that lies there goes."""
    if target.exists():
        damaged = directory.with_name(f"{directory.name}-damaged")
        target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    directory.rename(target)


def record_text(digest: str, files: list[dict[str, Any]], made: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record."""
    text = json.dumps({"digest": digest, "files": files, "made": made}, indent=2, default=str)
    return text.encode()


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def put(folder: Path, store: str, kind: str, made: Mapping[str, Any]) -> tuple[str, str]:
    """Copy a folder into the store and return its address and digest.

    Raises:
        ConfigError: The store cannot be written, or its disk is full.
    """
    with scratch(store) as copy, writing(store):
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        return commit(copy, store, kind, made)


def check(store: str) -> None:
    """Try the store by writing a file of our own and removing it.

    Raises:
        ConfigError: It cannot be written.
    """
    folder = resolve(store)
    with writing(store):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"x")
        probe.unlink()
