"""What has arrived of a file that is not whole yet, kept where the next process finds it.

    <home>/downloads/<key>/      shelf: the parts and finished files of one fetch, gone when it has ended well
    <home>/downloads/<key>.lock  held by the process that writes there

Beside a part lies a note that says which content it is the beginning of. It is written after the part was emptied
and before the first byte is added, so that a kill at any moment leaves a beginning that the note describes.
A shelf that nobody has touched for 30 days is swept.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from tasks import store

_KEPT_SECONDS = 30 * 24 * 3600.0
_TURN_SECONDS = 0.2
_SUFFIX = ".lock"


def _downloads() -> Path:
    return store.home() / "downloads"


@contextlib.contextmanager
def shelf(key: str, wait: Callable[[float], None] = time.sleep) -> Iterator[Path]:
    """Yield the folder for what arrives under a key; only one process at a time has it.

    Args:
        key: Digits and letters.
        wait: Called with seconds, again and again, while another process has the folder.
    """
    folder = _downloads() / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(key)
    with _held(folder.with_name(key + _SUFFIX), wait) as lock:
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            if not any(folder.iterdir()):
                folder.rmdir()
                lock.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(path: Path, wait: Callable[[float], None]) -> Iterator[Path]:
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait(_TURN_SECONDS)
                continue
            if _same(lock, path):  # not removed between its opening and its locking
                yield path
                return


def _same(lock: IO[str], path: Path) -> bool:
    try:
        return os.fstat(lock.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _sweep(kept: str) -> None:
    oldest = time.time() - _KEPT_SECONDS
    for path in _downloads().glob(f"*{_SUFFIX}"):
        folder = path.with_suffix("")
        if folder.name == kept or _touched(folder, path) > oldest:
            continue
        with contextlib.suppress(OSError), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            path.unlink()


def _touched(folder: Path, lock: Path) -> float:
    newest = 0.0
    for path in (lock, folder, *folder.rglob("*")):
        with contextlib.suppress(OSError):
            newest = max(newest, path.stat().st_mtime)
    return newest


@dataclass(frozen=True)
class About:
    """Which content a part is the beginning of."""

    address: str
    """Fingerprint of the address that sent the last of it."""
    etag: str = ""
    modified: str = ""
    """Last-Modified, as the server wrote it."""
    total: int = 0
    """Bytes of the whole; 0 when the server has not said."""
    blind: bool = False
    """Whether bytes were added without the server confirming that they belong to the same content."""

    @property
    def validator(self) -> str:
        """What If-Range can ask for: a strong ETag, else the date; empty when there is neither."""
        strong = self.etag.startswith('"')
        return self.etag if strong else self.modified


class Part:
    """The beginning of a file, and the note about it."""

    def __init__(self, folder: Path, name: str = "part") -> None:
        self.path = folder / name
        self._note = folder / f"{name}.json"

    @property
    def size(self) -> int:
        """Bytes that are there."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def about(self) -> About | None:
        """Return what the part is the beginning of; None when that cannot be told."""
        try:
            about = About(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        blank = asdict(About(""))
        fits = all(type(value) is type(blank[name]) for name, value in asdict(about).items())
        return about if fits else None

    def begin(self, about: About) -> None:
        """Throw away what is there and begin anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        self.note(about)

    def note(self, about: About) -> None:
        """Write the note, atomically."""
        partial = self._note.with_suffix(".new")
        partial.write_text(json.dumps(asdict(about)), encoding="utf-8")
        partial.replace(self._note)

    def reserve(self, size: int) -> None:
        """Refuse more bytes than the disk has room for, before they come.

        Raises:
            OSError: ENOSPC.
        """
        if shutil.disk_usage(self.path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def head(self, size: int) -> bytes:
        """Return the first bytes."""
        with self.path.open("rb") as file:
            return file.read(size)

    def cut(self, size: int) -> None:
        """Keep only so many bytes."""
        os.truncate(self.path, size)

    def discard(self) -> None:
        """Remove part and note."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def leave(self, target: Path) -> None:
        """Move the part, which is whole now, to where it was wanted."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.path, target)
        self._note.unlink(missing_ok=True)
