"""S3 on loopback: moto behind a door that writes down every request, can refuse it, and can speak TLS."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from tasks.s3 import S3Access

REGION = "us-east-1"


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int = 0
    """What was answered."""


@dataclass(frozen=True)
class Answer:
    """What the door says instead of S3."""

    status: int
    code: str


@dataclass
class Server:
    """A server that is running."""

    url: str
    requests: list[Request] = field(default_factory=list)
    refuse: Callable[[Request], Answer | None] = lambda _: None
    """Called with each request; an answer is sent in place of that of S3."""
    cut: Callable[[Request], bool] = lambda _: False
    """Called with each request; True loses the second half of the answer's body."""
    conditions: bool = True
    """False makes it a store that does not know If-None-Match."""
    _client: Any = None

    @property
    def access(self) -> S3Access:
        """How to reach it."""
        return S3Access(endpoint=self.url, region=REGION)

    def client(self) -> Any:
        """Return a client of the test itself, made once."""
        self._client = self._client or self.access.client()
        return self._client

    def sent(self, method: str, ending: str = "") -> list[str]:
        """Return the paths of the requests of a method, of those that end so."""
        return [
            request.path
            for request in self.requests
            if request.method == method and request.path.endswith(ending)
        ]

    def forget(self) -> None:
        """Begin anew: nothing written down, nothing refused."""
        self.requests.clear()
        self.refuse = self.cut = lambda _: None
        self.conditions = True


def _door(server: Server, inside: Any) -> Callable[..., Iterable[bytes]]:
    def enter(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        request = _read(environ)
        server.requests.append(request)
        if not server.conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)

        def answering(status: str, headers: Any, *rest: Any) -> Any:
            request.status = int(status.split()[0])
            return start(status, headers, *rest)

        answer = server.refuse(request)
        if answer is not None:
            return _refuse(environ, answering, answer)
        body = inside(environ, answering)
        if server.cut(request):
            whole = b"".join(body)
            return [whole[: len(whole) // 2]]
        return body

    return enter


def _read(environ: dict[str, Any]) -> Request:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if isinstance(value, str)
    }
    path = unquote(environ["RAW_URI"].partition("?")[0])
    return Request(environ["REQUEST_METHOD"], path, environ["QUERY_STRING"], headers)


def _refuse(environ: dict[str, Any], start: Any, answer: Answer) -> list[bytes]:
    body, length = environ["wsgi.input"], int(environ.get("CONTENT_LENGTH") or 0)
    body.read(-1 if environ.get("wsgi.input_terminated") else length)
    text = f"<Error><Code>{answer.code}</Code><Message>as asked</Message></Error>".encode()
    start(f"{answer.status} As Asked", [("Content-Length", str(len(text)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]


class _Quiet(MotoRequestHandler):
    def log(self, *_: Any) -> None:
        """Write nothing: what arrived is in `requests`."""


@contextlib.contextmanager
def serving(certificate: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """Run a server; with a certificate and its key it speaks TLS only."""
    server = Server("")
    app = _door(server, DomainDispatcherApplication(create_backend_app))
    files = (str(certificate[0]), str(certificate[1])) if certificate else None
    http = make_server(
        "127.0.0.1", 0, app, threaded=True, request_handler=_Quiet, ssl_context=files
    )
    server.url = f"{'https' if certificate else 'http'}://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this test credentials of nobody, and no way to anything but loopback; repeat requests without a pause."""
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)


def certify(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate of 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    written = folder / "certificate.pem", folder / "key.pem"
    written[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    written[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return written
