"""A process on this machine: `python -m tasks.trainer`, with the interpreter that runs the flow.

Several processes that train together are started by one that stands for them (`trainer/launch.py`).
The trainer gets a session of its own, so that Ctrl-C reaches the flow alone, which then asks the trainer
to save its checkpoint and end. Should the flow be killed outright, the trainer sees its standard input
close and does the same: no orphan is left in either case.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks import store
from tasks.backends import Listener
from tasks.config import LocalConfig
from tasks.errors import ConfigError, DataError, JobFailed, PipelineError, TransientError
from tasks.trainer import events
from tasks.trainer.job import EXIT_CONFIG, EXIT_DATA, EXIT_INTERRUPTED, Job

_GRACE_SECONDS = 120.0
"""Time for a checkpoint of a large model."""
_TAIL_LINES = 20


def run(job: Job, on: LocalConfig, listen: Listener) -> None:
    """Run the trainer on a job in a process of its own, until it has ended well.

    Raises:
        ConfigError: The trainer refuses the job.
        DataError: A record is malformed.
        TransientError: The trainer was stopped from outside, after a checkpoint.
        JobFailed: It ended in any other way, or took too long.
    """
    order = Path(job.work) / f"{job.action}.json"
    order.parent.mkdir(parents=True, exist_ok=True)
    job.write(order)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with (
        _process(job, order, on.processes) as process,
        _deadline(process, on.timeout_minutes) as late,
    ):
        lines: IO[str] = process.stdout  # type: ignore[assignment]  # opened as a pipe just above
        for line in lines:
            tail.append(line.rstrip("\n"))
            listen(tail[-1])
        code = process.wait()
    if late.is_set() and code != 0:
        raise JobFailed(
            f"{job.action}: stopped after {on.timeout_minutes:g} minutes, its checkpoint is kept. "
            "Raise compute.timeout_minutes and run again to continue."
        )
    if code != 0:
        raise _failure(job, code, tail)


@contextlib.contextmanager
def _process(job: Job, order: Path, processes: int) -> Iterator[subprocess.Popen[str]]:
    quiet = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    threads = {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
    process = subprocess.Popen(
        _command(job, order, processes),
        stdin=subprocess.PIPE,  # never written: its end tells the trainer that the flow is gone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=store.PROJECT,
        env=os.environ | quiet | threads,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _stop(process)


def _command(job: Job, order: Path, processes: int) -> list[str | Path]:
    """Return what to start: several processes train, one does all else."""
    python: list[str | Path] = [sys.executable, "-m"]
    if job.action == "train" and processes > 1:
        several = ["tasks.trainer.launch", "--processes", str(processes), "--watch-stdin"]
        return [*python, *several, job.action, "--job", order]
    return [*python, "tasks.trainer", job.action, "--job", order, "--watch-stdin"]


def _stop(process: subprocess.Popen[str]) -> None:
    """End the process: first politely, for its checkpoint; a second Ctrl-C does not wait."""
    try:
        if process.poll() is None:
            # Keep reading, so that a trainer that still has something to say is not blocked.
            threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
            _end(process)
    finally:
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _drain(pipe: IO[str]) -> None:
    for _ in pipe:
        pass


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[str], minutes: float) -> Iterator[threading.Event]:
    late = threading.Event()

    def end() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(minutes * 60, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _failure(job: Job, code: int, tail: deque[str]) -> PipelineError:
    told = [failure.message for line in tail if (failure := _as_failure(line))]
    message = told[-1] if told else ""
    if code == EXIT_CONFIG and message:
        return ConfigError(message)
    if code == EXIT_DATA and message:
        return DataError(message)
    if code == EXIT_INTERRUPTED:
        return TransientError(f"{job.action}: stopped from outside; its checkpoint is kept.")
    how = f"ended with signal {-code}" if code < 0 else f"ended with code {code}"
    hint = " The machine may be out of memory: lower train.micro_batch." if code == -9 else ""
    last = "\n".join(f"    {line}" for line in tail)
    return JobFailed(f"{job.action}: the trainer {how}.{hint} Its last lines:\n{last}")


def _as_failure(line: str) -> events.Failure | None:
    event = events.parse(line)
    return event if isinstance(event, events.Failure) else None
