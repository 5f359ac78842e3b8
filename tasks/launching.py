"""Start one serving process and wait until it answers.

The process is a session of its own with nothing on its standard input, so that it outlives the flow,
its terminal and its worker. While it starts it is watched: one that ends early is reported with the
last lines of its log, one that is late is stopped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tasks import processes
from tasks.errors import ConfigError, JobFailed, PipelineError
from tasks.store import PROJECT
from tasks.trainer import events
from tasks.trainer.job import EXIT_CONFIG, Job

STOP_SECONDS = 5.0
"""A server ends within 2 s of SIGTERM; later it is killed."""
_PING_SECONDS = 2.0
"""A server that is alive answers its health check sooner, also while it generates."""
_LOOK_SECONDS = 0.05
_LOG_LINES = 20
_QUIET = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Launched:
    """A process that answers."""

    url: str
    pid: int
    born: str
    """What tells it from a later process of its number."""


def launch(job: Job, job_file: Path, log: Path, python: str, startup_seconds: float) -> Launched:
    """Start a process on a job and return when it answers; whatever goes wrong, it is stopped.

    Args:
        job: What to serve.
        job_file: Written before the process starts, which has it as an argument; removed on failure.
        log: Gets what the process prints; stays on failure.
        python: The interpreter.
        startup_seconds: The process must answer within so many seconds.

    Raises:
        ConfigError: The trainer refused the job, or there is no such interpreter.
        JobFailed: The process ended, or did not answer in time.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(job_file.unlink, missing_ok=True)
        job.write(job_file)
        process = _spawn(job, job_file, log, python)
        born = processes.born(process.pid) or "ended"
        undo.callback(processes.stop, process.pid, born, STOP_SECONDS)
        url = _await(process, log, startup_seconds)
        undo.pop_all()
    return Launched(url, process.pid, born)


def answers(url: str) -> bool:
    """Say whether a server passes its health check."""
    try:
        reply = httpx.get(f"{url}/ping", timeout=_PING_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return reply.status_code == httpx.codes.OK


def refused(host: str, port: int) -> str:
    """Try an address and return why it cannot be listened on, or nothing.

    Raises:
        ConfigError: The host is not an address of this machine, whatever the port.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as reason:  # getaddrinfo's error is one too
        unknown = isinstance(reason, socket.gaierror) or reason.errno == errno.EADDRNOTAVAIL
        if unknown or port == 0:
            raise ConfigError(
                f"serving.host: cannot listen on {host!r} ({reason.strerror}). "
                "Choose an address of this machine, such as 127.0.0.1."
            ) from reason
        return reason.strerror or str(reason)
    return ""


def _spawn(job: Job, job_file: Path, log: Path, python: str) -> subprocess.Popen[bytes]:
    threads = {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-m", "tasks.trainer", "serve", "--job", str(job_file)],
                cwd=PROJECT,
                env=os.environ | _QUIET | threads,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as reason:
        raise ConfigError(
            f"python: {python} cannot be run ({reason.strerror}). Name a Python interpreter."
        ) from reason
    # collects it when it ends, so that a long-lived worker keeps no zombies
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def _await(process: subprocess.Popen[bytes], log: Path, seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise _failure(process.returncode, log)
        url = _ready(log)
        if url and answers(url):
            return url
        time.sleep(_LOOK_SECONDS)
    raise JobFailed(
        f"serve: no answer to the health check (waited {seconds:g} s). "
        f"Raise serving.startup_seconds, or see why in the log:\n{_last(log)}"
    )


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def _last(log: Path) -> str:
    return "\n".join(f"    {line}" for line in _lines(log)[-_LOG_LINES:])


def _ready(log: Path) -> str:
    told = [
        event.url for line in _lines(log) if isinstance(event := events.parse(line), events.Ready)
    ]
    return told[-1] if told else ""


def _failure(code: int, log: Path) -> PipelineError:
    told = [
        event.message
        for line in _lines(log)
        if isinstance(event := events.parse(line), events.Failure)
    ]
    if code == EXIT_CONFIG and told:
        return ConfigError(told[-1])
    how = f"signal {-code}" if code < 0 else f"code {code}"
    return JobFailed(
        f"serve: the process ended before it answered ({how}). Its last lines:\n{_last(log)}"
    )
