"""S3 stores as this process reaches them: a client each, what every write carries, what the store honours.

How a store is spoken to is said once, by `use`, and holds for every address below it; it is noted, without any
secret, for later processes. Nothing here knows what an
artifact is. Failures leave as boto3 raises them; `tasks.s3.translated` is around every call.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tasks.errors import ConfigError
from tasks.s3 import S3Access, split
from tasks.store.folder import home

_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchBucket"})
_THERE = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
_PROBES = ".probe"

_accesses: dict[str, S3Access] = {}
_reached: dict[str, Bucket] = {}
_clients: list[tuple[S3Access, Any]] = []
_mutex = threading.Lock()


def use(store: str, access: S3Access) -> None:
    """Say how a store, and every address below it, is reached; what was found in it is forgotten."""
    root = store.rstrip("/")
    with _mutex:
        unchanged = _accesses.get(root) == access
        _accesses[root] = access
        if root.startswith("s3://"):
            _remember(root, access)
        for known in [known for known in _reached if _is_below(known, root)]:
            _reached[known].whole.clear()
            if not unchanged:
                del _reached[known]


def bucket_of(store: str) -> Bucket:
    """Return the bucket of a store; the same one for the life of the process.

    Raises:
        ConfigError: The address has no bucket.
    """
    split(store)
    root = store.rstrip("/")
    with _mutex:
        if root not in _reached:
            known = _remembered() | _accesses
            above = [each for each in known if _is_below(root, each)]
            access = known[max(above, key=len)] if above else S3Access()
            _reached[root] = Bucket(root, access, _client(access))
        return _reached[root]


def _notes() -> Path:
    return home() / "stores"


def _remember(root: str, access: S3Access) -> None:
    """Note how a store is reached: a cached artifact of it may be looked at by a run that uses another."""
    note = _notes() / f"{hashlib.sha256(root.encode()).hexdigest()[:16]}.json"
    text = json.dumps({"store": root, "access": asdict(access)}, indent=2)
    if note.exists() and note.read_text(encoding="utf-8") == text:
        return
    note.parent.mkdir(parents=True, exist_ok=True)
    partial = note.with_suffix(f".{uuid.uuid4().hex}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(note)


def _remembered() -> dict[str, S3Access]:
    """Return how the stores of earlier runs were reached."""
    found = {}
    for note in _notes().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads(note.read_text(encoding="utf-8"))
            found[noted["store"]] = S3Access(**noted["access"])
    return found


def _client(access: S3Access) -> Any:
    """Return the one client of an access: boto3 makes them in one thread only, a tenth of a second each."""
    for known, client in _clients:
        if known == access:
            return client
    client = access.client()
    _clients.append((access, client))
    return client


def _is_below(store: str, root: str) -> bool:
    return f"{store}/".startswith(f"{root}/")


class Bucket:
    """A bucket, seen from one store in it."""

    def __init__(self, store: str, access: S3Access, client: Any) -> None:
        self.name, self._prefix = split(store)
        self.client = client
        self.whole: set[tuple[str, str]] = set()
        """Addresses and digests of artifacts that this process has found whole."""
        self._checksums = access.checksums == "when_supported"
        self._access = access
        self._conditional: bool | None = None
        self._probing = threading.Lock()

    @property
    def writing(self) -> dict[str, Any]:
        """What every write says beside its bytes: checksum, encryption, tags."""
        said: dict[str, Any] = {"ChecksumAlgorithm": "SHA256"} if self._checksums else {}
        if self._access.kms_key:
            said |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self._access.kms_key}
        if self._access.tags:
            said["Tagging"] = urlencode(self._access.tags)
        return said

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a small object, or None when it is not there."""
        try:
            answer = self.client.get_object(Bucket=self.name, Key=key)
        except self.client.exceptions.ClientError as reason:
            if is_absent(reason):
                return None
            raise
        # the body's own context manager would yield what is beneath it: unchecked, with other errors
        with contextlib.closing(answer["Body"]) as body:
            content: bytes = body.read()
        return content

    def head(self, key: str) -> dict[str, Any] | None:
        """Return what S3 knows of an object, its checksum too where it keeps one, or None when it is not there."""
        more = {"ChecksumMode": "ENABLED"} if self._checksums else {}
        try:
            answer: dict[str, Any] = self.client.head_object(Bucket=self.name, Key=key, **more)
        except self.client.exceptions.ClientError as reason:
            if is_absent(reason):
                return None
            raise
        return answer

    def sizes(self, prefix: str, wanted: frozenset[str]) -> dict[str, int]:
        """Return the sizes of the wanted keys that are there below a prefix, whatever else is."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return {
            found["Key"]: found["Size"]
            for page in pages
            for found in page.get("Contents", [])
            if found["Key"] in wanted
        }

    def put(self, key: str, body: bytes, **more: str) -> None:
        """Write a small object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **self.writing, **more)

    def put_new(self, key: str, body: bytes) -> bool:
        """Write a small object unless one is there; say whether it was written.

        A store that does not honour conditions overwrites: ask `conditional` first. False may also mean that
        somebody else is just writing it.
        """
        try:
            self.put(key, body, IfNoneMatch="*")
        except self.client.exceptions.ClientError as reason:
            if code_of(reason) in _THERE:
                return False
            raise
        return True

    def conditional(self) -> bool:
        """Say whether the store honours conditional writes; tried once a process, with an object of our own."""
        with self._probing:
            if self._conditional is None:
                self.probe()
            return bool(self._conditional)

    def probe(self) -> None:
        """Write, list, read and delete an object of our own, and learn whether conditional writes are honoured.

        Raises:
            ConfigError: What is read is not what was written.
        """
        key = "/".join(filter(None, (self._prefix, _PROBES, uuid.uuid4().hex)))
        body = key.encode()
        accepted = self._put_conditionally(key, body)
        try:
            listed = self.sizes(key, frozenset({key}))
            if listed != {key: len(body)} or self.get(key) != body:
                raise ConfigError(
                    f"store.uri: s3://{self.name}/{key} does not read as it was written "
                    "(found other bytes). Choose a store that keeps what it is given."
                )
            self._conditional = accepted and not self.put_new(key, body)
        finally:
            self.client.delete_object(Bucket=self.name, Key=key)

    def _put_conditionally(self, key: str, body: bytes) -> bool:
        """Write an object of a new name; say whether the store accepts the condition at all."""
        try:
            self.put_new(key, body)  # False: an earlier attempt arrived though its answer did not
        except self.client.exceptions.ClientError as reason:
            if reason.response["ResponseMetadata"]["HTTPStatusCode"] not in (400, 501):
                raise
            self.put(key, body)
            return False
        return True


def code_of(reason: Any) -> str:
    """Return the code that S3 answered with."""
    return str(reason.response.get("Error", {}).get("Code", ""))


def is_absent(reason: Any) -> bool:
    """Say whether S3 answered that there is no such object."""
    return code_of(reason) in _ABSENT
