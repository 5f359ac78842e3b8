"""What can go wrong, as one tree, and which of it is worth another try.

    PipelineError
    ├── ConfigError        the choice cannot work; said before anything is spent; never retried
    ├── DataError          a record is malformed: path, line, field; never retried
    ├── ArtifactMissing    the store no longer holds what was promised
    ├── JobFailed          a job ended badly: its name, the cause, the last lines of its log
    └── TransientError     throttled, interrupted, network; retried

A message has one shape: *where: what is wrong (what was found). What to do.*
"""

from __future__ import annotations

from typing import Any


class PipelineError(Exception):
    """Anything this project raises on purpose."""


class ConfigError(PipelineError):
    """The configuration cannot work. Raised before anything is spent, never retried."""


class DataError(PipelineError):
    """A record of the data is malformed. The message begins with its path and line."""


class ArtifactMissing(PipelineError):
    """The store no longer holds the bytes that an artifact's digest promises."""


class JobFailed(PipelineError):
    """A training, prediction or serving process ended badly."""


class TransientError(PipelineError):
    """A cause that may be gone in a minute: the only one that is retried."""


def transient(task: Any, task_run: Any, state: Any) -> bool:
    """Say whether a failed attempt deserves another: Prefect's `retry_condition_fn`.

    A plain function on purpose: Prefect 3.8 takes a partial or a bound method for *never retry*.
    """
    return isinstance(state.result(raise_on_failure=False), TransientError)
