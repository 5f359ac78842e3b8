"""Where an artifact lies in a bucket, what its record says, and the threads that move its files.

Uploads (`s3.py`) and downloads (`mirror.py`) share it. A record may have been written by anybody: it counts only when
its digest is that of its files, and no path leads out of the artifact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tasks.errors import ArtifactMissing
from tasks.s3 import split
from tasks.store import folder
from tasks.store.buckets import Bucket, bucket_of
from tasks.store.folder import RECORD

File = dict[str, Any]
"""One entry of a listing: `path`, `size`, `sha256`."""

WHERE = "store.uri"
_THREADS = 10
_IN_PARTS = 32 * 2**20
_PART = 16 * 2**20
_BLOCKS_AHEAD = 64
"""Blocks of 256 KiB that a download may be ahead of the disk: bounds its memory."""


@dataclass(frozen=True)
class Place:
    """An artifact's address, taken apart."""

    uri: str
    bucket: Bucket
    prefix: str
    """What its keys begin with; ends in a slash."""

    @classmethod
    def of(cls, uri: str) -> Place:
        """Take an address apart.

        Raises:
            ConfigError: It has no bucket.
        """
        return cls(uri, bucket_of(uri.rsplit("/", 2)[0]), f"{split(uri)[1]}/")

    def key(self, name: str) -> str:
        """Return the key of one of its files."""
        return self.prefix + name

    def sizes(self, files: list[File]) -> dict[str, int]:
        """Return the sizes of the files that are there, by path."""
        wanted = frozenset(self.key(file["path"]) for file in files)
        found = self.bucket.sizes(self.prefix, wanted)
        return {key.removeprefix(self.prefix): size for key, size in found.items()}


def standing_record(place: Place) -> tuple[bytes, list[File]]:
    """Return the record that stands in the bucket, and its listing.

    Raises:
        ArtifactMissing: There is none, or it is not that of this artifact.
    """
    text = place.bucket.get(place.key(RECORD))
    if text is None:
        raise ArtifactMissing(
            f"{place.uri}: the store does not hold this artifact (found no {RECORD}). "
            "Run again: what is gone is made anew."
        )
    try:
        digest, files = read_record(text)
    except ValueError as reason:
        raise ArtifactMissing(
            f"{place.uri}: its record cannot be read (found {reason}). "
            "Look at it, and remove it by hand if nobody wants it."
        ) from reason
    if not place.uri.endswith(f"/{digest[: folder.DIGITS]}"):
        raise ArtifactMissing(
            f"{place.uri}: its record is of something else (found {digest}). "
            "Look at it, and remove it by hand if nobody wants it."
        )
    return text, files


def read_record(text: bytes) -> tuple[str, list[File]]:
    """Return digest and listing of a record.

    Raises:
        ValueError: It is not a record of ours; above all, a path leads out of the artifact.
    """
    loaded = json.loads(text)
    if not isinstance(loaded, dict) or not isinstance(loaded.get("files"), list):
        raise ValueError("not a record")
    files = loaded["files"]
    for file in files:
        if not isinstance(file, dict) or set(file) != {"path", "size", "sha256"}:
            raise ValueError("not a listing")
        if not isinstance(file["size"], int) or not isinstance(file["sha256"], str):
            raise ValueError("not a listing")
        if not _is_inside(file["path"]):
            raise ValueError(f"path {file['path']!r}")
    if folder.digest_of(files) != loaded.get("digest"):
        raise ValueError("its digest is not that of its files")
    return str(loaded["digest"]), files


def _is_inside(path: Any) -> bool:
    if not isinstance(path, str) or not path or "\0" in path or path == RECORD:
        return False
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and str(pure) == path


def transfers(bucket: Bucket) -> Any:
    """Return the threads that move files; leaving the block by an exception cancels what is under way."""
    from s3transfer.manager import TransferConfig, TransferManager

    config = TransferConfig(
        multipart_threshold=_IN_PARTS,
        multipart_chunksize=_PART,
        max_request_concurrency=_THREADS,
        max_io_queue_size=_BLOCKS_AHEAD,
    )
    return TransferManager(bucket.client, config)
