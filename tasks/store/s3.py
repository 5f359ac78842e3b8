"""The store that is a bucket: the folder's layout as objects, finished when the record's object exists.

    s3://<bucket>/<prefix>/<kind>/<first 16 digits of the digest>/…files…, record.json

The files go first and carry their SHA-256 as metadata; the record goes last, by a write that fails when a record
is there already. Its digest and its list of files are those of the same artifact in a folder. So an upload that
was killed goes on where it stopped, and several at once agree: the first record stands, and whoever comes later
finds the same digest in it.

Nothing that belongs to a finished artifact is overwritten, and nothing is deleted but our own probe. Without a
record, an object at our content address that is not as it should be is what a cut upload left: it is written anew.
With a record, it is damage, or somebody else's: an error that names it.

Readers see a mirror on this machine's disk, every file checked against its SHA-256, downloaded once. Parts of
uploads that were killed remain invisible; let a rule of the bucket (AbortIncompleteMultipartUpload) remove them.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, TransientError
from tasks.s3 import Unreachable, translated
from tasks.store import folder, mirror
from tasks.store.buckets import bucket_of
from tasks.store.folder import RECORD
from tasks.store.places import WHERE, File, Place, read_record, standing_record, transfers

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes expected, by one thread at a time."""

_THREADS = 10
_LONGEST_KEY = 1024
_CONTROL = frozenset(map(chr, [*range(32), 127]))
"""Listings are XML, which has no place for them."""


def trouble(uri: str, digest: str) -> str | None:
    """Say what is wrong with an artifact, or None when its record and all objects with their sizes are there.

    What was found whole, or was written, is not looked at again by this process, until `use` is called for its
    store: artifacts are validated every time they are read from a cache.

    Raises:
        TransientError: It could not be looked at. That is never the same as not being there.
        ConfigError: It may not be looked at.
    """
    with translated(WHERE, uri):
        place = Place.of(uri)
        if (uri, digest) in place.bucket.whole:
            return None
        text = place.bucket.get(place.key(RECORD))
        if text is None:
            return f"{uri}: the store does not hold this artifact"
        try:
            found, files = read_record(text)
        except ValueError as reason:
            return f"{uri}: its record cannot be read ({reason})"
        if found != digest:
            return f"{uri}: its record is of something else"
        sizes = place.sizes(files)
    for file in files:
        size = sizes.get(file["path"])
        if size != file["size"]:
            there = "is not there" if size is None else f"has {size} bytes, not {file['size']}"
            return f"{uri}: {file['path']} {there}"
    place.bucket.whole.add((uri, digest))
    return None


def record(uri: str) -> dict[str, Any]:
    """Return the record of an artifact.

    Raises:
        ArtifactMissing: There is none that can be read.
    """
    with translated(WHERE, uri):
        place = Place.of(uri)
        loaded: dict[str, Any] = json.loads(standing_record(place)[0])
    return loaded


def commit(directory: Path, store: str, kind: str, made: Mapping[str, Any]) -> tuple[str, str]:
    """Upload a finished directory and return its address and digest; the directory becomes the mirror.

    Raises:
        ConfigError: The store cannot be written, or holds something else at this address.
        TransientError: The network or the service failed in a way that may pass; another try goes on from there.
    """
    uri, digest, text = _stage(directory, store, kind, made, None)
    mirror.keep(directory, uri, text)
    return uri, digest


def put(
    source: Path,
    store: str,
    kind: str,
    made: Mapping[str, Any],
    progress: Progress | None = None,
) -> tuple[str, str]:
    """Upload a folder, which stays, and return its address and digest.

    Raises:
        ConfigError: The store cannot be written, or holds something else at this address.
        TransientError: The network or the service failed in a way that may pass; another try goes on from there.
    """
    uri, digest, _ = _stage(source, store, kind, made, progress)
    return uri, digest


def _stage(
    source: Path, store: str, kind: str, made: Mapping[str, Any], progress: Progress | None
) -> tuple[str, str, bytes]:
    """Upload what is not there, then the record; return address, digest, and the record that stands."""
    files = folder.listing(source)
    digest = folder.digest_of(files)
    uri = folder.address(store, kind, digest)
    with translated(WHERE, uri):
        place = Place.of(uri)
        _refuse_names(place, files)
        text = place.bucket.get(place.key(RECORD))
        if text is not None:
            _agree(place, text, digest)
        missing = _missing(place, files, finished=text is not None)
        _upload(place, source, missing, progress)
        if text is None:
            text = _finish(place, digest, folder.record_text(digest, files, made))
    place.bucket.whole.add((uri, digest))
    return uri, digest, text


