"""`python -m trainer train|predict|serve|lengths --job job.json [--watch-stdin]`.

The job is read, and the files that it names are checked against their records, before torch is imported:
a mistake costs a second. Measuring lengths does without torch altogether.
The exit code says how it went (`job.py`): 0 done, 64 the job cannot work, 65 a record is malformed,
75 interrupted after saving, 1 a defect, with its traceback. The last line of 64, 65 and 75 is `[error]`.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from . import events, families, stopping, verification
from .errors import ConfigError, TrainerError
from .job import EXIT_CONFIG, Job

# What an operator can set right, as opposed to a defect of this program.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="trainer", description="Train, predict, serve or measure."
    )
    parser.add_argument("action", choices=("train", "predict", "serve", "lengths"))
    parser.add_argument("--job", type=Path, required=True, help="the order, a JSON file")
    parser.add_argument(
        "--watch-stdin",
        action="store_true",
        help="stop, as on SIGTERM, when standard input ends: the parent is gone",
    )
    asked = parser.parse_args(arguments)
    try:
        job = _read(asked.job, asked.action)
        _run(job, asked.watch_stdin)
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


def _read(path: Path, action: str) -> Job:
    try:
        job = Job.read(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: not a job ({type(error).__name__}: {error}).") from error
    if job.action != action:
        raise ConfigError(f"{path}: action: the job says {job.action!r} (asked for {action!r}).")
    if action in ("train", "lengths") and job.tuned:
        raise ConfigError(f"{path}: tuned: only a base model is trained (found {job.tuned!r}).")
    needed = ["base"] if action == "serve" else ["base", "data", "out", "work"]
    for name in dict.fromkeys([*needed, "data", "tuned"]):
        place = getattr(job, name)
        if name in needed and not place:
            raise ConfigError(f"{path}: {name}: is empty. Name a directory.")
        if place and name not in ("out", "work") and not Path(place).is_dir():
            raise ConfigError(f"{path}: {name}: no such directory (found {place!r}). Name another.")
    families.load(job.family)
    return job


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

        train(job, stop)
    elif job.action == "predict":
        from .predict import predict

        predict(job, stop)
    else:
        from . import serve

        serve.run(job)


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
