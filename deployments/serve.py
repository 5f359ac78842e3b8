"""`make serve`: a Prefect server, a work pool, every deployment of `prefect.yaml`, and a worker that runs them.

A server that answers already is used and left alone. Everything started here ends with Ctrl-C; models
that were deployed stay up until `make stop`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from flows import servers
from tasks import store
from tasks.errors import JobFailed, PipelineError

POOL = "finetune-local"
_HOST = os.environ.get("PREFECT_SERVER_API_HOST", "127.0.0.1")
_PORT = os.environ.get("PREFECT_SERVER_API_PORT", "4200")
ADDRESS = f"http://{_HOST}:{_PORT}"
API = f"{ADDRESS}/api"
# The UI asks the address that it is told, not the one that it came from.
_SETTINGS = {"PREFECT_API_URL": API, "PREFECT_UI_API_URL": API}


def main() -> None:
    """Serve until stopped."""
    for ending in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # also where a shell started this with SIGINT ignored
        signal.signal(ending, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt), server():
            deploy()
            work()
    except PipelineError as reason:
        raise SystemExit(f"error: {reason}") from None


def work() -> None:
    """Run the worker until it is stopped.

    Raises:
        JobFailed: It ended by itself.
    """
    with servers.prefect("worker", "start", "--pool", POOL, settings=_SETTINGS) as worker:
        _say(f"ready: open {ADDRESS}, choose a deployment, click Run. Ctrl-C ends it.")
        code = worker.wait()
    raise JobFailed(f"worker of {POOL}: it ended with code {code}. Its last lines are above.")


@contextlib.contextmanager
def server() -> Iterator[None]:
    """Use the server that answers, else start one for as long as the block lasts."""
    if servers.answers(API):
        _say(f"using the Prefect server at {ADDRESS}")
        yield
        return
    _say(f"starting a Prefect server at {ADDRESS}")
    with servers.start(_HOST, int(_PORT), _SETTINGS):
        yield


def deploy() -> None:
    """Create the work pool and every deployment; the same again when they exist."""
    _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect("deploy", "--all")
    _say("deployed everything in prefect.yaml")


def _prefect(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        cwd=store.PROJECT,
        env=os.environ | _SETTINGS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise JobFailed(f"prefect {' '.join(words)}: it failed. Its output:\n{done.stdout}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
