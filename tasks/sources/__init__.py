"""Where bytes come from: paths of this machine, http(s)://, s3://, hf://.

Nothing here knows Prefect. Each kind of place has a file with `check` (a look that costs nothing) and `fetch`; an
address chooses by its scheme. A path is identified by the content of its files; an address by its expected SHA-256,
or by a commit; any other is asked again each time, with the tag of its last answer, and sent only when it has changed.

What arrives half is kept in `downloads/` of the project's own folder, also when the process is killed: the next try
goes on from there. Credentials of an address never appear in messages, notes or cache keys.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tasks import store
from tasks.errors import ConfigError
from tasks.s3 import S3Access
from tasks.sources import addresses, file, hf, http, hub, s3
from tasks.sources.addresses import shown
from tasks.sources.file import local_path
from tasks.sources.request import Arrival, Progress, Request, silent

__all__ = [
    "MODEL",
    "ROWS",
    "Arrival",
    "Known",
    "Progress",
    "Request",
    "S3Access",
    "check",
    "fetch",
    "files",
    "identity",
    "is_remote",
    "local_path",
    "pinned",
    "shown",
]

ROWS = (
    *(f"*.{ending}" for ending in ("json", "jsonl", "ndjson", "csv", "tsv", "parquet", "txt")),
    *(f"*.{ending}" for ending in ("gz", "tgz", "tar", "bz2", "xz", "zip")),
    *(
        f"{name}/"
        for name in ("train", "dev", "valid", "validation", "val", "eval", "test", "data")
    ),
)
"""Files of a folder that can hold rows, and the folders in it that are looked into."""
MODEL = (
    *("*.json", "*.safetensors or pytorch_model*.bin"),
    *("*.model", "merges.txt", "vocab.txt", "*.jinja"),
)
"""Files of a folder that make up a model; never its code. Weights are fetched in one format only."""

_PLACES: dict[str, ModuleType] = {
    "": file,
    "file": file,
    "http": http,
    "https": http,
    "s3": s3,
    "hf": hf,
}


def is_remote(uri: str) -> bool:
    """Say whether an address is fetched over the network."""
    return addresses.scheme_of(uri) not in ("", "file")


def pinned(uri: str, sha256: str) -> bool:
    """Say whether an address can only ever mean the same bytes, so that fetching can be skipped."""
    if not is_remote(uri) or sha256:
        return True
    return addresses.scheme_of(uri) == "hf" and hub.Place.of(uri, "uri").pinned


def identity(request: Request) -> dict[str, str]:
    """Return what a cache key sees: of a path the content, of an address itself and its expected digest.

    Raises:
        ConfigError: There is nothing at the path.
    """
    if is_remote(request.uri):
        return {"uri": shown(request.uri), "sha256": request.sha256}
    return {"content": file.content(request), "sha256": request.sha256}


def files(uri: str, patterns: tuple[str, ...], where: str) -> list[Path]:
    """Return the files behind a local address, sorted by name; of a folder those that count.

    Raises:
        ConfigError: Nothing is there, nothing matches, a file is empty or cannot be read.
    """
    return list(file.found(Request(uri, patterns, where)).values())


def check(request: Request) -> None:
    """Refuse what cannot work, without asking the network.

    Raises:
        ConfigError: Nothing is at a path, an address is malformed, a package or a right is missing.
    """
    place = _place(request)
    knob = request.where.rpartition(".")[0]
    if request.mirrors and place is not http:
        raise ConfigError(
            f"{knob}.mirrors: only an http(s) address has mirrors (found {shown(request.uri)!r}). "
            "Leave them out."
        )
    if request.sha256 and not re.fullmatch("[0-9a-f]{64}", request.sha256):
        raise ConfigError(
            f"{knob}.sha256: not a SHA-256 (found {request.sha256!r}). "
            "Give 64 hexadecimal digits in lower case."
        )
    place.check(request)


def fetch(request: Request, into: Path, tag: str = "", progress: Progress = silent) -> Arrival:
    """Bring the files into a directory, unless the place says that they are still those of the tag.

    Args:
        request: What to fetch.
        into: An empty directory.
        tag: Of an earlier arrival of the same request, or empty.
        progress: Called at least once a second while bytes come, with bytes that are there and bytes expected.

    Raises:
        TransientError: The place or the network failed in a way that may pass; what arrived is kept.
        ConfigError: There is nothing to fetch, or it may not be fetched.
        DataError: What came is empty, or not the expected file.
    """
    check(request)
    arrival: Arrival = _place(request).fetch(request, into, tag, progress)
    return arrival


def _place(request: Request) -> ModuleType:
    scheme = addresses.scheme_of(request.uri)
    if scheme not in _PLACES:
        raise ConfigError(
            f"{request.where}: {scheme}:// is not read (found {shown(request.uri)!r}). "
            "Give a path, or an address that begins with http://, https://, s3:// or hf://."
        )
    return _PLACES[scheme]


@dataclass(frozen=True)
class Known:
    """What a request brought the last time: a note, so that it need not be sent again."""

    tag: str
    artifact: str
    """What it became, as JSON."""

    @staticmethod
    def _note(request: Request) -> Path:
        asked = (request.uri, *request.mirrors)
        parts = [
            [addresses.fingerprint(uri) for uri in asked],
            request.patterns,
            request.sha256,
            request.s3.endpoint,
        ]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return store.home() / "downloads" / f"{digest[:32]}.json"

    @classmethod
    def of(cls, request: Request) -> Known | None:
        """Return what is known of a request."""
        try:
            known = cls(**json.loads(cls._note(request).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return known if isinstance(known.tag, str) and isinstance(known.artifact, str) else None

    def keep(self, request: Request) -> None:
        """Write the note, atomically."""
        note = self._note(request)
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{uuid.uuid4().hex}")
        partial.write_text(json.dumps(vars(self)), encoding="utf-8")
        partial.replace(note)
