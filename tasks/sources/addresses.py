"""Addresses as people may see them, and names as files may have them.

An address can carry credentials: a user and a password, a signature, a token. Nothing that is shown, kept or
counted in a cache key holds them. A name comes from a stranger: whatever it says, it is the name of one visible
file in the folder where the file is put.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote, unquote_to_bytes, urlsplit, urlunsplit

from tasks import store

_SIGNING = re.compile(
    r"x-(amz|goog|oss|cos)-.*|q-(ak|signature|(sign|key|header|url)-.*)|signature|expires|policy|key-pair-id|"
    r"(aws|oss)accesskeyid|googleaccessid"
)
# Azure's are too short to be told apart from others, unless a signature stands beside them.
_AZURE = re.compile(r"s(e|i|p|r|t|v|ig|ip|pr|ke|koid|ks|kt|ktid|kv)")
_SECRET = re.compile(
    r"(.*[_-])?(token|secret|passwd|password|pwd|credentials?|jwt|signature)|(api[_-]?|access[_-]?)?key|"
    r"auth|authorization|session(id)?"
)
_LONGEST = 120
_ENDINGS = re.compile(r"(\.[A-Za-z0-9]{1,10}){1,2}$")
_PARAMETER = re.compile(r';\s*([!#$%&\'*+.^`|~\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
_EXTENDED = re.compile(r"^([\w.:-]+)'[\w-]*'(.*)$", re.DOTALL)


def scheme_of(uri: str) -> str:
    """Return the scheme of an address in lower case; empty for a path."""
    found = re.match(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://", uri)
    return found[1].lower() if found else ""


def shown(uri: str) -> str:
    """Return an address without what must not be seen: user, password, signatures, tokens."""
    return _without(uri, secrets=True)


def fingerprint(uri: str) -> str:
    """Return 16 digits that stand for an address; another signature of the same file is the same address."""
    return hashlib.sha256(_without(uri, secrets=False).encode()).hexdigest()[:16]


def _without(uri: str, secrets: bool) -> str:
    if scheme_of(uri) not in ("http", "https"):
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:  # not an address at all, and said elsewhere
        return re.sub(r"//[^/]*@", "//", uri).partition("?")[0]
    fields = [(_name(field), field) for field in parts.query.split("&") if field]
    dropped = [_SIGNING]
    dropped += [_AZURE] if any(name == "sig" for name, _ in fields) else []
    dropped += [_SECRET] if secrets else []
    kept = [
        field for name, field in fields if not any(pattern.fullmatch(name) for pattern in dropped)
    ]
    host = parts.netloc.rpartition("@")[2].lower()
    return urlunsplit((parts.scheme, host, parts.path, "&".join(kept), ""))


def _name(field: str) -> str:
    return unquote(field.partition("=")[0]).lower()


def safe(name: str) -> str:
    """Return a name of one visible file: no folders, no control characters, at most 120 bytes."""
    last = name.replace("\\", "/").rstrip("/ ").rsplit("/", 1)[-1]
    whole = unicodedata.normalize("NFC", last)
    plain = re.sub(r"[^\w.-]", "_", whole).lstrip(".").rstrip(". ")
    if plain.lower() == store.RECORD:
        plain = f"_{plain}"
    if len(plain.encode()) <= _LONGEST:
        return plain or "download"
    found = _ENDINGS.search(plain)
    ending = found[0] if found else ""
    stem = plain[: len(plain) - len(ending)].encode()[: _LONGEST - len(ending)]
    return stem.decode("utf-8", "ignore") + ending


def safe_below(names: Iterable[str]) -> dict[str, str]:
    """Return names of files below a folder, each part of them safe, by the names that a stranger gave.

    Raises:
        ValueError: Two of them would be one; the message names both.
    """
    given: dict[str, str] = {}
    for name in names:
        plain = "/".join(safe(part) for part in name.split("/") if part)
        if plain in given:
            raise ValueError(f"{given[plain]!r} and {name!r} would both be {plain}")
        given[plain] = name
    return {name: plain for plain, name in given.items()}


def disposition(header: bytes) -> str:
    """Return the file name that a Content-Disposition gives, as it is; empty when it gives none.

    Source: RFC 6266 and RFC 8187; names in raw UTF-8 or percent-encoded, which many servers send, are read too.
    """
    text = _decoded(header)
    if text.lstrip().lower().startswith("filename"):  # without the word before it
        text = f";{text}"
    found = {name.lower(): value.strip() for name, value in reversed(_PARAMETER.findall(text))}
    extended = _EXTENDED.match(found.get("filename*", "").strip('"'))
    if extended:
        try:
            return unquote_to_bytes(extended[2]).decode(extended[1])
        except (LookupError, UnicodeDecodeError):
            pass
    plain = found.get("filename", "")
    if plain.startswith('"'):
        plain = re.sub(r"\\(.)", r"\1", plain[1:-1])
    return _percent_decoded(plain)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _percent_decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def last_part(url: str) -> str:
    """Return the last part of an address's path, decoded; empty when the path ends in a slash."""
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1], errors="replace")


def best_name(said: str, urls: Iterable[str], endings: tuple[str, ...]) -> str:
    """Choose the name of a file.

    Args:
        said: Name that the server gives, or empty.
        urls: Addresses that led to the file, the last first.
        endings: Ends of names that can hold what is looked for; an address with one of them is preferred,
            because the last address of a chain is often a digest.
    """
    if said:
        return safe(said)
    parts = [part for part in (last_part(url) for url in urls) if part]
    fitting = [part for part in parts if part.lower().endswith(endings)]
    return safe((fitting or parts or [""])[0])
