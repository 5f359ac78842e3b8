"""The register of this machine's endpoints: a few files per name, in one directory.

    sample.json          the process that answers under the name; replaced in one rename
    sample.<token>.job   what a process was asked to serve
    sample.<token>.log   what it prints
    sample.lock          held by whoever changes any of these

A job file is written before its process starts and is one of its arguments. What a killed deployment
left running is thereby found, even if it was killed before it could note the number of the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks import processes
from tasks.errors import ConfigError, TransientError

_NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Record:
    """One serving process."""

    name: str
    url: str
    pid: int
    born: str
    """What tells the process from a later one of its number."""
    model: str
    """Digest of the model behind it."""
    order: str
    """Digest of everything that was asked for: another one is a reason to replace the process."""
    token: str
    """Names its job file and its log."""

    def alive(self) -> bool:
        """Say whether the process still runs."""
        return processes.born(self.pid) == self.born


def names(directory: Path) -> list[str]:
    """Return the names that have a record, sorted."""
    return sorted(path.stem for path in directory.glob("*.json") if _NAME.fullmatch(path.stem))


class Records:
    """The files of one name."""

    def __init__(self, directory: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"name: {name!r} cannot name an endpoint. "
                "Use up to 63 lower-case letters, digits and dashes."
            )
        self.name = name
        self._directory = directory.resolve()
        self._record = self._directory / f"{name}.json"

    def job(self, token: str) -> Path:
        """Return where the job of a process lies."""
        return self._directory / f"{self.name}.{token}.job"

    def log(self, token: str) -> Path:
        """Return where a process prints to."""
        return self._directory / f"{self.name}.{token}.log"

    @contextlib.contextmanager
    def lock(self, patience: float) -> Iterator[None]:
        """Hold the name. The system gives it free when this process ends, however it ends.

        Args:
            patience: Seconds to wait for somebody else who holds it.

        Raises:
            TransientError: It was not free in time.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + patience
        with (self._directory / f"{self.name}.lock").open("w") as file:
            while not _locked(file.fileno()):
                if time.monotonic() > until:
                    raise TransientError(
                        f"endpoint {self.name}: another deployment of it is under way "
                        f"(waited {patience:g} s). Try again when it has ended."
                    )
                time.sleep(_LOOK_SECONDS)
            yield

    def read(self) -> Record | None:
        """Return the record, or None when there is none that this version can read."""
        try:
            return Record(**json.loads(self._record.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Give the name to a process."""
        fresh = self._directory / f"{self.name}.{record.token}.new"
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(asdict(record), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._record)

    def swept(self, grace: float) -> Record | None:
        """Stop what nobody answers for, and return the record if its process lives."""
        record = self.read()
        if record and not record.alive():
            record = None
        for left in (*self._left("job"), *self._left("log")):
            if record and left in (self.job(record.token), self.log(record.token)):
                continue
            if left.suffix == ".job":
                for pid in processes.with_argument(str(left)):
                    processes.stop(pid, processes.born(pid) or "ended", grace)
            left.unlink()
        return record

    def forget(self, record: Record) -> None:
        """Remove what belongs to a stopped process, and the record if it is of that process."""
        if self.read() == record:
            self._record.unlink()
        self.job(record.token).unlink(missing_ok=True)
        self.log(record.token).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove everything that is known of the name, whose process was stopped."""
        self._record.unlink(missing_ok=True)
        for left in (*self._left("job"), *self._left("log")):
            left.unlink()

    def _left(self, kind: str) -> list[Path]:
        return sorted(self._directory.glob(f"{self.name}.*.{kind}"))


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
