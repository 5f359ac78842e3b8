"""Bring what lies behind addresses into the store, and remember what each place called it.

A place that says "unchanged" for what it called the content the last time need not send it again; what is gone
from the store is sent again all the same. How each kind of address is read is in `sources/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks import sources, store
from tasks.reports.progress import Bar


@dataclass(frozen=True)
class Brought:
    """What lies in the store now."""

    uri: str
    digest: str
    names: list[str]
    """Files that were fetched, relative to `uri`, in the order of the requests."""


def bring(requests: Mapping[str, sources.Request], kind: str, made: Mapping[str, Any]) -> Brought:
    """Bring addresses into one artifact of this machine's store.

    Args:
        requests: What to fetch, by the folder of the artifact that it goes to; `.` is the artifact itself.
        kind: Sort of artifact: `raw`, `models`.
        made: How it was made, for the record.

    Raises:
        ConfigError: There is nothing to fetch, or it may not be fetched.
        DataError: What arrived is not what was expected.
        TransientError: The network failed; worth another try.
    """
    names: dict[str, list[str]] = {}
    tags: dict[str, str] = {}
    with store.scratch(store.local()) as folder:
        for below, request in requests.items():
            earlier, tag = _earlier(request)
            arrival = _fetch(request, folder / below, tag if earlier else "")
            tags[below], names[below] = arrival.tag, list(arrival.names)
            if earlier and not arrival.names:
                if len(requests) == 1 and earlier.alone and below == earlier.below:
                    return Brought(earlier.uri, earlier.digest, _within(below, earlier.names))
                names[below] = _take(earlier, folder / below)
        arrived = {"arrived": {below: tag for below, tag in tags.items() if tag}}
        uri, digest = store.commit(folder, store.local(), kind, {**made, **arrived})
    for below, request in requests.items():
        if tags[below]:
            note = _Earlier(uri, digest, below, names[below], len(requests) == 1)
            sources.Known(tags[below], json.dumps(asdict(note))).keep(request)
    return Brought(uri, digest, [name for each in names for name in _within(each, names[each])])


@dataclass(frozen=True)
class _Earlier:
    """What a request became the last time: files in an artifact, which may hold those of another request too."""

    uri: str
    digest: str
    below: str
    names: list[str]
    """Relative to the folder `below`."""
    alone: bool


def _within(below: str, names: list[str]) -> list[str]:
    return [str(Path(below) / name) for name in names]


def _earlier(request: sources.Request) -> tuple[_Earlier | None, str]:
    """Return what a request became the last time, when the store still holds it, and what the place called it."""
    known = sources.Known.of(request)
    if known is None or not known.tag:
        return None, ""
    try:
        earlier = _Earlier(**json.loads(known.artifact))
    except (ValueError, TypeError):
        return None, ""
    whole = store.trouble(earlier.uri, earlier.digest) is None
    return (earlier if whole else None), known.tag


def _fetch(request: sources.Request, into: Path, tag: str) -> sources.Arrival:
    into.mkdir(exist_ok=True)
    with Bar("fetching") as bar:
        return sources.fetch(
            request, into, tag, lambda done, total: bar.update(done, total or None, "byte")
        )


def _take(earlier: _Earlier, into: Path) -> list[str]:
    """Copy what the place did not send again."""
    for name in earlier.names:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.resolve(earlier.uri) / earlier.below / name, into / name)
    return earlier.names
