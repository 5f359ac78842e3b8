"""How far a long step is: a bar on the terminal, a line now and then in a pipe.

    with Bar("training") as bar:
        bar.update(120, 400, "step")

Nothing shows for work that ends within two seconds. One bar shows at a time; another waits until the
first is gone. Lines that anyone prints meanwhile appear above the bar, also those of logging handlers
that took hold of the stream long before: the stream's own `write` is diverted while the bar stands.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from tasks.reports.wording import duration, fitting, percent, rate, visible

PATIENCE_SECONDS = 2.0
"""Work that is done sooner shows nothing."""
LINE_SECONDS = 10.0
"""In a pipe, at most one line in so many seconds."""

_shown = threading.Lock()


class Bar:
    """Progress of one piece of work; safe to update from any thread.

    Args:
        title: What is being done.
        stream: Where to show it; None is standard error.
        patience: Seconds before anything shows.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        title: str,
        stream: TextIO | None = None,
        patience: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = visible(title)
        self._stream = stream or sys.stderr
        self._patience = patience
        self._clock = clock
        self._guard = threading.RLock()
        self._display: _Screen | _Lines | None = None
        self._closed = False
        self._pace = _Pace(clock)
        self._timer = threading.Timer(patience, self._appear)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._pace.begin = self._clock()
        if _is_screen(self._stream):
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._guard:
            self._closed = True
            if self._display:
                self._display.close()
                self._display = None
                _shown.release()

    def update(self, done: int, total: int | None, unit: str) -> None:
        """Say how much is done.

        Args:
            done: What is finished, also in earlier attempts.
            total: Of how many; None or 0 when that is not known.
            unit: What is counted, in the singular: `step`, `row`.
        """
        with self._guard:
            self._pace.note(done, total or 0, unit)
            if self._pace.spent() >= self._patience:
                self._appear()
            if self._display:
                self._display.draw(self._pace)

    def _appear(self) -> None:
        with self._guard:
            if self._closed or self._display or not _shown.acquire(blocking=False):
                return
            if _is_screen(self._stream):
                self._display = _Screen(self._title, self._stream, self._pace)
                self._display.draw(self._pace)
            else:
                self._display = _Lines(self._title, self._stream, self._clock)


class _Pace:
    """How much is done, how fast, and how long the rest will take at that pace."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.begin = clock()
        self._first: tuple[int, float] | None = None
        self.done, self.total, self.unit = 0, 0, ""

    def spent(self) -> float:
        return self._clock() - self.begin

    def note(self, done: int, total: int, unit: str) -> None:
        # Work that resumes begins in the middle: only what is done from here on tells the pace.
        if self._first is None or done < self.done:
            self._first = (done, self._clock())
        self.done, self.total, self.unit = done, total, unit

    def amount(self) -> str:
        if not self.unit:
            return ""
        of = f"/{self.total:,}" if self.total else ""
        return f"{self.done:,}{of} {self._units()}"

    def speed(self) -> str:
        return rate(self._per_second(), self._units()) if self._per_second() else ""

    def left(self) -> str:
        rest = self.total - self.done
        known = rest > 0 and self._per_second()
        return f"{duration(rest / self._per_second())} left" if known else ""

    def _units(self) -> str:
        return f"{visible(self.unit)}s"

    def _per_second(self) -> float:
        start, since = self._first or (0, 0.0)
        seconds = self._clock() - since
        return (self.done - start) / seconds if seconds > 0 else 0.0


class _Lines:
    """Plain lines for a pipe or a log file."""

    def __init__(self, title: str, stream: TextIO, clock: Callable[[], float]) -> None:
        self._title, self._stream, self._clock = title, stream, clock
        self._last = -LINE_SECONDS + clock()

    def draw(self, pace: _Pace) -> None:
        if self._clock() - self._last < LINE_SECONDS:
            return
        self._last = self._clock()
        share = percent(pace.done / pace.total) if pace.total else ""
        told = ", ".join(filter(None, (pace.amount(), share, pace.speed(), pace.left())))
        line = f"{self._title}: {told}\n"
        with contextlib.suppress(OSError):  # a reader that left is no reason to end the work
            self._stream.write(fitting(line, self._stream.encoding or "utf-8"))
            self._stream.flush()

    def close(self) -> None:
        """Leave what was written."""


class _Told(ProgressColumn):
    """The amount, pace and time of the work, as they are when the screen is drawn."""

    def __init__(self, pace: _Pace) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._pace = pace

    def render(self, task: Task) -> Text:
        time_told = ", ".join(filter(None, (duration(self._pace.spent()), self._pace.left())))
        return Text(" · ".join(filter(None, (self._pace.amount(), self._pace.speed(), time_told))))


class _Screen:
    """A bar at the lower edge of a terminal; it leaves nothing behind."""

    def __init__(self, title: str, stream: TextIO, pace: _Pace) -> None:
        self._open = contextlib.ExitStack()
        # A handle of its own: the stream's is diverted to print above the bar.
        own = os.fdopen(
            os.dup(stream.fileno()), "w", encoding=stream.encoding, errors="replace", newline=""
        )
        self._open.enter_context(own)
        console = Console(file=own, force_terminal=True)
        narrow = console.width < 110
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None if narrow else 40),
            _Told(pace),
            console=console,
            transient=True,
            expand=narrow,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(title, total=None)
        for each in {id(one): one for one in (stream, sys.stdout, sys.stderr)}.values():
            if each.isatty():
                self._open.enter_context(_diverted(each, console))
        self._open.enter_context(self._progress)

    def draw(self, pace: _Pace) -> None:
        self._progress.update(self._task, completed=pace.done, total=pace.total or None)

    def close(self) -> None:
        self._open.close()


def _is_screen(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


@contextlib.contextmanager
def _diverted(stream: TextIO, console: Console) -> Iterator[None]:
    """Send what is written to a stream through the console, which keeps the bar below it."""
    stream.flush()
    proxy = FileProxy(console, stream)
    stream.write = proxy.write  # type: ignore[method-assign]
    try:
        yield
    finally:
        del stream.write
        proxy.flush()
