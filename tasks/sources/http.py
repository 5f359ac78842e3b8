"""http:// and https://: one file, from the first of several addresses that gives it.

A file is asked for again with the tag of the last time (ETag or date, and which address gave it), and not sent again
when it has not changed. Parts of different mirrors are never put together, unless a SHA-256 pins the whole: then one
part serves all addresses, the digest decides, and a whole that is not the expected one is fetched once more from the
beginning before anyone is blamed.
"""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from tasks import store
from tasks.errors import ConfigError, PipelineError, TransientError
from tasks.sources import addresses, parts
from tasks.sources.answers import Address
from tasks.sources.parts import Part
from tasks.sources.patience import Patience, Ticker
from tasks.sources.request import (
    Arrival,
    Progress,
    Request,
    digest_of,
    forms,
    silent,
    unexpected,
)
from tasks.sources.transfer import Received, Transfer

_HOST = re.compile(r"[\w.:-]+")


def check(request: Request) -> None:
    """Refuse addresses that are none.

    Raises:
        ConfigError: One has no host, or cannot be read.
    """
    for address in _addresses(request):
        try:
            url = httpx.URL(address.url)
            good = bool(_HOST.fullmatch(url.host)) and (url.port or 0) < 1 << 16
        except httpx.InvalidURL:
            good = False
        if not good:
            raise ConfigError(
                f"{address.where}: not an http address (found {address.shown!r}). "
                "Write https://host/path/of/the/file."
            )


def fetch(
    request: Request,
    into: Path,
    tag: str = "",
    progress: Progress = silent,
    patience: Patience | None = None,
) -> Arrival:
    """Download the file, unless the server says that it is still the one of the tag.

    Raises:
        TransientError: The network or the server failed in a way that may pass; what arrived is kept.
        ConfigError: No address gives it.
        DataError: It is empty, or not the expected one.
    """
    check(request)
    patience = patience or Patience()
    troubles: list[PipelineError] = []
    with store.writing(str(store.home())), patience.client() as client:
        for address in _addresses(request):
            try:
                return _Fetch(request, client, address, progress, patience).run(into, tag)
            except PipelineError as trouble:
                troubles.append(trouble)
    raise _summary(request, troubles)


def _addresses(request: Request) -> list[Address]:
    mirrors = request.where.rpartition(".")[0] + ".mirrors"
    return [
        Address(request.uri, request.where),
        *(Address(mirror, mirrors) for mirror in request.mirrors),
    ]


def _summary(request: Request, troubles: list[PipelineError]) -> PipelineError:
    """Return the one error, or one that lists all; worth another try when any of them is."""
    if len(troubles) == 1:
        return troubles[0]
    listed = "; ".join(
        f"{number}. {str(trouble).rstrip('.')}" for number, trouble in enumerate(troubles, 1)
    )
    text = (
        f"{request.where}: none of {len(troubles)} addresses gave the file (found {listed}). "
        "Check the addresses."
    )
    passing = any(isinstance(trouble, TransientError) for trouble in troubles)
    return TransientError(text) if passing else type(troubles[0])(text)


class _Fetch:
    """The file from one address."""

    def __init__(
        self,
        request: Request,
        client: httpx.Client,
        address: Address,
        progress: Progress,
        patience: Patience,
    ) -> None:
        self._request, self._client, self._address = request, client, address
        self._patience, self._ticker = patience, Ticker(progress, patience)

    def run(self, into: Path, tag: str) -> Arrival:
        pinned = self._request.sha256
        key = f"sha256-{pinned[:32]}" if pinned else f"http-{self._address.key}"
        with parts.shelf(key, self._ticker.wait) as folder:
            part = Part(folder)
            received = self._receive(part, tag, bool(pinned))
            if received and pinned:
                received = self._expected(part, received)
            if not received:
                return Arrival((), tag)
            endings = tuple(
                form.removeprefix("*")
                for pattern in self._request.patterns
                for form in forms(pattern)
                if form[0] == "*"
            )
            name = addresses.best_name(received.said, received.urls, endings)
            part.leave(into / name)
        return Arrival((name,), received.tag)

    def _receive(self, part: Part, tag: str, blindly: bool) -> Received | None:
        client, address = self._client, self._address
        return Transfer(client, address, part, self._ticker, self._patience, blindly).run(tag)

    def _expected(self, part: Part, received: Received) -> Received | None:
        """Return what was received once it is the expected file; another try when it was put together blindly."""
        found = digest_of(part.path, self._ticker.tick)
        if found == self._request.sha256:
            return received
        about = part.about()
        part.discard()
        if about and about.blind:
            again = self._receive(part, "", blindly=False)
            return self._expected(part, again) if again else None
        raise unexpected(self._request, found, f" at {self._address.shown}")
