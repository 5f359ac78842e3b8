"""`python -m trainer ACTION --job job.json [--watch-stdin]`.

    train      tune a base model on rows; also in several processes, under torchrun
    predict    answer the rows of a split
    serve      answer over HTTP
    lengths    measure the rows in tokens
    merge      adapters into weights: a model of its own
    adopt      take over an adapter in ChatGLM's own layout
    export     write one of ours in that layout

The job is read, and the files that it names are checked against their records, before torch is imported:
a mistake costs a second. Measuring lengths does without torch altogether.
The exit code says how it went (`job.py`): 0 done, 64 the job cannot work, 65 a record is malformed,
75 interrupted after saving, 1 a defect, with its traceback. The last line of 64, 65 and 75 is `[error]`.
Of several processes the one that failed prints that line; the others end with 76 (`team.py`).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from . import events, orders, stopping, verification
from .errors import TrainerError
from .job import EXIT_CONFIG, Job
from .team import PeerLost, Team, hush

# What an operator can set right, as opposed to a defect of this program.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job; return the exit code."""
    hush()
    parser = argparse.ArgumentParser(
        prog="trainer", description="Train, answer, measure, merge and exchange models."
    )
    parser.add_argument("action", choices=orders.ACTIONS)
    parser.add_argument("--job", type=Path, required=True, help="the order, a JSON file")
    parser.add_argument(
        "--watch-stdin",
        action="store_true",
        help="stop, as on SIGTERM, when standard input ends: the parent is gone",
    )
    asked = parser.parse_args(arguments)
    try:
        job = orders.read(asked.job, asked.action)
        _run(job, asked.watch_stdin)
    except PeerLost as error:
        events.text(str(error))  # the last [error] line stays that of the process that failed
        return error.exit_code
    except TrainerError as error:
        events.error(str(error))
        return error.exit_code
    except OSError as error:
        if error.errno not in _FULL | _CLOSED:
            raise
        events.error(
            f"{error.filename or asked.job}: {error.strerror}. "
            "Free space, or choose directories that can be written."
        )
        return EXIT_CONFIG
    return 0


def _run(job: Job, watch: bool) -> None:
    _settle(job)
    stop = stopping.Stop()
    if job.action != "serve":
        stop.listen()
    if watch:
        stopping.watch_stdin()
    verification.check(job, stop)
    if job.action == "lengths":
        from . import lengths  # transformers without torch, a second

        lengths.measure(job, stop)
    else:
        _run_model(job, stop)


def _run_model(job: Job, stop: stopping.Stop) -> None:
    import torch  # from here on imports take seconds

    if job.threads:
        torch.set_num_threads(job.threads)
    if job.action == "train":
        from .loop import train

        with Team.join() as team:
            train(job, stop, team)
    elif job.action == "predict":
        from .predict import predict

        predict(job, stop)
    elif job.action == "serve":
        from . import serve

        serve.run(job)
    else:
        _run_files(job, stop)


def _run_files(job: Job, stop: stopping.Stop) -> None:
    if job.action == "merge":
        from . import merging

        merging.merge(job, stop)
    else:
        from . import exchange

        {"adopt": exchange.adopt, "export": exchange.export}[job.action](job)


def _settle(job: Job) -> None:
    """Keep libraries off the network, and their bars and advice out of the output.

    Tokenizers use the threads that the job may use: nothing here forks, which they would not survive.
    OpenMP threads wait asleep: spinning, two threads on two cores that others use too read 290 tokens/s,
    asleep 1,850, and a Prefect server on the same machine is such another.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    if job.threads:
        os.environ["RAYON_NUM_THREADS"] = str(job.threads)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    sys.exit(main())
