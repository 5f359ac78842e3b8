"""Checks that what a job names is what was promised, before anything is spent on it.

A directory that comes out of a store holds `record.json`: its digest, and size and SHA-256 of every file. All that
is checked here, where the job runs: between the store and this machine lie copies, mounts and people.

* Of a dataset every file is hashed, and what the trainer reads must be listed and there. What it does not read
  (the ledger, rejected rows) may be left behind, but if it came along it must be whole.
* Of a model every file must be there. Files over 64 MiB are weights: their size is checked and they are hashed
  only when the job says `thorough`, for a machine that has just received them. SHA-256 reads 0.9 to 1.7 GB/s on
  one core here: 12 GB are about ten seconds, in each process of a run, and on one machine the store of the flow
  has just hashed them anyway.
* Nothing is hashed twice in a process.
* A directory without a record is used as it is. Only of a dataset that is worth a line: models are often
  downloaded by hand.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from . import events, template
from .errors import DataError, Interrupted

if TYPE_CHECKING:
    from .job import Job
    from .stopping import Stop

RECORD = "record.json"
LARGE = 64 * 2**20
"""Bytes above which a file of a model is hashed only when asked."""

_ROWS = ("train.jsonl", "dev.jsonl", template.FILE)
_OF_MODELS = {".json", ".jinja", ".safetensors", ".bin", ".model"}

_known: dict[tuple[str, int, int, int], str] = {}


@dataclass(frozen=True)
class _Promise:
    """A file as its record has it."""

    path: str
    size: int
    sha256: str


def check(job: Job, stop: Stop) -> None:
    """Check all that a job reads against its records.

    Raises:
        DataError: Something is missing, damaged, or of another digest than the job says.
        Interrupted: Asked to stop between two files.
    """
    if job.data:
        dataset(Path(job.data), job.data_digest, stop)
    model(Path(job.base), job.base_digest, job.thorough, stop)
    if job.tuned:
        model(Path(job.tuned), "", job.thorough, stop)


def dataset(folder: Path, digest: str, stop: Stop) -> None:
    """Check a dataset: what the trainer reads must be listed, there, and whole."""
    advice = "Stage the dataset again."
    found = _record(folder, digest, advice)
    if found is None and digest:
        raise DataError(
            f"{folder}: the dataset carries no {RECORD}, so nothing vouches for its digest "
            f"(the job has {digest}). {advice}"
        )
    if found is None:
        events.text(f"{folder}: the dataset carries no {RECORD}: its files are not checked")
        return
    _refuse_strangers({name for name in _ROWS if (folder / name).exists()}, found, folder, advice)
    for promise in found:
        if promise.path in _ROWS or (folder / promise.path).exists():
            _check(folder, promise, True, advice, stop)


def model(folder: Path, digest: str, thorough: bool, stop: Stop) -> None:
    """Check a model that came out of a store."""
    advice = "Fetch the model again."
    found = _record(folder, digest, advice)
    if found is None:
        return
    beside = {path.name for path in folder.iterdir() if path.suffix in _OF_MODELS}
    _refuse_strangers(beside - {RECORD}, found, folder, advice)
    for promise in found:
        _check(folder, promise, thorough or promise.size <= LARGE, advice, stop)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hashing it again only when size, time or inode changed."""
    stat = path.stat()
    seen = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if seen not in _known:
        with path.open("rb") as file:
            _known[seen] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[seen]


def _record(folder: Path, wanted: str, advice: str) -> list[_Promise] | None:
    """Return what the record of a directory promises, None where there is no record."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        digest = str(record["digest"])
        files = [_promise(file) for file in record["files"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). {advice}"
        ) from error
    if wanted and digest != wanted:
        raise DataError(
            f"{path}: is the record of something else (found digest {digest}, the job has {wanted}). "
            f"{advice}"
        )
    listed = _digest(files)
    if listed != digest:
        raise DataError(
            f"{path}: was changed after it was written (its files have the digest {listed}, "
            f"it says {digest}). {advice}"
        )
    return files


def _promise(file: Any) -> _Promise:
    promise = _Promise(str(file["path"]), int(file["size"]), str(file["sha256"]))
    path = PurePosixPath(promise.path)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"path {promise.path!r} leads elsewhere")
    return promise


def _digest(files: list[_Promise]) -> str:
    """Return the digest of a listing, as the store computes it."""
    ordered = sorted(files, key=lambda file: file.path)
    lines = (f"{file.sha256}  {file.size}  {file.path}\n" for file in ordered)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse_strangers(there: set[str], promised: list[_Promise], folder: Path, advice: str) -> None:
    """Refuse files that would be read although the record does not know them."""
    for name in sorted(there - {promise.path for promise in promised}):
        raise DataError(
            f"{folder / name}: is not in the {RECORD} beside it, but would be read. "
            f"Take it away, or: {advice}"
        )


def _check(folder: Path, promise: _Promise, hashed: bool, advice: str, stop: Stop) -> None:
    """Compare a file with its promise: by its hash, or only by its size."""
    if stop.asked:
        raise Interrupted("interrupted while checking files; run again.")
    path = folder / promise.path
    if not path.is_file():
        raise DataError(
            f"{path}: is not there (the {RECORD} beside it has {promise.size:,} bytes with SHA-256 "
            f"{promise.sha256}). {advice}"
        )
    size = path.stat().st_size
    if hashed and (digest := sha256(path)) != promise.sha256:
        raise DataError(
            f"{path}: is not what its {RECORD} promises (found {size:,} bytes with SHA-256 "
            f"{digest}, promised {promise.size:,} with {promise.sha256}). {advice}"
        )
    if size != promise.size:
        raise DataError(
            f"{path}: is not what its {RECORD} promises (found {size:,} bytes, promised "
            f"{promise.size:,}). {advice}"
        )
