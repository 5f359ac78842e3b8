"""What is asked of a source, and what comes of it; shared by the files that each read one kind of place."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from tasks import store
from tasks.errors import ConfigError, DataError
from tasks.s3 import S3Access

Progress = Callable[[int, int], None]
"""Called with bytes that are there and bytes expected, 0 when unknown."""


def silent(_done: int, _expected: int) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Request:
    """What to fetch."""

    uri: str
    """A path, or an address: file://, http(s)://, s3://, hf://."""
    patterns: tuple[str, ...]
    """Names of a folder's files that count; one that ends in a slash is a folder whose files count as well.

    `*.a or *.b` counts the files of the first form, and those of the second only where there are none of the first.
    """
    where: str
    """The knob behind the address, such as `source.uri`: messages begin with it."""
    sha256: str = ""
    """Expected SHA-256 of the one file, 64 hexadecimal digits; empty trusts what arrives."""
    mirrors: tuple[str, ...] = ()
    """Further http(s) addresses of the same file, asked in this order."""
    s3: S3Access = field(default_factory=S3Access)
    """How S3 is reached."""


@dataclass(frozen=True)
class Arrival:
    """What was fetched."""

    names: tuple[str, ...]
    """Files written, relative to the directory; empty when nothing has changed since the tag."""
    tag: str
    """What the place calls this content: an ETag, a commit, a digest of a listing; empty when it has no name for it."""


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Say whether a file of a folder counts, by its name relative to the folder; case and place do not matter.

    Hidden files never count.
    """
    parts = PurePosixPath(name.lower()).parts
    if not parts or len(parts) > 2 or any(part.startswith(".") for part in parts):
        return False
    if len(parts) == 2 and f"{parts[0]}/" not in patterns:
        return False
    return any(_is(name, one) for glob in patterns for one in forms(glob))


def forms(pattern: str) -> list[str]:
    """Return the globs of a pattern, the preferred one first; none of a folder."""
    return [] if pattern.endswith("/") else pattern.split(" or ")


def folders(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the folders whose files count as well."""
    return tuple(pattern.rstrip("/") for pattern in patterns if pattern.endswith("/"))


def chosen(names: list[str], request: Request, shown: str) -> list[str]:
    """Return the names that count, sorted.

    Args:
        names: Files, relative to the folder.
        request: What was asked.
        shown: The address without credentials.

    Raises:
        ConfigError: None of them counts; the message lists some of those that are there.
    """
    found = sorted(name for name in names if matches(name, request.patterns))
    for first, *others in filter(None, map(forms, request.patterns)):
        if any(_is(name, first) for name in found):
            found = [name for name in found if not any(_is(name, other) for other in others)]
    if found:
        return found
    visible = sorted(name for name in names if not name.startswith("."))
    some = ", ".join(visible[:8]) + (", …" if len(visible) > 8 else "")
    told = some or "no file at all"
    globs = ", ".join(glob for glob in request.patterns if not glob.endswith("/"))
    raise ConfigError(
        f"{request.where}: no file to read in the folder (found {told} in {shown}). "
        f"It must hold at least one of {globs}."
    )


def _is(name: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(PurePosixPath(name.lower()).name, glob)


class Digest(Protocol):
    """What `hashlib` makes."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all of them."""


def digest_of(
    path: Path, tick: Callable[[], None] = lambda: None, digest: Digest | None = None
) -> str:
    """Return the digest of a file, SHA-256 when no other is given, calling `tick` after each block of it."""
    digest = digest or hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            tick()
    return digest.hexdigest()


def refuse_many(request: Request, count: int) -> None:
    """Refuse several files where a digest is expected, before any is fetched.

    Raises:
        ConfigError: A digest is of one file.
    """
    if request.sha256 and count > 1:
        raise ConfigError(
            f"{request.where.rpartition('.')[0]}.sha256: a digest is of one file (found {count} files). "
            "Give the address of the file, or leave the digest out."
        )


def expect(request: Request, into: Path, names: tuple[str, ...]) -> None:
    """Compare what arrived with the expected digest, when there is one.

    Raises:
        DataError: It is another file.
    """
    if request.sha256:
        found = store.file_digest(into / names[0])
        if found != request.sha256:
            raise unexpected(request, found)


def unexpected(request: Request, found: str, at: str = "") -> DataError:
    """Return the error for a file that is another one than expected."""
    knob = request.where.rpartition(".")[0]
    return DataError(
        f"{knob}.sha256: the source is not the expected one (found {found}{at}, "
        f"expected {request.sha256}). "
        "Check the address, or correct the digest if the new content is right."
    )
