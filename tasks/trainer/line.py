"""A line before the model: one generation at a time, in the order of arrival, and not endless.

Two generations at once would be slower than one after the other on a single device, and would need
twice the memory. Who finds the line full is told so at once, instead of waiting for a time-out.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Iterator

from .ask import Refusal

_LONGEST_HINT = 60


class Line:
    """Threads that want the model. The first one has it."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._changed = threading.Condition()
        self._tickets: deque[object] = deque()
        self._closed = False
        self._seconds = 1.0
        """Running mean of a turn."""

    @contextlib.contextmanager
    def turn(self, until: float) -> Iterator[None]:
        """Wait for the model and hold it.

        Args:
            until: Instant of `time.monotonic` after which waiting is pointless.

        Raises:
            Refusal: 429 when the line is full, 503 when it closes or does not move in time.
        """
        ticket = object()
        with self._changed:
            self.check_open()
            if len(self._tickets) > self._waiting:
                raise Refusal(
                    429,
                    f"server: {self._waiting} requests wait already. Try again later.",
                    "rate_limit_error",
                    code="queue_full",
                    headers={"Retry-After": self._hint()},
                )
            self._tickets.append(ticket)
        try:
            self._wait(ticket, until)
            started = time.monotonic()
            yield
            self._seconds += 0.2 * (time.monotonic() - started - self._seconds)
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def close(self) -> None:
        """Send everybody away who still waits, and let nobody in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def check_open(self) -> None:
        """Refuse with 503 when the line is closed."""
        if self._closed:
            raise Refusal(
                503,
                "server: is stopping.",
                "overloaded_error",
                code="stopping",
                headers={"Retry-After": "1"},
            )

    def check(self, until: float) -> None:
        """Stop a turn, between two tokens, when the server stops or the time is over.

        Raises:
            Refusal: 503 or 504.
        """
        self.check_open()
        if time.monotonic() > until:
            raise Refusal(
                504,
                "server: the time for one request is over. Ask for fewer tokens.",
                "timeout_error",
                code="timeout",
            )

    def _wait(self, ticket: object, until: float) -> None:
        with self._changed:
            while self._tickets[0] is not ticket:
                if not self._changed.wait(until - time.monotonic()):
                    raise Refusal(
                        503,
                        "server: the line did not move in time. Try again later.",
                        "overloaded_error",
                        code="overloaded",
                        headers={"Retry-After": self._hint()},
                    )
                self.check_open()

    def _hint(self) -> str:
        return str(min(_LONGEST_HINT, max(1, math.ceil(self._seconds * len(self._tickets)))))
