"""A small Hugging Face Hub on loopback: commits, lists of files with their digests, and the files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from flaky_server import File, FlakyServer, Headers

REFUSED: dict[str, tuple[int, Headers, bytes]] = {
    "private": (401, {"X-Error-Code": "RepoNotFound"}, b""),
    "missing": (404, {"X-Error-Code": "RepoNotFound"}, b""),
    "gated": (403, {"X-Error-Code": "GatedRepo"}, b""),
    "revision": (404, {"X-Error-Code": "RevisionNotFound"}, b""),
    "token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""),
}


def commit_of(name: str) -> str:
    """Return a commit that stands for a word."""
    return hashlib.sha1(name.encode()).hexdigest()


@dataclass
class Repository:
    """One repository of a server that `flaky_server` runs."""

    server: FlakyServer
    name: str = "org/name"
    kind: str = "dataset"
    token: str = ""
    """Who may read the files; the lists are public, as those of gated repositories are."""
    large: int = 1000
    """Bytes from which a file has a SHA-256, as with Git LFS."""
    files: dict[str, File] = field(default_factory=dict)
    """What lies at each path of the newest commit."""

    def push(self, revision: str, commit: str, **contents: bytes) -> str:
        """Publish a commit; paths are given as `a__b.json` for a/b.json, dots as they are through `**{}`."""
        self.files = {}
        for name, body in contents.items():
            path = name.replace("__", "/")
            more = {"X-Repo-Commit": commit}
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            closed = REFUSED["gated"]
            self.files[path] = File(body, etag, more=more, token=self.token, closed=closed)
            self.server.put(
                f"{self._prefix}{self.name}/resolve/{commit}/{quote(path)}", self.files[path]
            )
        told = {
            "id": self.name,
            "sha": commit,
            "siblings": [self._told(path) for path in self.files],
        }
        for each in (revision, commit):
            self.server.put(
                self.api(each), File(json.dumps(told).encode(), etag="", kind="application/json")
            )
        return commit

    def api(self, revision: str) -> str:
        """Return the path of what the Hub says of a revision."""
        return f"/api/{self.kind}s/{self.name}/revision/{quote(revision, safe='')}"

    def refuse(self, revision: str, status: int, headers: Headers) -> None:
        """Answer so, for ever, when asked of a revision."""
        self.server.put(self.api(revision), File(first=[(status, headers, b"")] * 100))

    def fetched(self) -> list[str]:
        """Return the paths of the files that were asked for, in order."""
        return [
            each.path.split("/", 6)[-1] for each in self.server.asked if "/resolve/" in each.path
        ]

    @property
    def _prefix(self) -> str:
        return "/datasets/" if self.kind == "dataset" else "/"

    def _told(self, path: str) -> dict[str, Any]:
        body = self.files[path].body
        told: dict[str, Any] = {"rfilename": path, "size": len(body), "blobId": _blob(body)}
        if len(body) >= self.large:
            sha256 = hashlib.sha256(body).hexdigest()
            told["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": 130}
        return told


def _blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
