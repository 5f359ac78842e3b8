"""The HTTP side of a served model: routes, bodies and their limits, streams.

Every refusal has an error status and a JSON body; nothing that went wrong is ever a 200. No web page but
our own can use the model through a visitor's browser: bodies must be `application/json`, which a
page of another origin may not send without asking, and nobody answers that. Nor can a name of such a
page be pointed at this machine: a server that only this machine reaches answers to no name of the net.
"""

from __future__ import annotations

import html
import ipaddress
import json
import re
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from . import ask, reply
from .ask import Refusal
from .stream import Events

if TYPE_CHECKING:
    from .server import Server

LARGEST_BODY = 2**20
"""Bytes of a request's body."""
IDLE_SECONDS = 60.0
"""A connection on which nothing moves for so long is closed."""
_DISCARDED = 2**24
_JSON = "application/json"
_PAGE = Path(__file__).with_name("page.html")
_MODEL = "/v1/models/"


class Connection(BaseHTTPRequestHandler):
    """One connection, and the requests on it one after the other."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "finetune-flows"
    sys_version = ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True  # or small replies wait 40 ms for the client's acknowledgement
    _status = 0

    def _serve(self) -> None:
        self._status = 0
        started = time.monotonic()
        with self.server.request():
            try:
                self._route(self._body())
            except Refusal as refusal:
                self._refuse(refusal)
            finally:  # an error of ours: it travels on into the log, and closes the connection
                if self._status == 0:
                    self.close_connection = True
                    self._refuse(Refusal(500, "server: failed. Its log says why.", "server_error"))
                self._report(time.monotonic() - started)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

    def _route(self, body: bytes) -> None:
        self._check_host()
        path = self.path.partition("?")[0]
        routes: dict[str, tuple[str, Callable[[bytes], None]]] = {
            "/": ("GET", self._page),
            "/ping": ("GET", self._ping),
            "/invocations": ("POST", self._invocations),
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/models": ("GET", self._models),
        }
        if path.startswith(_MODEL):
            routes[path] = ("GET", self._model)
        if path not in routes:
            raise Refusal(404, f"path: there is no {path[:60]}. There are: {', '.join(routes)}")
        method, answer = routes[path]
        if self.command != method and (self.command, method) != ("HEAD", "GET"):
            message = f"method: {path} takes {method} (found {self.command})"
            raise Refusal(405, message, headers={"Allow": method})
        answer(body)

    def _check_host(self) -> None:
        """Refuse a name that somebody may have pointed at this machine; an address is fine."""
        asked = self.headers.get("Host", "localhost")
        if self.server.private and not _is_local(asked):
            message = f"Host: {asked[:60]} is not served here. Use the address, or localhost"
            raise Refusal(403, message, "permission_error")

    def _page(self, _: bytes) -> None:
        service, nonce = self.server.service, secrets.token_urlsafe(16)
        facts = {"nonce": nonce, "model": service.name, "longest": service.longest}
        known = {
            name: html.escape(str(value))
            for name, value in (asdict(service.defaults) | facts).items()
        }
        text = re.sub(r"\{\{(\w+)\}\}", lambda hole: known[hole[1]], _PAGE.read_text("utf-8"))
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
        self._send(200, text.encode(), "text/html; charset=utf-8", headers)

    def _ping(self, _: bytes) -> None:
        self.server.service.ready()
        self._send_json(200, {"status": "ready", "model": self.server.service.name})

    def _models(self, _: bytes) -> None:
        service = self.server.service
        entry = reply.model(service.name, service.created)
        self._send_json(200, {"object": "list", "data": [entry]})

    def _model(self, _: bytes) -> None:
        service = self.server.service
        ask.named(unquote(self.path.partition("?")[0].removeprefix(_MODEL)), service.name)
        self._send_json(200, reply.model(service.name, service.created))

    def _invocations(self, body: bytes) -> None:
        service = self.server.service
        asked = ask.invocation(self._fields(body), service.defaults, service.longest)
        self._send_json(200, reply.invocation(service.answer(asked), asked.many))

    def _chat(self, body: bytes) -> None:
        service = self.server.service
        asked = ask.chat(self._fields(body), service.name, service.defaults, service.longest)
        identity = f"chatcmpl-{uuid.uuid4().hex}"
        completion = reply.Completion(identity, int(time.time()), service.name)
        if not asked.stream:
            self._send_json(200, completion.whole(service.answer(asked)[0]))
            return
        events = Events(self, completion)
        try:
            (answer,) = service.answer(asked, events.tell)
            events.finish(answer, asked.counted)
        except Refusal as refusal:
            if not events.begun:
                raise
            events.fail(refusal)

    def _fields(self, body: bytes) -> dict[str, Any]:
        kind, charset = self.headers.get_content_type(), self.headers.get_content_charset("utf-8")
        if "Content-Type" not in self.headers or kind != _JSON or charset not in ("utf-8", "utf8"):
            found = self.headers.get("Content-Type", "none")
            raise Refusal(415, f"Content-Type: must be {_JSON} in UTF-8 (found {found})")
        return ask.parse(body)

    def _body(self) -> bytes:
        """Read the body whole, also one that is not needed: the next request stands behind it."""
        lengths = set(self.headers.get_all("Content-Length", ["0"]))
        length = lengths.pop()
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refusal(411, "Content-Length: is needed (found Transfer-Encoding)")
        if lengths or not (length.isascii() and length.isdecimal()):
            self.close_connection = True
            raise Refusal(400, f"Content-Length: must be one whole number (found {length[:60]!r})")
        waits = self.headers.get("Expect", "").lower() == "100-continue"
        size = int(length) if len(length) < 16 else sys.maxsize
        if size > LARGEST_BODY:
            self.close_connection = True
            self._discard(0 if waits else size)
            raise Refusal(413, f"body: is too large (found {length} bytes, limit {LARGEST_BODY})")
        if waits:
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        return self._read(size)

    def _read(self, size: int) -> bytes:
        try:
            body = self.rfile.read(size)
        except TimeoutError:
            self.close_connection = True
            raise Refusal(408, f"body: did not arrive within {self.timeout:g} s") from None
        if len(body) < size:
            raise ConnectionResetError("the client left in the middle of a body")
        return body

    def _discard(self, size: int) -> None:
        """Read what will not be used: a client that still sends would lose the reply."""
        left = min(size, _DISCARDED)
        while left > 0 and (read := len(self.rfile.read(min(left, 2**16)))):
            left -= read

    def _refuse(self, refusal: Refusal) -> None:
        self._send_json(refusal.status, refusal.body(), refusal.headers)

    def _send_json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        self._send(status, text.encode(), _JSON, headers or {})

    def _send(self, status: int, content: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.begin(status, {"Content-Type": kind, "Content-Length": str(len(content)), **headers})
        if self.command != "HEAD":
            self.wfile.write(content)

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers."""
        self._status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def handle_expect_100(self) -> bool:
        """Leave it to `_body` to ask for the body, once its size is known to be fine."""
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is not HTTP, as JSON like every other refusal."""
        self.close_connection = True
        self._refuse(Refusal(code, f"request: {message or HTTPStatus(code).phrase}"))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing yet: `_report` knows how long it took."""

    def _report(self, seconds: float) -> None:
        path = self.path.partition("?")[0]
        if (path, self._status) != ("/ping", 200):  # asked every few seconds by whoever watches
            took = f"{seconds * 1000:.0f} ms"
            self.log_message("%s %s %s %s", self.command, path, self._status, took)


def _is_local(host: str) -> bool:
    """Say whether a `Host` is an address or `localhost`, which no name server decides upon."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return f".{name}".endswith(".localhost") or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
