"""Where bytes come from: paths of this machine and http(s) addresses.

Nothing here knows Prefect or the store. A path is identified by the content of its files, never by where
it lies; an http(s) address by its expected SHA-256, and without one it is asked again each time, with the
ETag of the last answer.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from tasks import store
from tasks.errors import ConfigError, DataError, TransientError

ROWS = ("*.json", "*.jsonl", "*.ndjson")
"""Files of a folder that can hold rows."""
MODEL = ("*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt", "*.jinja")
"""Files of a folder that make up a model in the transformers layout."""

_CHUNK = 1 << 20
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


def is_remote(uri: str) -> bool:
    """Say whether an address is fetched over the network."""
    return urlsplit(uri).scheme in ("http", "https")


def local_path(uri: str, where: str) -> Path:
    """Return the path behind a local address.

    Raises:
        ConfigError: The address has a scheme that is not read here, or nothing is there.
    """
    scheme = re.match(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://", uri)
    if scheme and scheme[1] != "file":
        raise ConfigError(
            f"{where}: {scheme[1]}:// is not read (found {uri!r}). Give a path or an http(s) address."
        )
    named = unquote(urlsplit(uri).path) if scheme else uri
    path = store.PROJECT / Path(named).expanduser()
    if not path.exists():
        raise ConfigError(f"{where}: no such file or folder (found {uri!r}). Check the spelling.")
    return path


def files(uri: str, patterns: tuple[str, ...], where: str) -> list[Path]:
    """Return the files behind a local address, sorted by name; of a folder those that match.

    Raises:
        ConfigError: Nothing is there, nothing matches, or a file is empty.
    """
    path = local_path(uri, where)
    if path.is_file():
        found = [path]
    else:
        found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if not found:
        raise ConfigError(
            f"{where}: no file to read in the folder (found {uri!r}). "
            f"It must hold at least one of {', '.join(patterns)}."
        )
    for file in found:
        _check(file, uri, where)
    return found


def _check(file: Path, uri: str, where: str) -> None:
    if file.stat().st_size == 0:
        raise ConfigError(f"{where}: {file.name} is empty (found {uri!r}). Give a file with rows.")
    if file.name == store.RECORD:
        raise ConfigError(
            f"{where}: {store.RECORD} is the store's own name for a record (found {uri!r}). "
            "Rename the file."
        )
    try:
        file.open("rb").close()
    except OSError as reason:
        raise ConfigError(
            f"{where}: {file.name} cannot be read ({reason.strerror}, found {uri!r}). "
            "Give this user the right to read it."
        ) from reason


def content(uri: str, patterns: tuple[str, ...], where: str) -> str:
    """Return the digest of what is behind a local address: names and bytes, not the place."""
    lines = (f"{store.file_digest(file)} {file.name}\n" for file in files(uri, patterns, where))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def copy(uri: str, patterns: tuple[str, ...], where: str, into: Path) -> tuple[str, ...]:
    """Copy the files behind a local address into a directory and return their names."""
    found = files(uri, patterns, where)
    for file in found:
        shutil.copyfile(file, into / file.name)
    return tuple(file.name for file in found)


@dataclass(frozen=True)
class Download:
    """What a server sent."""

    name: str
    """Safe file name; empty when the server says that nothing changed."""
    etag: str


def download(
    uri: str, into: Path, etag: str, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Download:
    """Download one file, unless the server says that it still has this ETag.

    Args:
        uri: An http(s) address.
        into: Directory for the file.
        etag: ETag of an earlier answer, or empty.
        progress: Called with bytes received and bytes expected (0 when unknown).

    Raises:
        TransientError: The network or the server failed in a way that may pass.
        ConfigError: The server refuses, or answers with a web page.
        DataError: The answer is shorter or longer than announced.
    """
    headers = {"Accept-Encoding": "identity"} | ({"If-None-Match": etag} if etag else {})
    timeout = httpx.Timeout(30.0, connect=10.0)
    try:
        with httpx.stream(
            "GET", uri, headers=headers, timeout=timeout, follow_redirects=True
        ) as answer:
            if answer.status_code == httpx.codes.NOT_MODIFIED:
                return Download("", etag)
            _refuse(uri, answer)
            name = _name(answer)
            _receive(uri, answer, into / name, progress)
            return Download(name, answer.headers.get("ETag", ""))
    except (httpx.TransportError, httpx.TimeoutException) as reason:
        raise TransientError(f"source.uri: {uri}: {reason or type(reason).__name__}") from reason


def _refuse(uri: str, answer: httpx.Response) -> None:
    if answer.status_code in _TRANSIENT_STATUS:
        raise TransientError(f"source.uri: {uri}: the server answered {answer.status_code}")
    if answer.status_code != httpx.codes.OK:
        raise ConfigError(
            f"source.uri: the server refuses (found status {answer.status_code} for {uri}). "
            "Open the address in a browser and check it."
        )
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise ConfigError(
            f"source.uri: the server sent a web page instead of data (found {uri}). "
            "Give the address of the file itself."
        )


def _receive(
    uri: str, answer: httpx.Response, path: Path, progress: Callable[[int, int], None]
) -> None:
    expected = int(answer.headers.get("Content-Length", 0))
    received = 0
    with path.open("wb") as file:
        for chunk in answer.iter_bytes(_CHUNK):
            file.write(chunk)
            received += len(chunk)
            progress(received, expected)
    if expected and received != expected:
        raise TransientError(f"source.uri: {uri}: {received} of {expected} bytes arrived")
    if received == 0:
        raise DataError(
            f"{path.name}: the download is empty (found 0 bytes at {uri}). Check the address."
        )


def _name(answer: httpx.Response) -> str:
    named = re.search(r'filename="?([^";]+)', answer.headers.get("Content-Disposition", ""))
    last = named[1] if named else unquote(answer.url.path)
    safe = re.sub(r"[^\w.-]", "_", last.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(".")
    return safe or "download"


@dataclass(frozen=True)
class Known:
    """What an address answered the last time: a note, so that it need not be sent again."""

    etag: str
    artifact: str
    """The `RawFile` it became, as JSON."""

    @staticmethod
    def _note(uri: str) -> Path:
        return store.home() / "downloads" / f"{hashlib.sha256(uri.encode()).hexdigest()[:32]}.json"

    @classmethod
    def of(cls, uri: str) -> Known | None:
        """Return what is known of an address."""
        try:
            return cls(**json.loads(cls._note(uri).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, uri: str) -> None:
        """Write the note, atomically."""
        note = self._note(uri)
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{uuid.uuid4().hex}")
        partial.write_text(json.dumps(vars(self)), encoding="utf-8")
        partial.replace(note)
