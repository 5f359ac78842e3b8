"""How long to wait for a server, and how to say meanwhile how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from tasks.errors import ConfigError
from tasks.sources.answers import Passing
from tasks.sources.request import Progress

_SLOWEST = 100
_TELL_SECONDS = 0.2


@dataclass(frozen=True)
class Patience:
    """How long to wait for what; the clock is a part of it so that tests need not wait."""

    stall_seconds: float = 30.0
    """A connection on which nothing comes for so long is given up."""
    connect_seconds: float = 10.0
    slow_seconds: float = 120.0
    """A connection that brings less than 100 bytes a second for so long is given up."""
    pause_seconds: float = 0.5
    """Between two tries."""
    longest_wait_seconds: float = 60.0
    """A server that asks for more gets it from the retries of the step."""
    now: Callable[[], float] = time.time
    ticks: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def client(self) -> httpx.Client:
        """Return a client that waits no longer; proxies and certificates are those of the environment.

        Raises:
            ConfigError: The environment names a proxy or a file of certificates that cannot be used.
        """
        timeout = httpx.Timeout(self.stall_seconds, connect=self.connect_seconds)
        try:
            return httpx.Client(timeout=timeout, follow_redirects=False)
        except (OSError, ImportError, ValueError, httpx.InvalidURL) as reason:
            raise ConfigError(
                f"environment: no connection can be made (found {reason}). "
                "Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE."
            ) from reason

    def told(self, reason: httpx.TimeoutException) -> str:
        """Say what was waited for in vain."""
        if isinstance(reason, httpx.ConnectTimeout):
            return f"no connection within {self.connect_seconds:g} s"
        return f"nothing came for {self.stall_seconds:g} s"


class Ticker:
    """Passes progress on, a few times a second.

    Args:
        progress: Told of bytes that are there and bytes expected.
        patience: Its clock.
        base: Bytes of earlier files of the same fetch.
        total: Bytes of all its files; 0 takes what each file says of itself.
    """

    def __init__(
        self, progress: Progress, patience: Patience, base: int = 0, total: int = 0
    ) -> None:
        self._progress, self._patience = progress, patience
        self._base, self._total = base, total
        self._last = float("-inf")
        self._said = (base, total)

    def begin(self, done: int, total: int) -> None:
        """Say where a file begins; its first bytes are told at once."""
        self._said = (self._base + done, self._total or total)
        self._progress(*self._said)

    def __call__(self, done: int, total: int) -> None:
        """Note how much of this file is there, and say so now and then."""
        self._said = (self._base + done, self._total or total)
        self.tick()

    def tick(self) -> None:
        """Say the same once more, unless that was a moment ago."""
        if self._patience.ticks() - self._last >= _TELL_SECONDS:
            self.again()

    def again(self) -> None:
        """Say the same once more."""
        self._last = self._patience.ticks()
        self._progress(*self._said)

    def wait(self, seconds: float) -> None:
        """Sleep, and say the same once a second."""
        while seconds > 0:
            self.again()
            self._patience.sleep(min(seconds, 1.0))
            seconds -= 1.0


class Pace:
    """Gives up a connection that brings next to nothing without ever falling silent."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since, self._bytes = patience.ticks(), 0

    def note(self, size: int) -> None:
        """Count bytes that came.

        Raises:
            Passing: They are too few for the time they took.
        """
        self._bytes += size
        spent = self._patience.ticks() - self._since
        if spent < self._patience.slow_seconds:
            return
        if self._bytes < spent * _SLOWEST:
            raise Passing(f"only {self._bytes:,} bytes came in {spent:.0f} s", useful=False)
        self._since, self._bytes = self._patience.ticks(), 0
