"""What can go wrong in the trainer's process, and the exit code that tells the parent.

The parent's exceptions live in another process: `tasks/backends/` turns the codes back into them.
A message has one shape: *where: what is wrong (what was found). What to do.*
"""

from __future__ import annotations

from .job import EXIT_CONFIG, EXIT_DATA, EXIT_INTERRUPTED


class TrainerError(Exception):
    """Anything the trainer raises on purpose."""

    exit_code: int = 1


class ConfigError(TrainerError):
    """The job cannot work as asked, on this machine."""

    exit_code = EXIT_CONFIG


class DataError(TrainerError):
    """A record is malformed. The message begins with its path and line."""

    exit_code = EXIT_DATA


class Interrupted(TrainerError):
    """Someone asked the process to stop; what it had reached is saved."""

    exit_code = EXIT_INTERRUPTED
