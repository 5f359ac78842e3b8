"""The listening socket of a served model, with a thread for each connection."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from .service import Service
from .web import Connection


class Server(ThreadingHTTPServer):
    """Listens from the start; what it serves may become ready later."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, service: Service) -> None:
        self.service = service
        self._busy = 0
        self._rest = threading.Condition()
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        self.address_family = resolved[0]
        super().__init__((host, port), Connection)

    def server_bind(self) -> None:
        """Bind without the name look-up of the standard library, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def _host(self) -> str:
        return str(self.server_address[0])

    @property
    def private(self) -> bool:
        """Whether only this machine can reach the server."""
        return ipaddress.ip_address(self._host.partition("%")[0]).is_loopback

    @property
    def url(self) -> str:
        """Address at which this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as under way."""
        with self._rest:
            self._busy += 1
        try:
            yield
        finally:
            with self._rest:
                self._busy -= 1
                self._rest.notify_all()

    def rests(self, seconds: float) -> bool:
        """Wait until no request is under way; say whether that came true in time."""
        with self._rest:
            return self._rest.wait_for(lambda: self._busy == 0, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what went wrong in a thread, but for clients that went away."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)
