"""What one HTTP answer means: go on, wait, give up, or this is not the file.

`Passing` is a cause that may be gone in a moment; everything that will not pass is a `ConfigError` or a `DataError`
here and now. A web page is told by its content as well as by its type, because a page that says "sign in" or
"too large to scan for viruses" comes with status 200.
"""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from tasks.errors import ConfigError
from tasks.sources import addresses

HEAD = 1024
"""Bytes that are looked at to tell a page from data."""
_PASSING_STATUS = frozenset(
    {408, 409, 421, 425, 429, 500, 502, 503, 504, 507, 509, *range(520, 531)}
)
_ADVICE = {
    401: "It wants a user: put user and password into the address, or download it by hand.",
    403: "Check that anyone may read it; an address that was signed for a time may have run out.",
    404: "Check the spelling, and open the address in a browser.",
    407: "The proxy of this machine wants a user: check HTTP_PROXY and HTTPS_PROXY.",
    410: "It was removed: look for another address.",
    451: "It may not be had from here: give a mirror.",
}
_ELSEWHERE = "Open the address in a browser and check it."
_PAGE = re.compile(
    rb"^(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,900}?-->\s*)*"
    rb"<(?:!doctype\s+html|(?:html|head|body|title|meta|script|style|center|h1|div|p)[\s>/])",
    re.IGNORECASE | re.DOTALL,
)
_HOSTS = (
    (
        r"(drive|docs)\.google\.com|drive\.usercontent\.google\.com",
        "Google Drive asks before it sends a large file: give "
        "https://drive.usercontent.google.com/download?id=<id>&export=download&confirm=t, "
        "or download it by hand and give its path.",
    ),
    (
        r"cloud\.tsinghua\.edu\.cn",
        "Tsinghua Cloud sends the file itself when the address ends in ?dl=1.",
    ),
    (r"(www\.)?dropbox\.com", "Dropbox sends the file itself when the address ends in dl=1."),
    (r"github\.com", "Give the raw address: /raw/ in place of /blob/."),
    (
        r"huggingface\.co|hf-mirror\.com",
        "Give hf://datasets/<name>, or /resolve/ in place of /blob/.",
    ),
)


class Passing(Exception):
    """A cause that may be gone in a moment.

    Args:
        reason: What happened, for people.
        seconds: How long the server asks to wait; None when it does not say.
        useful: Whether bytes that arrived before it count as progress.
    """

    def __init__(self, reason: str, seconds: float | None = None, useful: bool = True) -> None:
        super().__init__(reason)
        self.seconds = seconds
        self.useful = useful


@dataclass(frozen=True)
class Address:
    """One address of a file."""

    url: str
    where: str
    """The knob behind it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to this host only."""
    advice: Mapping[int, str] = field(default_factory=dict)
    """What to do about a status, where the general advice does not fit."""

    @property
    def shown(self) -> str:
        """The address without credentials."""
        return addresses.shown(self.url)

    @property
    def key(self) -> str:
        """What stands for it in notes."""
        return addresses.fingerprint(self.url)


@dataclass(frozen=True)
class Span:
    """What a Content-Range says: bytes first to last, both counted, of so many (0: unknown)."""

    first: int
    last: int
    total: int


def is_passing(status: int) -> bool:
    """Say whether a status may be another one in a moment."""
    return status in _PASSING_STATUS


def refuse(answer: httpx.Response, address: Address, now: float) -> None:
    """Refuse an answer that does not bring the file.

    Args:
        answer: The last of a chain of redirects.
        address: What was asked for.
        now: Seconds since 1970, for a Retry-After that is a date.

    Raises:
        Passing: The server may answer otherwise in a moment.
        ConfigError: It will not.
    """
    status = answer.status_code
    if is_passing(status):
        raise Passing(f"the server answered {status}", _retry_after(answer, now))
    if status not in (httpx.codes.OK, httpx.codes.NON_AUTHORITATIVE_INFORMATION, 206):
        advice = address.advice.get(status) or _ADVICE.get(status, _ELSEWHERE)
        raise ConfigError(
            f"{address.where}: the server refuses (found status {status} for {address.shown}). {advice}"
        )
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    attached = "attachment" in answer.headers.get("Content-Disposition", "").lower()
    if kind in ("text/html", "application/xhtml+xml") and not attached:
        raise web_page(address, str(answer.url))
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise ConfigError(
            f"{address.where}: the server packs what it was asked to send as it is "
            f"(found Content-Encoding {encoding} from {address.shown}). Download it by hand and give its path."
        )


def _retry_after(answer: httpx.Response, now: float) -> float | None:
    said = answer.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said[:9])
    moment = _moment(said)
    if moment is None:
        return None
    # by the server's own clock where it tells the time: ours may be wrong
    return max(0.0, moment - (_moment(answer.headers.get("Date", "")) or now))


def _moment(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def clock_time(seconds: float) -> str:
    """Return a moment as people write it, in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def span(answer: httpx.Response) -> Span | None:
    """Return what a Content-Range says of the bytes that follow; None when it says nothing of use."""
    said = answer.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", said.strip())
    if not found:
        return None
    return Span(int(found[1]), int(found[2]), 0 if found[3] == "*" else int(found[3]))


def whole(answer: httpx.Response) -> int | None:
    """Return how long the file is, as an answer of status 416 says."""
    found = re.fullmatch(r"bytes \*/(\d{1,18})", answer.headers.get("Content-Range", "").strip())
    return int(found[1]) if found else None


def length(answer: httpx.Response) -> int:
    """Return the announced length of the body; 0 when there is none."""
    if "Transfer-Encoding" in answer.headers:
        return 0
    said = answer.headers.get("Content-Length", "")
    return int(said) if said.isascii() and said.isdigit() else 0


def is_page(head: bytes) -> bool:
    """Say whether a file that begins so is a web page."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "ignore").encode()
    return bool(_PAGE.match(head))


def web_page(address: Address, url: str) -> ConfigError:
    """Return the error for a page in place of data, with what is known of the place."""
    hosts = (urlsplit(url).hostname or "", urlsplit(address.shown).hostname or "")
    known = [advice for host in hosts for name, advice in _HOSTS if re.fullmatch(name, host)]
    advice = known[0] if known else "Give the address of the file itself, or download it by hand."
    return ConfigError(
        f"{address.where}: the server sent a web page instead of data (found {address.shown}). {advice}"
    )
