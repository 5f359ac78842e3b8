"""One file from one address: asks, receives, and goes on where the connection was cut.

A part goes on only when the server can confirm that it is the same content: Range with If-Range, by a strong ETag
or a date. Without either, or when the content has changed, it begins anew. Where the whole is pinned by a digest, a
part also goes on unconfirmed ("blind"), even at another address: the digest tells in the end.

As long as each try brings bytes it tries again by itself; a try that brings nothing gets one more, then the error
goes up and the step waits longer. A `Retry-After` of up to a minute is waited for here. What has arrived stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import httpx

from tasks.errors import DataError, TransientError
from tasks.sources import addresses, answers, asking
from tasks.sources.answers import Address, Passing
from tasks.sources.parts import About, Part
from tasks.sources.patience import Pace, Patience, Ticker

_TRIES = 1000
_FRUITLESS = 2
_BEGINNINGS = 4
_WAITS = 5
_DATE = "@"


@dataclass(frozen=True)
class Received:
    """A part that is whole now."""

    said: str
    """File name that the server gives; empty when it gives none."""
    urls: tuple[str, ...]
    """The addresses that led to it, the last first."""
    tag: str


class Transfer:
    """Brings a part to its end.

    Args:
        client: Open connections.
        address: Where the file is.
        part: What is there already.
        ticker: Told of every step.
        patience: How long to wait.
        blindly: Whether a part may go on unconfirmed, because the caller checks the whole by a digest.
    """

    def __init__(
        self,
        client: httpx.Client,
        address: Address,
        part: Part,
        ticker: Ticker,
        patience: Patience,
        blindly: bool = False,
    ) -> None:
        self._client, self._address, self._part = client, address, part
        self._ticker, self._patience, self._blindly = ticker, patience, blindly
        self._beginnings = 0

    def run(self, tag: str = "") -> Received | None:
        """Receive the file; None when it is still the one of the tag.

        Raises:
            TransientError: The network or the server failed in a way that may pass; what arrived is kept.
            ConfigError: The server refuses, or answers with a web page.
            DataError: There is nothing in the file.
        """
        fruitless = waits = 0
        for _ in range(_TRIES):
            before = self._part.size
            try:
                return self._once(tag)
            except Passing as trouble:
                gained = trouble.useful and self._part.size > before
                waits += trouble.seconds is not None
                fruitless = 0 if gained else fruitless + 1
                waited = trouble.seconds is not None and waits <= _WAITS
                if fruitless >= _FRUITLESS and not waited:
                    raise self._given_up(trouble) from trouble
                self._wait(trouble)
        raise self._given_up(Passing(f"cut {_TRIES} times"))

    def _wait(self, trouble: Passing) -> None:
        seconds = max(trouble.seconds or 0.0, self._patience.pause_seconds)
        if seconds > self._patience.longest_wait_seconds:
            moment = answers.clock_time(self._patience.now() + seconds)
            asked = Passing(f"{trouble}, and asks to come back in {seconds:.0f} s, at {moment}")
            raise self._given_up(asked) from trouble
        self._ticker.wait(seconds)

    def _given_up(self, trouble: Passing) -> TransientError:
        about, size = self._part.about(), self._part.size
        whole = f" of {about.total:,}" if about and about.total else ""
        useful = size and about and (about.validator or self._blindly)
        kept = f"; {size:,}{whole} bytes are here and kept" if useful else ""
        return TransientError(f"{self._address.where}: {self._address.shown}: {trouble}{kept}")

    def _once(self, tag: str) -> Received | None:
        have = self._resumable()
        asked = self._conditions(tag)
        headers = self._headers(have) | asked
        with asking.opened(self._client, self._address, headers, self._patience) as (answer, urls):
            if answer.status_code == httpx.codes.NOT_MODIFIED and asked:
                self._part.discard()
                return None
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                self._beyond(answer, have)
            else:
                answers.refuse(answer, self._address, self._patience.now())
                self._receive(answer, self._begin(answer, have))
            self._check(answer)
            return Received(
                addresses.disposition(_raw(answer, b"content-disposition")),
                urls,
                self._tag(answer),
            )

    def _resumable(self) -> int:
        """Return how many bytes need not be sent again."""
        about = self._part.about()
        if not about:
            return 0
        confirmed = about.address == self._address.key and bool(about.validator)
        if not confirmed and not self._blindly:
            return 0
        if about.total and self._part.size >= about.total:
            # one byte is asked for even so: it brings the name, and says whether the content is still the same
            self._part.cut(about.total - 1)
        return self._part.size

    def _headers(self, have: int) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", **self._address.headers}
        if not have:
            return headers
        headers["Range"] = f"bytes={have}-"
        about = self._part.about()
        if about and about.address == self._address.key and about.validator:
            headers["If-Range"] = about.validator
        return headers

    def _conditions(self, tag: str) -> dict[str, str]:
        key, _, value = tag.partition(" ")
        if not value or key != self._address.key:
            return {}
        if value.startswith(_DATE):
            return {"If-Modified-Since": value.removeprefix(_DATE)}
        return {"If-None-Match": value}

    def _tag(self, answer: httpx.Response) -> str:
        etag, modified = _validators(answer)
        value = etag or (f"{_DATE}{modified}" if modified else "")
        return f"{self._address.key} {value}" if value else ""

    def _begin(self, answer: httpx.Response, have: int) -> int:
        """Return where the bytes that follow belong; 0 begins anew."""
        etag, modified = _validators(answer)
        about = About(self._address.key, etag, modified, answers.length(answer))
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            if self._part.size:
                self._anew()
            self._part.begin(about)
            return 0
        span, earlier = answers.span(answer), self._part.about()
        if not span or not earlier or not self._fits(answer, span, earlier, have):
            self._anew()
            raise Passing("the server sent another part than the one that was asked for")
        blind = "If-Range" not in answer.request.headers
        total = span.total or earlier.total
        if blind:
            self._part.note(replace(about, total=total, blind=True))
        elif total != earlier.total:
            self._part.note(replace(earlier, total=total))
        return have

    def _fits(self, answer: httpx.Response, span: answers.Span, earlier: About, have: int) -> bool:
        same = not earlier.total or not span.total or earlier.total == span.total
        etag, _ = _validators(answer)
        confirmed = earlier.address == self._address.key
        changed = confirmed and etag and earlier.etag and etag != earlier.etag
        reaches = not span.total or span.last == span.total - 1
        return have > 0 and span.first == have and same and not changed and reaches

    def _anew(self) -> None:
        self._part.discard()
        self._beginnings += 1
        if self._beginnings >= _BEGINNINGS:
            raise self._given_up(
                Passing(
                    "the server cannot go on where the connection was cut, or the content keeps changing"
                )
            )

    def _beyond(self, answer: httpx.Response, have: int) -> None:
        """Take status 416: the part is whole already, or belongs to something else."""
        about, (etag, _) = self._part.about(), _validators(answer)
        changed = about and etag and etag != about.etag
        if answers.whole(answer) != have or changed:
            self._anew()
            raise Passing("the server has fewer bytes than are here already")

    def _receive(self, answer: httpx.Response, start: int) -> None:
        about = self._part.about()
        total = about.total if about else 0
        done, head = start, b""
        pace = Pace(self._patience)
        self._part.reserve(total - done)
        self._ticker.begin(done, total)
        with self._part.path.open("ab") as file:
            for chunk in answer.iter_raw():
                file.write(chunk)
                file.flush()
                done += len(chunk)
                if start == 0 and len(head) < answers.HEAD:
                    head += chunk[: answers.HEAD]
                    self._refuse_page(head, answer)
                self._ticker(done, total)
                pace.note(len(chunk))
                if total and done > total:
                    break
        if total and done > total:
            self._anew()
            raise Passing(f"{done:,} bytes came of {total:,} announced")
        if total and done < total:
            raise Passing(f"{done:,} of {total:,} bytes arrived")

    def _check(self, answer: httpx.Response) -> None:
        """Look at the whole: it is not empty, and no web page."""
        if self._part.size == 0:
            self._part.discard()
            raise DataError(
                f"{self._address.where}: the download is empty (found 0 bytes at {self._address.shown}). "
                "Check the address."
            )
        self._refuse_page(self._part.head(answers.HEAD), answer)
        self._ticker.again()

    def _refuse_page(self, head: bytes, answer: httpx.Response) -> None:
        if answers.is_page(head):
            self._part.discard()
            raise answers.web_page(self._address, str(answer.url))


def _validators(answer: httpx.Response) -> tuple[str, str]:
    """Return ETag and Last-Modified; what could not be sent back is as good as nothing."""
    said = (answer.headers.get(name, "").strip() for name in ("ETag", "Last-Modified"))
    etag, modified = (value if value.isascii() and value.isprintable() else "" for value in said)
    return etag, modified


def _raw(answer: httpx.Response, name: bytes) -> bytes:
    return next((value for key, value in answer.headers.raw if key.lower() == name), b"")
