"""How a running job is asked to stop: SIGTERM, SIGINT, or the death of its parent.

A request is only noted. Whoever does the work looks at it between two pieces, saves what it has, and
raises `Interrupted`, so that no checkpoint is ever written from inside a signal handler.
"""

from __future__ import annotations

import os
import signal
import threading


class Stop:
    """Whether someone has asked this process to stop."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        """Note SIGTERM and SIGINT from now on."""
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, signum: int, frame: object) -> None:
        self.asked = True


def watch_stdin() -> None:
    """Send this process SIGTERM once standard input ends, which it does when the parent dies."""
    threading.Thread(target=_until_end, name="watch-stdin", daemon=True).start()


def _until_end() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
