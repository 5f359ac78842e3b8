"""`python -m trainer.launch --processes 2 [--watch-stdin] train --job job.json`: several trainers, one job.

Starts the processes of this machine with the environment that torchrun would give them, passes SIGTERM and
SIGINT on to them, and ends as the one of them ended that ended badly first: with its code, or by its
signal. torchrun itself works as well (`torchrun --nproc-per-node 2 -m trainer train --job …`), but turns every
code into 1, and needs a second and 250 MB to import torch; whoever reads the codes of `job.py` starts this.
Of several machines each runs it with the same `--machines`, `--address`, `--port`, and its own `--machine`.

When a process ends badly the others get SIGTERM, and half a minute later SIGKILL: they cannot go on without
it. Each has a pipe to this one as standard input and stops when it closes, so that none is left behind if
this one is killed. Standard library only: it takes no memory beside the trainers.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from . import events, stopping
from .job import EXIT_CONFIG, EXIT_INTERRUPTED
from .team import EXIT_LEFT

_GRACE_SECONDS = 30.0
_VICTIMS = (EXIT_LEFT, EXIT_INTERRUPTED, -signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the processes of one machine to their end; return the exit code."""
    asked = _parsed(arguments)
    if asked.processes < 1 or not 0 <= asked.machine < asked.machines:
        events.error(
            f"launch: there is nothing to start (found {asked.processes} processes, machine "
            f"{asked.machine} of {asked.machines}). Machines count from 0."
        )
        return EXIT_CONFIG
    group = _Group()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: group.end())
    if asked.watch_stdin:
        stopping.watch_stdin()
    return group.run(asked.command, _environments(asked))


class _Group:
    """The processes of this machine."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._asked = False

    def run(self, command: list[str], environments: Sequence[Mapping[str, str]]) -> int:
        """Start the processes and return the code of the group when all have ended."""
        module = [sys.executable, "-m", __package__, *command, "--watch-stdin"]
        for rank, environment in enumerate(environments):
            process = subprocess.Popen(module, stdin=subprocess.PIPE, env=environment)
            self._processes.append(process)
            threading.Thread(target=self._follow, args=(rank, process), daemon=True).start()
        if self._asked:
            self.end()  # asked while they were being started
        codes = [self._next() for _ in self._processes]
        code = _decisive(codes)
        return code if code >= 0 else _die(-code)

    def end(self) -> None:
        """Ask all processes to stop."""
        self._asked = True
        for process in self._processes:
            process.terminate()

    def _next(self) -> int:
        """Wait until one more process ends; return its code."""
        rank, code = self._ended.get()
        if code < 0 and not self._asked:
            events.text(f"process {rank} ended with signal {-code}: the others are ended too")
        if code != 0:
            self.end()
            killer = threading.Timer(_GRACE_SECONDS, self._kill)
            killer.daemon = True
            killer.start()
        return code

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    def _follow(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        self._ended.put((rank, process.wait()))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="trainer.launch", description="Train in many processes.")
    parser.add_argument("--processes", type=int, required=True, help="of this machine")
    parser.add_argument("--machines", type=int, default=1, help="how many work together")
    parser.add_argument("--machine", type=int, default=0, help="number of this one, from 0")
    parser.add_argument("--address", default="127.0.0.1", help="of machine 0")
    parser.add_argument("--port", type=int, default=0, help="of machine 0; 0 takes a free one")
    parser.add_argument("--watch-stdin", action="store_true", help="stop when it ends")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what the trainer gets")
    return parser.parse_args(arguments)


def _environments(asked: argparse.Namespace) -> list[dict[str, str]]:
    """Return what each process of this machine finds in its environment."""
    cores = max(1, len(os.sched_getaffinity(0)) // asked.processes)
    shared = {
        "MASTER_ADDR": asked.address,
        "MASTER_PORT": str(asked.port or _free_port()),
        "WORLD_SIZE": str(asked.machines * asked.processes),
        "LOCAL_WORLD_SIZE": str(asked.processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores)),
    }
    first = asked.machine * asked.processes
    return [
        {**os.environ, **shared, "LOCAL_RANK": str(local), "RANK": str(first + local)}
        for local in range(asked.processes)
    ]


def _decisive(codes: list[int]) -> int:
    """Choose among the codes of the processes, in the order of their ends."""
    wrong = [code for code in codes if code != 0]
    if wrong and wrong[0] == EXIT_LEFT:
        # it was quicker to end than the one it lost; who then ends on request is a victim too
        wrong = [code for code in wrong if code not in _VICTIMS] or wrong
    return wrong[0] if wrong else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die(number: int) -> int:
    """End by the signal that ended a process of the group, for a parent that looks at it."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


if __name__ == "__main__":
    sys.exit(main())
