"""hf://: files of a repository on the Hugging Face Hub, of one commit.

    hf://datasets/org/name[@revision][/path]
    hf://models/org/name[@revision][/path]       also without "models/"

The revision becomes a commit first, and everything is read of that commit, so a branch that moves meanwhile mixes
nothing. The bytes come by `transfer`: it goes on where an earlier process was cut, which huggingface_hub does not, and
each file is compared with the digest that the Hub has of it: SHA-256 of large ones, Git's own of the others.
Finished files wait on the shelf of their commit until all are there; a second try fetches only what is missing.

HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count as they are at the call.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

from tasks import store
from tasks.errors import ConfigError, DataError, TransientError
from tasks.sources import addresses, parts
from tasks.sources.hub import File, Hub, Place, endpoint
from tasks.sources.parts import Part
from tasks.sources.patience import Patience, Ticker
from tasks.sources.request import (
    Arrival,
    Progress,
    Request,
    chosen,
    digest_of,
    expect,
    refuse_many,
    silent,
)

_TRUE = frozenset({"1", "true", "yes", "on"})


def check(request: Request) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: The address is malformed, a package is missing, or the Hub must not be reached.
    """
    Place.of(request.uri, request.where)
    if not importlib.util.find_spec("huggingface_hub"):
        raise ConfigError(
            f"{request.where}: hf:// needs huggingface_hub (found none installed). "
            "Run pip install huggingface_hub."
        )
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").lower() in _TRUE:
            raise ConfigError(
                f"{request.where}: the Hub must not be reached (found {name}={os.environ[name]}). "
                "Unset it, or give the path of a copy on this machine."
            )
    if addresses.scheme_of(endpoint()) not in ("http", "https"):
        raise ConfigError(f"HF_ENDPOINT: not an http address (found {endpoint()!r}). Correct it.")


def fetch(
    request: Request,
    into: Path,
    tag: str = "",
    progress: Progress = silent,
    patience: Patience | None = None,
) -> Arrival:
    """Download the files of the revision, unless it is still the commit of the tag.

    Raises:
        TransientError: The Hub or the network failed in a way that may pass; what arrived is kept.
        ConfigError: There is no such place, or it may not be read.
        DataError: A file is empty, or not the expected one.
    """
    check(request)
    patience = patience or Patience()
    place = Place.of(request.uri, request.where)
    with store.writing(str(store.home())), patience.client() as client:
        hub = Hub(place, client, patience)
        commit = hub.commit()
        if commit == tag:
            return Arrival((), tag)
        files = _wanted(hub.files(commit), place, request)
        refuse_many(request, len(files))
        wait = Ticker(progress, patience).wait
        with parts.shelf(f"hf-{_key(place, commit)}", wait) as shelf:
            total, done = sum(file.size for file in files.values()), 0
            for file in files.values():
                ticker = Ticker(progress, patience, done, total)
                _bring(hub, file, commit, shelf, ticker)
                done += file.size
            for name, file in files.items():
                (into / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file.finished(shelf), into / name)
    expect(request, into, tuple(files))
    return Arrival(tuple(files), commit)


def _key(place: Place, commit: str) -> str:
    named = f"{endpoint()} {place.kind} {place.repo} {commit}"
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def _wanted(files: list[File], place: Place, request: Request) -> dict[str, File]:
    """Return the files that count, by safe names relative to the path."""
    by_path = {file.path: file for file in files}
    if place.path in by_path:
        return {addresses.safe(place.path): by_path[place.path]}
    prefix = f"{place.path}/" if place.path else ""
    names = [path.removeprefix(prefix) for path in by_path if path.startswith(prefix)]
    if place.path and not names:
        raise ConfigError(
            f"{place}: no such file or folder at {place.revision} (found {place.path}). "
            f"Look at {place.page}/tree/{place.revision}."
        )
    found = chosen(names, request, request.uri)
    try:
        safe = addresses.safe_below(found)
    except ValueError as reason:
        raise DataError(
            f"{place}: two files have the same name here (found {reason}). Give the path of one."
        ) from reason
    return {safe[name]: by_path[prefix + name] for name in found}


def _bring(hub: Hub, file: File, commit: str, shelf: Path, ticker: Ticker) -> None:
    """Bring one file to the shelf."""
    target = file.finished(shelf)
    if target.exists():  # by an earlier try; it was compared before it got there
        return
    part = Part(shelf, file.key)
    hub.transfer(file, commit, part, ticker).run()
    if not _is(file, part.path, ticker):
        part.discard()
        raise TransientError(
            f"{hub.place}: {file.path}: other bytes came than the commit has; they are thrown away"
        )
    part.leave(target)


def _is(file: File, path: Path, ticker: Ticker) -> bool:
    if file.sha256:
        return digest_of(path, ticker.tick) == file.sha256
    if file.blob:
        head = b"blob %d\0" % path.stat().st_size
        sha1 = hashlib.sha1(head, usedforsecurity=False)
        return digest_of(path, ticker.tick, sha1) == file.blob
    return path.stat().st_size == file.size
