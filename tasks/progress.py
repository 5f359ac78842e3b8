"""What a running job shows: log lines of the run, a progress artifact, a bar on the terminal."""

from __future__ import annotations

import time
from logging import Logger, LoggerAdapter
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from tasks.reports.progress import Bar
from tasks.trainer import events

_SECONDS_BETWEEN_UPDATES = 2.0


class Watch:
    """Takes the lines that a job prints and shows them in all three places.

    The artifact is updated at most every two seconds: each update is a request to the server.
    """

    def __init__(self, doing: str, log: Logger | LoggerAdapter[Any]) -> None:
        self._doing = doing
        self._log = log
        self._bar = Bar(doing)
        self._artifact: UUID | None = None
        self._updated = 0.0
        self.measured: dict[str, float] = {}
        """The last value of each metric that the job printed."""

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def line(self, text: str) -> None:
        """Take one line."""
        event = events.parse(text)
        if isinstance(event, events.Progress):
            self._bar.update(event.done, event.total, event.unit)
            self._publish(event)
            return
        if isinstance(event, events.Metric):
            self.measured |= event.values
        if text.strip():
            self._log.info(text)

    def _publish(self, event: events.Progress) -> None:
        finished = event.done >= event.total
        if not finished and time.monotonic() - self._updated < _SECONDS_BETWEEN_UPDATES:
            return
        self._updated = time.monotonic()
        percent = 100.0 * event.done / max(event.total, 1)
        try:
            self._send(percent, f"{self._doing}, {event.unit}s")
        except (httpx.HTTPError, PrefectException) as reason:
            # a server that is away for a moment is no reason to stop a training
            self._log.warning("the progress could not be shown: %s", reason)

    def _send(self, percent: float, told: str) -> None:
        if self._artifact is None:
            key = f"{self._doing}-progress"
            made = create_progress_artifact(percent, key=key, description=told)
            self._artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._artifact, percent)
