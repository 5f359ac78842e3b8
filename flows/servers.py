"""Prefect servers of this machine: the one that runs, or one of our own for as long as it is needed.

Prefect would start a temporary server by itself. That one dies with Ctrl-C before the run can report its end, and
lives on when the run is killed; ours does neither.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks import store
from tasks.errors import JobFailed

USUAL = "http://127.0.0.1:4200/api"
"""Where `prefect server start` listens unless told otherwise."""
_STARTUP_SECONDS = 180.0
_GRACE_SECONDS = 20.0


def answers(url: str) -> bool:
    """Say whether a Prefect API is healthy."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=3) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def temporary() -> str:
    """Run a server without a UI until this process ends, and return its API's address.

    It must be the last to go: Prefect hands over its events and logs when the interpreter shuts down, after the last
    line of the program, and would wait for ever for a server that is gone.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL"}
    ending = contextlib.ExitStack()
    atexit.register(ending.close)
    return ending.enter_context(start("127.0.0.1", port, quiet))


@contextlib.contextmanager
def start(host: str, port: int, settings: dict[str, str]) -> Iterator[str]:
    """Run a server for as long as the block lasts, and yield its API's address.

    Raises:
        JobFailed: It ended, or did not answer in time.
    """
    url = f"http://{host}:{port}/api"
    words = ("server", "start", "--host", host, "--port", str(port))
    log = store.home() / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, prefect(*words, settings=settings, output=output) as process:
        _await(url, process, log)
        yield url


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _STARTUP_SECONDS
    while not answers(url):
        if process.poll() is not None or time.monotonic() > until:
            tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-10:])
            raise JobFailed(f"Prefect server at {url}: it does not start. See {log}:\n{tail}")
        time.sleep(0.1)


@contextlib.contextmanager
def prefect(
    *words: str, settings: dict[str, str], output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Prefect command beside the block, and end it with the block, or with this process.

    It gets a session of its own: Ctrl-C reaches this process alone, which ends the others in order.
    """
    with contextlib.ExitStack() as ending:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=store.PROJECT,
            env=os.environ | settings,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )
        ending.callback(_end, process)
        ending.enter_context(_outlived_by_nothing(process.pid))
        yield process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _outlived_by_nothing(pid: int) -> Iterator[None]:
    """End a process when this one is killed: a shell waits for the end of its input, which is then."""
    with subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line; [ "$line" = done ] || kill "$0"', str(pid)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    ) as guard:
        try:
            yield
        finally:
            guard.communicate(b"done\n")
