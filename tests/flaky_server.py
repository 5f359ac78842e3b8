"""An HTTP server on loopback that misbehaves as it is told: cuts, stalls, lies, refuses, changes its mind.

server.put("/train.json", File(BODY, cuts=[1000]))
server.url("/train.json")
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Headers = dict[str, str]
_BLOCK = 50_000


@dataclass
class File:
    """What lies at a path, and how the server gets it wrong."""

    body: bytes = b""
    etag: str = '"v1"'
    modified: str = ""
    kind: str = "application/octet-stream"
    more: Headers = field(default_factory=dict)
    """Further headers of every answer that has a body."""
    ranges: bool = True
    """Whether Range is understood."""
    chunked: bool = False
    """Send no length."""
    length: int | None = None
    """Announce this length in place of the true one."""
    cuts: list[int] = field(default_factory=list)
    """Close the connection after so many bytes of the body: one number for each of the next answers."""
    stalls: list[int] = field(default_factory=list)
    """As `cuts`, but fall silent in place of closing."""
    first: list[tuple[int, Headers, bytes]] = field(default_factory=list)
    """Answers that come before the file, each once."""
    partial: Callable[[int, int], str] | None = None
    """Content-Range of an answer 206, from its first byte and the whole length, in place of the true one."""
    checks: bool = True
    """Whether If-Range is looked at."""
    token: str = ""
    """Who may have it: the bearer token to be sent; anybody else gets `closed`."""
    closed: tuple[int, Headers, bytes] = (401, {}, b"")


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    path: str
    headers: Message

    @property
    def start(self) -> int:
        """The first byte that was asked for."""
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else 0


class FlakyServer(ThreadingHTTPServer):
    """The server; every request is kept in `asked`."""

    daemon_threads = True
    scheme = "http"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, File] = {}
        self.asked: list[Asked] = []
        self.released = threading.Event()
        """Set when what stalls may close."""

    def put(self, path: str, file: File) -> str:
        """Lay a file at a path and return its address."""
        self.files[path] = file
        return self.url(path)

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self.scheme}://127.0.0.1:{self.server_port}{path}"

    def starts(self) -> list[int]:
        """Return the first byte that each request asked for."""
        return [each.start for each in self.asked]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that gives up is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(Asked(self.path, self.headers))
        file = self.server.files.get(path)
        if file is None:
            self._plain(404, {}, b"not here")
        elif file.token and self.headers.get("Authorization") != f"Bearer {file.token}":
            self._plain(*file.closed)
        elif file.first:
            self._plain(*file.first.pop(0))
        elif self._unchanged(file):
            self._plain(304, _validators(file), b"")
        else:
            self._send(file)

    def _unchanged(self, file: File) -> bool:
        tag, since = self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")
        if tag:
            return bool(file.etag) and tag.removeprefix("W/") == file.etag.removeprefix("W/")
        return bool(since) and since == file.modified

    def _start(self, file: File) -> int | None:
        """Return where a partial answer begins; None for the whole."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        wanted = self.headers.get("If-Range")
        if not found or not file.ranges:
            return None
        weak = file.etag.startswith("W/")
        if (
            wanted
            and file.checks
            and wanted not in ({file.modified} if weak else {file.etag, file.modified})
        ):
            return None
        return int(found[1])

    def _send(self, file: File) -> None:
        start, whole = self._start(file), len(file.body)
        if start is not None and start >= whole:
            self._plain(416, {"Content-Range": f"bytes */{whole}"} | _validators(file), b"")
            return
        headers = {"Content-Type": file.kind} | _validators(file) | file.more
        if start is not None:
            told = (
                file.partial(start, whole) if file.partial else f"bytes {start}-{whole - 1}/{whole}"
            )
            headers["Content-Range"] = told
        body = file.body[start or 0 :]
        length = len(body) if file.length is None else file.length - (start or 0)
        headers |= (
            {"Transfer-Encoding": "chunked"} if file.chunked else {"Content-Length": str(length)}
        )
        self._head(206 if start is not None else 200, headers)
        cut = file.cuts.pop(0) if file.cuts else None
        stall = file.stalls.pop(0) if file.stalls else None
        self._body(file, body[:stall][:cut])
        if stall is not None:
            self.server.released.wait()
        if cut is not None or stall is not None or length != len(body):
            self.close_connection = True
        elif file.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self, file: File, body: bytes) -> None:
        for begin in range(0, len(body), _BLOCK):
            block = body[begin : begin + _BLOCK]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if file.chunked else block)
        self.wfile.flush()

    def _plain(self, status: int, headers: Headers, body: bytes) -> None:
        self._head(status, {"Content-Length": str(len(body))} | headers)
        self.wfile.write(body)

    def _head(self, status: int, headers: Headers) -> None:
        self.send_response_only(status)
        dated = {"Date": email.utils.formatdate(usegmt=True)} | headers
        for name, value in dated.items():
            # http.server itself writes latin-1; there are servers that write UTF-8
            self._headers_buffer.append(f"{name}: {value}\r\n".encode())  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _validators(file: File) -> Headers:
    return {
        name: value
        for name, value in (("ETag", file.etag), ("Last-Modified", file.modified))
        if value
    }


@contextlib.contextmanager
def running(context: ssl.SSLContext | None = None) -> Iterator[FlakyServer]:
    """Yield a running server, over TLS when there is a context for it."""
    with FlakyServer() as server:
        if context:
            server.scheme = "https"
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
