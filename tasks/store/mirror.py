"""Copies of remote artifacts on this machine: downloaded once, every file checked against its SHA-256.

    <home>/mirror/<digits of the store's address>/<kind>/<first 16 digits of the digest>/…files…, record.json

A copy is moved into place whole, under a lock of its own, and looked at like any artifact of a folder each time it is
asked for: one that was harmed is downloaded again. Deleting the folder costs a download, never a result.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

from tasks.errors import ArtifactMissing
from tasks.s3 import translated
from tasks.store import folder
from tasks.store.buckets import is_absent
from tasks.store.folder import RECORD
from tasks.store.places import WHERE, File, Place, read_record, standing_record, transfers


def root() -> Path:
    """Return where copies of remote artifacts lie on this machine; also the disk of their scratch."""
    return folder.home() / "mirror"


def resolve(uri: str) -> Path:
    """Return this machine's copy of an artifact, downloaded once; a whole copy costs no request.

    Raises:
        ArtifactMissing: The store does not hold it, or an object is not what the record promises.
        TransientError: The network or the service failed in a way that may pass.
        ConfigError: It may not be read, or this machine's disk is full.
    """
    mirror = _place_of(uri)
    with folder.writing(str(root())), _locked(mirror):
        if not _is_whole(mirror):
            with folder.scratch(str(root())) as scratch, translated(WHERE, uri):
                _download(Place.of(uri), scratch)
                folder.swap_in(scratch, mirror)
    return mirror


def keep(directory: Path, uri: str, record: bytes) -> None:
    """Move a directory that has been uploaded to where its copy would be downloaded to.

    Raises:
        ConfigError: This machine's disk cannot be written, or is full.
    """
    mirror = _place_of(uri)
    with folder.writing(str(root())), _locked(mirror):
        if not _is_whole(mirror):
            folder.write_synced(directory / RECORD, record)
            folder.swap_in(directory, mirror)


def _place_of(uri: str) -> Path:
    store, kind, digits = uri.rsplit("/", 2)
    return root() / hashlib.sha256(store.encode()).hexdigest()[:16] / kind / digits


@contextlib.contextmanager
def _locked(mirror: Path) -> Iterator[None]:
    mirror.parent.mkdir(parents=True, exist_ok=True)
    with mirror.with_name(f".{mirror.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_whole(mirror: Path) -> bool:
    try:
        digest, _ = read_record((mirror / RECORD).read_bytes())
    except (OSError, ValueError):
        return False
    return digest.startswith(mirror.name) and folder.trouble(str(mirror), digest) is None


def _download(place: Place, scratch: Path) -> None:
    text, files = standing_record(place)
    with transfers(place.bucket) as manager:
        coming = []
        for file in files:
            target = scratch / file["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            key = place.key(file["path"])
            coming.append((file, manager.download(place.bucket.name, key, str(target))))
        for file, future in coming:
            try:
                future.result()
            except place.bucket.client.exceptions.ClientError as reason:
                if is_absent(reason):
                    raise _damaged(place, file, "nothing") from reason
                raise
            _compare(place, file, scratch / file["path"])
    folder.write_synced(scratch / RECORD, text)


def _compare(place: Place, file: File, path: Path) -> None:
    size, sha256 = path.stat().st_size, folder.file_digest(path)
    if (size, sha256) != (file["size"], file["sha256"]):
        raise _damaged(place, file, f"{size} bytes of SHA-256 {sha256[:16]}…")


def _damaged(place: Place, file: File, found: str) -> ArtifactMissing:
    return ArtifactMissing(
        f"{place.uri}/{file['path']}: not what the record promises (found {found}; promised "
        f"{file['size']} bytes of SHA-256 {file['sha256'][:16]}…). Nothing of a finished artifact is "
        "overwritten: remove this object by hand, and run again."
    )
