"""Places where a job runs: one file each, and the file name is the `kind` of `on`.

A backend is a module with

    def run(job: Job, on: <its section of the configuration>, listen: Listener) -> None

which runs the trainer on the job until it has ended well, hands every line it prints to `listen`, and
raises `ConfigError`, `DataError`, `TransientError` or `JobFailed` otherwise. When the caller is stopped,
the backend stops the job, lets it save its checkpoint, and leaves no process behind.
Where a job runs never decides what comes out.
"""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str], None]
"""Takes one line that the trainer printed, without its line end."""