def _refuse_names(place: Place, files: list[File]) -> None:
    for file in files:
        length = len(place.key(file["path"]).encode())
        if length > _LONGEST_KEY:
            raise ConfigError(
                f"store.uri: the key of {file['path'][:60]}… is too long for S3 (found {length} bytes, "
                f"at most {_LONGEST_KEY}). Choose a shorter prefix, or rename the file."
            )
        if _CONTROL & set(file["path"]):
            raise ConfigError(
                "store.uri: S3 cannot keep a name with control characters "
                f"(found {file['path'][:60]!r}). Rename the file."
            )


def _agree(place: Place, text: bytes, digest: str) -> None:
    try:
        found = read_record(text)[0]
    except ValueError as reason:
        found = str(reason)
    if found != digest:
        raise ConfigError(
            f"store.uri: {place.uri}/{RECORD} is there and is not ours (found {found}). "
            "Nothing is overwritten: choose another prefix, or remove it by hand."
        )


def _missing(place: Place, files: list[File], *, finished: bool) -> list[File]:
    """Return the files whose objects are not there, or are not as they should be in an unfinished artifact."""
    there = place.sizes(files)
    kept = [file for file in files if file["path"] in there]
    found = dict(zip((file["path"] for file in kept), _differences(place, kept), strict=True))
    wrong = {path: difference for path, difference in found.items() if difference}
    if finished and wrong:
        path, difference = next(iter(wrong.items()))
        raise ConfigError(
            f"store.uri: {place.uri}/{path} is not what its record says (found {difference}). "
            "Nothing is overwritten: remove this object by hand, and run again."
        )
    return [file for file in files if found.get(file["path"], "not there")]


def _differences(place: Place, files: list[File]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda file: _difference(place, file), files))


def _difference(place: Place, file: File) -> str:
    """Say in what an object differs from a file: its size, the SHA-256 it carries, the one S3 computed; or nothing."""
    head = place.bucket.head(place.key(file["path"]))
    if head is None:
        return "nothing"
    if head["ContentLength"] != file["size"]:
        return f"{head['ContentLength']} bytes, not {file['size']}"
    metadata = {name.lower(): value for name, value in head["Metadata"].items()}
    if metadata.get("sha256") != file["sha256"]:
        return f"SHA-256 {metadata.get('sha256', 'unknown')}, not {file['sha256']}"
    computed = head.get("ChecksumSHA256", "")
    whole = base64.b64encode(bytes.fromhex(file["sha256"])).decode()
    # of parts S3 computes a digest of digests, which ends in their number
    if computed and "-" not in computed and computed != whole:
        return f"a checksum {computed}, not {whole}"
    return ""


def _upload(place: Place, source: Path, files: list[File], progress: Progress | None) -> None:
    """Upload files and look at each afterwards."""
    if not files:
        return
    expected = sum(file["size"] for file in files)
    counting = [_counting(progress, expected)] if progress else []
    with transfers(place.bucket) as manager:
        going = [
            manager.upload(
                str(source / file["path"]),
                place.bucket.name,
                place.key(file["path"]),
                extra_args=place.bucket.writing | {"Metadata": {"sha256": file["sha256"]}},
                subscribers=counting,
            )
            for file in files
        ]
        for future in going:
            future.result()
    for file, difference in zip(files, _differences(place, files), strict=True):
        if difference:
            raise TransientError(
                f"store.uri: {place.uri}/{file['path']} did not arrive as it was sent (found {difference}). "
                "Run again: what arrived is kept."
            )


def _counting(progress: Progress, expected: int) -> Any:
    from s3transfer.subscribers import BaseSubscriber

    done, mutex = 0, threading.Lock()

    class Counting(BaseSubscriber):  # type: ignore[misc]
        def on_progress(self, bytes_transferred: int, **_: Any) -> None:
            nonlocal done
            with mutex:
                done += bytes_transferred
                progress(done, expected)

    return Counting()


def _finish(place: Place, digest: str, text: bytes) -> bytes:
    """Write the record unless one is there, and return the one that stands."""
    key = place.key(RECORD)
    if place.bucket.conditional():
        if place.bucket.put_new(key, text):
            return text
    elif place.bucket.get(key) is None:
        # without conditions two writers can pass here at once: the last record stands, with the same digest
        place.bucket.put(key, text)
        return text
    found = place.bucket.get(key)
    if found is None:
        raise TransientError(
            f"store.uri: {place.uri}: another upload of the same is just finishing."
        )
    _agree(place, found, digest)
    return found


def check(store: str) -> None:
    """Try the bucket by writing, listing, reading and deleting an object of our own below `.probe/`.

    Raises:
        ConfigError: There is no such bucket, it may not be written, or it cannot be reached from here.
        TransientError: The service is throttling.
    """
    try:
        with translated(WHERE, store):
            bucket_of(store).probe()
    except Unreachable as reason:
        raise ConfigError(
            f"store.uri: {store} cannot be reached (found {reason.__cause__}). "
            "Check s3.endpoint, s3.region and the network."
        ) from reason
