"""Downloads, against a server on this machine that misbehaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks import sources
from tasks.config import SourceConfig
from tasks.data import fetch
from tasks.errors import ConfigError, PipelineError, TransientError

pytestmark = pytest.mark.usefixtures("home", "quiet_logs")

BODY = b'{"content": "a", "summary": "b"}\n'


class Handler(BaseHTTPRequestHandler):
    """Answers by the path; counts the bodies it has sent."""

    protocol_version = "HTTP/1.1"
    sent = 0

    def do_GET(self) -> None:
        if self.path.startswith("/status/"):
            self._answer(int(self.path.rsplit("/", 1)[1]), b"")
        elif self.path == "/page":
            self._answer(200, b"<html>", {"Content-Type": "text/html; charset=utf-8"})
        elif self.path == "/cut":
            self._answer(200, BODY, {"Content-Length": str(len(BODY) + 10)})
            self.close_connection = True
        elif self.path == "/named":
            self._answer(200, BODY, {"Content-Disposition": 'attachment; filename="../../x.json"'})
        elif self.headers.get("If-None-Match") == '"one"':
            self._answer(304, b"")
        else:
            type(self).sent += 1
            self._answer(200, BODY, {"ETag": '"one"'})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a running server."""
    Handler.sent = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_an_unpinned_address_is_asked_again_but_not_sent_again(server: str) -> None:
    source = SourceConfig(uri=f"{server}/train.json")
    assert not source.pinned
    first, again = fetch.fn(source), fetch.fn(source)
    assert first == again
    assert first.files == ("train.json",)
    assert Handler.sent == 1


def test_what_is_gone_from_the_store_is_sent_again(server: str, home: Path) -> None:
    source = SourceConfig(uri=f"{server}/train.json")
    raw = fetch.fn(source)
    (home / "store").rename(home / "lost")
    assert fetch.fn(source) == raw
    assert Handler.sent == 2


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/status/404", ConfigError, "found status 404"),
        ("/status/503", TransientError, "answered 503"),
        ("/status/429", TransientError, "answered 429"),
        ("/page", ConfigError, "a web page instead of data"),
        ("/cut", TransientError, "source.uri"),
    ],
)
def test_a_bad_answer_is_told_apart_by_whether_waiting_helps(
    server: str, path: str, kind: type[PipelineError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        fetch.fn(SourceConfig(uri=f"{server}{path}"))


def test_a_server_that_is_not_there_is_worth_another_try() -> None:
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9"):
        fetch.fn(SourceConfig(uri="http://127.0.0.1:9/train.json"))


def test_a_name_from_outside_never_leaves_the_folder(server: str, tmp_path: Path) -> None:
    got = sources.download(f"{server}/named", tmp_path, "")
    assert got.name == "x.json"
    assert (tmp_path / "x.json").read_bytes() == BODY
