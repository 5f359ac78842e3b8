"""s3://: one object, or the objects of a folder (a prefix), on AWS or a store that speaks its protocol.

The tag is a digest of the listing: key, size, ETag and, where there is one, version. Each object is read in blocks
that S3 gives only as long as the ETag is the one of the listing, so that an object which is replaced meanwhile is
noticed, and an object that was cut short goes on where it ended. Finished objects wait on the shelf of their listing
until all are there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import store
from tasks.errors import ConfigError, DataError, TransientError
from tasks.s3 import split, translated
from tasks.sources import addresses, parts
from tasks.sources.parts import About, Part
from tasks.sources.patience import Patience, Ticker
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

_BLOCK = 16 << 20


@dataclass(frozen=True)
class Object:
    """An object as a listing has it."""

    path: str
    """bucket/key"""
    size: int
    etag: str
    version: str = ""

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Object:
        """Read an entry of a listing."""
        version = str(entry.get("VersionId") or "")
        return cls(entry["name"], int(entry["size"]), str(entry.get("ETag") or ""), version)

    @property
    def key(self) -> str:
        """What stands for it on a shelf."""
        return hashlib.sha256(self.path.encode()).hexdigest()[:32]

    def finished(self, shelf: Path) -> Path:
        """Return where it waits for the other objects."""
        return shelf / f"{self.key}.whole"


def check(request: Request) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: The address names no bucket, or a package is missing.
    """
    _split(request)
    for package in ("s3fs", "boto3"):
        if not importlib.util.find_spec(package):
            raise ConfigError(
                f"{request.where}: s3:// needs {package} (found none installed). Run pip install {package}."
            )


def fetch(
    request: Request,
    into: Path,
    tag: str = "",
    progress: Progress = silent,
    patience: Patience | None = None,
) -> Arrival:
    """Download the objects, unless the listing is still the one of the tag.

    Raises:
        TransientError: The service or the network failed in a way that may pass; what arrived is kept.
        ConfigError: There is nothing, or it may not be read.
        DataError: An object is not the expected one.
    """
    check(request)
    patience = patience or Patience()
    with store.writing(str(store.home())), _reached(request):
        files = request.s3.filesystem()
        wanted = _wanted(files, request)
        found = _digest(wanted)
        if found == tag:
            return Arrival((), tag)
        refuse_many(request, len(wanted))
        total, done = sum(each.size for each in wanted.values()), 0
        wait = Ticker(progress, patience).wait
        with parts.shelf(f"s3-{_key(request, found)}", wait) as shelf:
            for each in wanted.values():
                ticker = Ticker(progress, patience, done, total)
                _bring(files, each, request.where, shelf, ticker)
                done += each.size
            for name, each in wanted.items():
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(each.finished(shelf), into / name)
    expect(request, into, tuple(wanted))
    return Arrival(tuple(wanted), found)


def _key(request: Request, found: str) -> str:
    return hashlib.sha256(f"{request.s3.endpoint} {found}".encode()).hexdigest()[:32]


def _digest(wanted: dict[str, Object]) -> str:
    lines = (f"{each.path}\t{each.size}\t{each.etag}\t{each.version}\n" for each in wanted.values())
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _split(request: Request) -> tuple[str, str]:
    return split(f"s3{request.uri[2:]}")  # S3:// is the same


def _wanted(files: Any, request: Request) -> dict[str, Object]:
    """Return the objects that count, by safe names relative to the prefix."""
    bucket, key = _split(request)
    path = f"{bucket}/{key}" if key else bucket
    try:
        entry = files.info(path)
    except FileNotFoundError as reason:
        raise ConfigError(
            f"{request.where}: there is nothing (found {request.uri}). "
            "Check the spelling of bucket and key, and the region."
        ) from reason
    if entry["type"] == "file" and not request.uri.endswith("/"):
        found = {addresses.safe(key): Object.of(entry)}
    else:
        found = _below(files, path, request)
    for name, each in found.items():
        if each.size == 0:
            raise ConfigError(
                f"{request.where}: {name} is empty (found {request.uri}). Give an object with content."
            )
    return found


def _below(files: Any, path: str, request: Request) -> dict[str, Object]:
    wanted = folders(request.patterns)
    found: dict[str, Object] = {}
    for entry in files.ls(path, detail=True):
        name = _last(entry)
        if entry["type"] == "file":
            found[name] = Object.of(entry)
        elif name.lower() in wanted:
            inside = (
                each for each in files.ls(entry["name"], detail=True) if each["type"] == "file"
            )
            found |= {f"{name}/{_last(each)}": Object.of(each) for each in inside}
    found = {name: each for name, each in found.items() if not name.endswith("/")}
    names = chosen(list(found), request, request.uri)
    try:
        safe = addresses.safe_below(names)
    except ValueError as reason:
        raise DataError(
            f"{request.where}: two objects have the same name here (found {reason}). Rename one."
        ) from reason
    return {safe[name]: found[name] for name in names}


def _last(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rsplit("/", 1)[-1]


def _bring(files: Any, each: Object, where: str, shelf: Path, ticker: Ticker) -> None:
    target = each.finished(shelf)
    if target.exists():  # by an earlier try
        return
    part = Part(shelf, each.key)
    about = About(each.path, each.etag, total=each.size)
    if part.about() != about or part.size > each.size:
        part.begin(about)
    with files.open(each.path, "rb", cache_type="none") as stream, part.path.open("ab") as file:
        if stream.details.get("ETag") != each.etag:
            raise _replaced(where, f"s3://{each.path}")
        stream.seek(part.size)
        part.reserve(each.size - part.size)
        ticker.begin(part.size, each.size)
        while block := stream.read(_BLOCK):
            file.write(block)
            file.flush()
            ticker(part.size, each.size)
    ticker.again()
    if part.size != each.size:
        raise TransientError(
            f"{where}: s3://{each.path}: {part.size:,} of {each.size:,} bytes arrived"
        )
    part.leave(target)


def _replaced(where: str, uri: str) -> TransientError:
    return TransientError(f"{where}: {uri}: it was replaced while it was being fetched")


@contextlib.contextmanager
def _reached(request: Request) -> Iterator[None]:
    """Turn what s3fs raises into our own errors."""
    from aiohttp import ClientError

    where, uri = request.where, request.uri
    try:
        with translated(where, uri), _unwrapped(where, uri):
            yield
    except ClientError as reason:
        raise TransientError(f"{where}: {uri}: {reason or type(reason).__name__}") from reason
    except ConfigError as reason:
        if type(reason.__cause__).__name__ != "NoCredentialsError":
            raise
        raise ConfigError(
            f"{where}: no credentials for {uri} (found none in the environment). Sign in, or set AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID. What anyone may read is also at https://<bucket>.s3.amazonaws.com/<key>."
        ) from reason


@contextlib.contextmanager
def _unwrapped(where: str, uri: str) -> Iterator[None]:
    """Bring to light what S3 answered: s3fs puts it into an error of files, as its cause or only its context."""
    try:
        yield
    except OSError as reason:
        told: BaseException | None = reason
        while told and not isinstance(getattr(told, "response", None), dict):
            told = told.__cause__ or told.__context__
        if told is None:
            raise
        if told.response["Error"].get("Code") in ("PreconditionFailed", "412"):  # type: ignore[attr-defined]
            raise _replaced(where, uri) from reason
        raise told from None
