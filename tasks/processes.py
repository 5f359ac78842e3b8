"""Processes of this machine, known by more than their number.

The system gives the number of an ended process to another one, days or minutes later. Before a
signal is sent or a process is called alive, its start time is compared as well. It is read from
/proc, or where that is missing (macOS, BSD) from `ps`. A process that has ended but was not yet
collected by its parent counts as gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from tasks.errors import JobFailed

_PROC = Path("/proc")
_BOOT = _PROC / "sys/kernel/random/boot_id"
_KILLED_SECONDS = 5.0
"""A killed process is gone at once, unless the kernel waits for a disk."""
_LOOK_SECONDS = 0.02


def born(pid: int) -> str | None:
    """Return what tells a process from a later one of its number, or None when it has ended."""
    if not (_PROC / "self/stat").exists():
        return _born_by_ps(pid)
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the name, in brackets, may itself hold brackets and blanks; behind it come state and numbers
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    boot = _BOOT.read_text(encoding="ascii").strip() if _BOOT.exists() else ""
    return f"{fields[19]} {boot}".strip()


def _ps(*arguments: str) -> list[str]:
    listed = subprocess.run(
        ["ps", *arguments],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.splitlines()


def _born_by_ps(pid: int) -> str | None:
    for line in _ps("-o", "stat=,lstart=", "-p", str(pid)):
        state, _, started = line.strip().partition(" ")
        return None if state.startswith("Z") else started.strip()
    return None


def with_argument(argument: str) -> list[int]:
    """Return the processes that were started with exactly this argument, which holds no blank."""
    if not (_PROC / "self/stat").exists():
        lines = [line.split() for line in _ps("-axww", "-o", "pid=,args=")]
        return [int(words[0]) for words in lines if argument in words[1:]]
    found = []
    for directory in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours to read
            words = (directory / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(argument) in words:
                found.append(int(directory.name))
    return sorted(found)


def stop(pid: int, birth: str, grace: float) -> None:
    """End a process: SIGTERM, and SIGKILL when it is still there after `grace` seconds.

    Does nothing when the process has ended, even if another one has its number now.

    Raises:
        JobFailed: It belongs to another user, or does not end.
    """
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILLED_SECONDS)):
        if born(pid) != birth:
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        except PermissionError as reason:
            raise JobFailed(
                f"process {pid}: cannot be stopped (it belongs to another user). "
                "Stop it as that user."
            ) from reason
        if _ends(pid, birth, patience):
            return
    raise JobFailed(f"process {pid}: does not end (killed {_KILLED_SECONDS:g} s ago). Look at it.")


def _ends(pid: int, birth: str, patience: float) -> bool:
    until = time.monotonic() + patience
    while born(pid) == birth:
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_SECONDS)
    return True
