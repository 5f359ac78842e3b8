"""How long a run takes that has nothing to do, beside an empty flow: `python -m bench.rerun [ROUNDS]`.

Both start an interpreter and, unless a Prefect server is running, a temporary server: the empty flow Prefect's own,
ours the one of `flows/servers.py`. The first run of ours, which may have work to do, is not counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from flows.cli import running_server
from tasks import store

EMPTY = """
from prefect import flow

@flow
def empty() -> None:
    pass

empty()
"""
COMMANDS = {
    "empty flow": [sys.executable, "-c", EMPTY],
    "cached run": [sys.executable, "-m", "flows.finetune"],
}


def seconds(command: list[str]) -> float:
    """Return the wall time of a command, in seconds."""
    started = time.monotonic()
    subprocess.run(command, cwd=store.PROJECT, check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    """Time both in turn and print medians and the ratio of each pair."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print("with the running server" if running_server() else "with temporary servers")
    seconds(COMMANDS["cached run"])
    pairs = [tuple(seconds(command) for command in COMMANDS.values()) for _ in range(rounds)]
    for name, taken in zip(COMMANDS, zip(*pairs, strict=True), strict=True):
        print(f"{name}: median {statistics.median(taken):.1f} s of {rounds}")
    ratios = [cached / empty for empty, cached in pairs]
    print(f"ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
