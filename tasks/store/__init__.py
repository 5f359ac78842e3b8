"""The store: directories named by the digest of what is in them, finished when their record exists.

    <store>/<kind>/<first 16 digits of the digest>/…files…, record.json

A store is a folder of this machine (`folder.py`) or a bucket of S3, or of what speaks its protocol (`s3.py`). Both
hold the same layout, so that what is staged is what a job finds. Every step goes through the names of this file and
never asks which one it is: `resolve` always gives a directory of this machine, whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.s3 import S3Access, translated
from tasks.store import buckets, folder, mirror, s3
from tasks.store.folder import PROJECT, RECORD, digest_of, file_digest, home, listing, local

__all__ = [
    "PROJECT",
    "RECORD",
    "check",
    "commit",
    "digest_of",
    "file_digest",
    "home",
    "is_remote",
    "lies_in",
    "listing",
    "local",
    "put",
    "record",
    "resolve",
    "root_of",
    "scratch",
    "trouble",
    "use",
    "writing",
]


def is_remote(uri: str) -> bool:
    """Say whether an address is of a bucket."""
    return uri.startswith("s3://")


def use(store: str, access: S3Access) -> None:
    """Say how a store is reached, for the rest of the process; a folder needs no saying."""
    if is_remote(store):
        buckets.use(store, access)


def root_of(uri: str) -> str:
    """Return the store that an artifact lies in, so that what is made of it lands beside it."""
    return uri.rsplit("/", 2)[0]


def lies_in(uri: str, store: str) -> bool:
    """Say whether an artifact lies in a store, however the store's address is written."""
    if is_remote(uri) or is_remote(store):
        return root_of(uri) == store.rstrip("/")
    return folder.resolve(root_of(uri)) == folder.resolve(store)


def resolve(uri: str) -> Path:
    """Return the directory behind an address; of a remote artifact its copy on this machine, made now if need be.

    Raises:
        ArtifactMissing: A remote artifact is not there, or is damaged.
        TransientError: It cannot be reached now.
        ConfigError: It may not be read, or the disk for the copy is full.
    """
    return mirror.resolve(uri) if is_remote(uri) else folder.resolve(uri)


def trouble(uri: str, digest: str) -> str | None:
    """Say what is wrong with an artifact's bytes, or None when they are whole.

    Raises:
        TransientError: A remote artifact cannot be looked at now.
        ConfigError: It may not be looked at.
    """
    return s3.trouble(uri, digest) if is_remote(uri) else folder.trouble(uri, digest)


def record(uri: str) -> dict[str, Any]:
    """Return the record of an artifact: its files, and how it was made."""
    return s3.record(uri) if is_remote(uri) else folder.record(uri)


def scratch(store: str) -> AbstractContextManager[Path]:
    """Give an empty directory to make an artifact in; it is gone afterwards unless committed.

    It lies on the disk of the store, or of the mirror of remote ones.

    Raises:
        ConfigError: It cannot be written, or its disk is full.
    """
    return folder.scratch(str(mirror.root()) if is_remote(store) else store)


@contextmanager
def writing(store: str) -> Iterator[None]:
    """Translate what a disk or a bucket can refuse into sentences; other exceptions pass through."""
    if is_remote(store):
        with folder.writing(str(mirror.root())), translated("store.uri", store):
            yield
    else:
        with folder.writing(store):
            yield


def commit(directory: Path, store: str, kind: str, made: Mapping[str, Any]) -> tuple[str, str]:
    """Move a finished directory into the store and return its address and digest.

    The same bytes that are already there, whole, are kept.

    Args:
        directory: What `scratch` of the same store yielded.
        store: Address of the store.
        kind: Sort of artifact, the folder below the store: `models`, `datasets`, …
        made: How it was made; goes into the record, not into the digest.

    Raises:
        ConfigError: The store cannot be written, its disk is full, or it holds something else there.
        TransientError: The store cannot be reached now; what arrived is kept.
    """
    chosen = s3.commit if is_remote(store) else folder.commit
    return chosen(directory, store, kind, made)


def put(
    source: Path,
    store: str,
    kind: str,
    made: Mapping[str, Any],
    progress: s3.Progress | None = None,
) -> tuple[str, str]:
    """Copy a folder into the store and return its address and digest; the folder stays.

    Args:
        source: The folder; a record in it is not copied.
        store: Address of the store.
        kind: Sort of artifact, the folder below the store.
        made: How it was made; goes into the record, not into the digest.
        progress: Called with the bytes done and the bytes expected of an upload.

    Raises:
        ConfigError: The store cannot be written, its disk is full, or it holds something else there.
        TransientError: The store cannot be reached now; what arrived is kept.
    """
    if is_remote(store):
        return s3.put(source, store, kind, made, progress)
    return folder.put(source, store, kind, made)


def check(store: str) -> None:
    """Try a store by writing something of our own and removing it.

    Raises:
        ConfigError: It cannot be written, or reached.
        TransientError: It is throttling.
    """
    if is_remote(store):
        s3.check(store)
    elif "://" in store and not store.startswith("file://"):
        raise ConfigError(
            f"store.uri: only folders and buckets can be a store (found {store!r}). "
            "Give a path, or s3://bucket/prefix."
        )
    else:
        folder.check(store)
