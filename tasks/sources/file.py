"""A file or a folder of this machine, as a path or as file://.

A path is identified by names and bytes of its files, never by where it lies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from tasks import store
from tasks.errors import ConfigError
from tasks.sources import addresses
from tasks.sources.request import (
    Arrival,
    Progress,
    Request,
    chosen,
    expect,
    folders,
    refuse_many,
    silent,
)

_BLOCK = 64 << 20
"""Bytes: a second even of a slow disk."""
_READ = 4 << 20


def check(request: Request) -> None:
    """Refuse a path without anything to read.

    Raises:
        ConfigError: Nothing is there, nothing matches, a file is empty or cannot be read.
    """
    found(request)


def fetch(request: Request, into: Path, tag: str = "", progress: Progress = silent) -> Arrival:
    """Copy the files; a disk that can share blocks between files shares them.

    Raises:
        ConfigError: Nothing is there, nothing matches, a file is empty or cannot be read.
        DataError: It is not the expected file.
    """
    files = found(request)
    refuse_many(request, len(files))
    expected, done = sum(path.stat().st_size for path in files.values()), 0
    for name, path in files.items():
        (into / name).parent.mkdir(exist_ok=True)
        for copied in _copied(path, into / name):
            progress(done + copied, expected)
        done += path.stat().st_size
    expect(request, into, tuple(files))
    return Arrival(tuple(files), "")


def content(request: Request) -> str:
    """Return the digest of names and bytes.

    Raises:
        ConfigError: Nothing is there, nothing matches, a file is empty or cannot be read.
    """
    lines = (f"{store.file_digest(path)} {name}\n" for name, path in found(request).items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def found(request: Request) -> dict[str, Path]:
    """Return the files that count, by their names relative to the folder, sorted.

    Raises:
        ConfigError: Nothing is there, nothing matches, a file is empty or cannot be read.
    """
    path = local_path(request.uri, request.where)
    if path.is_file():
        files = {path.name: path}
    elif path.is_dir():
        files = {name: path / name for name in _of_folder(path, request)}
    else:
        raise ConfigError(
            f"{request.where}: neither a file nor a folder (found {request.uri!r}). "
            "Give a file that can be read twice."
        )
    for name, file in files.items():
        _check(name, file, request)
    return files


def _of_folder(folder: Path, request: Request) -> list[str]:
    wanted = folders(request.patterns)
    try:
        names = []
        for path in folder.iterdir():
            if path.is_dir() and path.name.lower() in wanted:
                names += [f"{path.name}/{file.name}" for file in path.iterdir() if file.is_file()]
            elif path.is_file() and not _is_a_record(path):
                names.append(path.name)
    except PermissionError as reason:
        raise ConfigError(
            f"{request.where}: the folder cannot be read ({reason.strerror}, found {reason.filename!r}). "
            "Give this user the right to read it."
        ) from reason
    return chosen(names, request, repr(request.uri))


def _is_a_record(path: Path) -> bool:
    """Say whether a file is the record that a store keeps of a folder: no part of what the folder holds."""
    if path.name != store.RECORD:
        return False
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.keys() >= {"digest", "files", "made"}


def _check(name: str, file: Path, request: Request) -> None:
    where, uri = request.where, request.uri
    if not name.isascii() and name != name.encode("utf-8", "replace").decode():
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise ConfigError(
            f"{where}: the name of a file is not UTF-8 (found {shown!r}). Rename the file."
        )
    if file.name == store.RECORD:
        raise ConfigError(
            f"{where}: {store.RECORD} is the store's own name for a record (found {uri!r}). "
            "Rename the file."
        )
    try:
        with file.open("rb") as stream:
            empty = not stream.read(1)
    except OSError as reason:
        raise ConfigError(
            f"{where}: {name} cannot be read ({reason.strerror}, found {uri!r}). "
            "Give this user the right to read it."
        ) from reason
    if empty:
        raise ConfigError(f"{where}: {name} is empty (found {uri!r}). Give a file with content.")


def local_path(uri: str, where: str) -> Path:
    """Return the path behind a local address; a relative one begins in the project's folder.

    Raises:
        ConfigError: It is no local address, or nothing is there.
    """
    scheme = addresses.scheme_of(uri)
    if scheme not in ("", "file"):
        raise ConfigError(
            f"{where}: {scheme}:// is no path (found {addresses.shown(uri)!r}). Give a path of this machine."
        )
    named = _of_file_address(uri, where) if scheme else uri
    try:
        path = store.PROJECT / Path(named).expanduser()
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as reason:  # too long, a NUL, an unknown user
        raise ConfigError(
            f"{where}: not a path of this machine (found {uri!r}: {reason}). Check spelling and rights."
        ) from reason
    if not there:
        raise ConfigError(f"{where}: no such file or folder (found {uri!r}). Check the spelling.")
    return path


def _of_file_address(uri: str, where: str) -> str:
    named = unquote(uri[len("file://") :])
    if named.lower().startswith("localhost/"):
        return named[len("localhost") :]
    if not named.startswith("/"):
        raise ConfigError(
            f"{where}: file:// names another machine (found {uri!r}). "
            "Write file:///path with three slashes, or the path alone."
        )
    return named


def _copied(source: Path, target: Path) -> Iterator[int]:
    """Copy a file in blocks, yielding the bytes that are there after each."""
    with source.open("rb") as old, target.open("wb") as new:
        done = 0
        while size := _shared(old, new):
            done += size
            yield done
        # the rest, which is all of it where the kernel cannot copy between these two
        old.seek(done)
        new.seek(done)
        while block := old.read(_READ):
            new.write(block)
            done += len(block)
            yield done


def _shared(old: BinaryIO, new: BinaryIO) -> int:
    """Let the kernel copy a block: disks that can, share it between both files instead."""
    try:
        return os.copy_file_range(old.fileno(), new.fileno(), _BLOCK)
    except (AttributeError, OSError):  # not on this system, or not between these two disks
        return 0
