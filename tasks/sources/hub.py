"""What the Hugging Face Hub says of a repository: its commit, its files, and their digests.

Two questions over HTTP, asked here and not by huggingface_hub's `HfApi`, which takes HF_ENDPOINT and HF_HUB_OFFLINE
as they were when it was imported, sets no timeout, sleeps between retries, and asks a third address of the Hub, for
telemetry, before the first of ours. huggingface_hub knows who is signed in and how addresses are written.

Source: https://huggingface.co/docs/hub/api, the answers of /api/models/… and /api/datasets/….
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx

from tasks.errors import ConfigError, PipelineError, TransientError
from tasks.sources import answers, asking
from tasks.sources.answers import Address, Passing
from tasks.sources.parts import Part
from tasks.sources.patience import Pace, Patience, Ticker
from tasks.sources.transfer import Transfer

_PLACE = re.compile(
    r"(?i:hf)://(?:(?P<kind>datasets|models)/)?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST = 256 << 20
"""Bytes of an answer: a million files."""


def endpoint() -> str:
    """Return the address of the Hub, as the environment has it now."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@dataclass(frozen=True)
class Place:
    """Where on the Hub."""

    kind: str
    """dataset or model."""
    repo: str
    revision: str
    path: str
    """File or folder in the repository; empty is all of it."""
    where: str
    """The knob behind it."""

    @classmethod
    def of(cls, uri: str, where: str) -> Place:
        """Read an address.

        Raises:
            ConfigError: It is not of this form.
        """
        found = _PLACE.fullmatch(uri)
        if not found or found["repo"].startswith(("datasets/", "models/", "spaces/")):
            raise ConfigError(
                f"{where}: not an address of the Hub (found {uri!r}). "
                "Write hf://datasets/org/name@revision/path or hf://models/org/name@revision."
            )
        return cls(
            kind=(found["kind"] or "models").removesuffix("s"),
            repo=found["repo"],
            revision=unquote(found["revision"] or "main"),
            path=(found["path"] or "").strip("/"),
            where=where,
        )

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit."""
        return bool(_COMMIT.fullmatch(self.revision))

    @property
    def page(self) -> str:
        """Address of its page, for people."""
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def __str__(self) -> str:
        return f"{self.where}: {self.kind} {self.repo}"


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    path: str
    """In the repository."""
    size: int
    sha256: str
    """Of large files; empty for others."""
    blob: str
    """Git's digest of its content; empty when the Hub does not say."""

    @classmethod
    def of(cls, told: dict[str, Any]) -> File:
        """Read an entry of the Hub's list."""
        large = told.get("lfs") or {}
        return cls(
            path=str(told["rfilename"]),
            size=int(large.get("size") or told.get("size") or 0),
            sha256=str(large.get("sha256") or ""),
            blob="" if large else str(told.get("blobId") or ""),
        )

    @property
    def key(self) -> str:
        """What stands for it on a shelf: a name that a stranger gave is no path of ours."""
        return hashlib.sha256(self.path.encode()).hexdigest()[:32]

    def finished(self, shelf: Path) -> Path:
        """Return where it waits for the other files."""
        return shelf / f"{self.key}.whole"


class Hub:
    """One repository, as it answers now.

    Args:
        place: Which one.
        client: Open connections.
        patience: How long to wait.
    """

    def __init__(self, place: Place, client: httpx.Client, patience: Patience) -> None:
        from huggingface_hub import get_token  # only where the Hub is read

        self.place, self._client, self._patience = place, client, patience
        self._token = get_token() or ""

    def commit(self) -> str:
        """Return the commit that the revision means now.

        Raises:
            TransientError: The Hub was not reached.
            ConfigError: There is no such place, or it may not be read.
        """
        with self._expecting():
            found = str(self._ask(self.place.revision)["sha"])
            if not _COMMIT.fullmatch(found):
                raise ValueError(f"{found!r} for a commit")
            return found

    def files(self, commit: str) -> list[File]:
        """Return all files of a commit; raises as `commit` does."""
        with self._expecting():
            return [File.of(each) for each in self._ask(commit, "?blobs=true")["siblings"]]

    def transfer(self, file: File, commit: str, part: Part, ticker: Ticker) -> Transfer:
        """Return what brings a file."""
        pinned = bool(file.sha256 or file.blob)
        address = self._address(file.path, commit)
        return Transfer(self._client, address, part, ticker, self._patience, pinned)

    def _address(self, path: str, commit: str) -> Address:
        from huggingface_hub import hf_hub_url

        place = self.place
        url = hf_hub_url(
            place.repo, path, repo_type=place.kind, revision=commit, endpoint=endpoint()
        )
        return Address(url, place.where, self._headers(), dict.fromkeys((401, 403), self._right()))

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _ask(self, revision: str, query: str = "") -> Any:
        place = self.place
        path = f"api/{place.kind}s/{place.repo}/revision/{quote(revision, safe='')}{query}"
        address = Address(f"{endpoint()}/{path}", place.where, self._headers())
        try:
            with asking.opened(self._client, address, {}, self._patience) as (answer, _):
                if answer.status_code != httpx.codes.OK:
                    raise self._refused(answer)
                return json.loads(self._body(answer))
        except Passing as trouble:
            raise TransientError(f"{place}: {endpoint()}: {trouble}") from trouble

    def _body(self, answer: httpx.Response) -> bytes:
        body, pace = bytearray(), Pace(self._patience)
        for chunk in answer.iter_bytes():
            body += chunk
            pace.note(len(chunk))
            if len(body) > _LARGEST:
                raise ValueError(f"more than {_LARGEST >> 20} MiB")
        return bytes(body)

    @contextlib.contextmanager
    def _expecting(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError, httpx.DecodingError) as reason:
            raise ConfigError(
                f"{self.place}: {endpoint()} does not answer as a Hub does "
                f"(found {reason or type(reason).__name__}). Check HF_ENDPOINT and the proxy."
            ) from reason

    def _refused(self, answer: httpx.Response) -> PipelineError | Passing:
        status, place = answer.status_code, self.place
        code = answer.headers.get("X-Error-Code", "")
        if answers.is_passing(status):
            return Passing(f"the server answered {status}")
        if code == "RevisionNotFound":
            return ConfigError(
                f"{place}: no such revision (found {place.revision}). Give a branch, a tag or a commit."
            )
        if "invalid credentials" in answer.headers.get("X-Error-Message", "").lower():
            return ConfigError(
                f"{place}: the Hub does not know this token (found HF_TOKEN, or a sign-in of this machine). "
                "Set HF_TOKEN to one that is valid, or unset it."
            )
        if code == "GatedRepo" or status == 403:
            return ConfigError(f"{place}: may not be read (found status {status}). {self._right()}")
        if status in (
            401,
            404,
        ):  # the Hub does not tell strangers whether something private is there
            return ConfigError(
                f"{place}: there is none of this name, or it is private (found status {status}). "
                f"Check the spelling. If it is private: {self._right()}"
            )
        return ConfigError(f"{place}: refused (found status {status}). Look at {place.page}.")

    def _right(self) -> str:
        have = "the one that is set may not" if self._token else "none is set"
        return f"Accept its terms at {self.place.page}, and set HF_TOKEN to a token that may read it ({have})."
