"""Served models of this machine: start, find, replace and stop a serving process by its name.

The former process of a name is stopped only when the new one answers its health check and is accepted
by the caller. A fixed port cannot be listened on twice: there the former one is stopped first, and
started again when the new one fails. Of two deployments of one name at once, the second waits and finds
what the first has made. A served model outlives the flow that started it, until `stop` or the next
`start` of its name; a record is kept only of processes that are known by more than their number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tasks import endpoint_records, launching, processes
from tasks.endpoint_records import Record, Records
from tasks.errors import ConfigError, JobFailed, PipelineError, TransientError
from tasks.launching import STOP_SECONDS
from tasks.trainer.job import Job

_RESTORE_SECONDS = 120.0
_STOP_PATIENCE = 30.0

Accept = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """A serving process that is ours."""

    name: str
    url: str
    pid: int
    model: str
    """Digest of the model behind it."""


def start(
    directory: Path,
    name: str,
    job: Job,
    python: str,
    startup_seconds: float,
    model: str,
    accept: Accept | None = None,
) -> Running:
    """Serve a model under a name and return when it answers; what served it before is stopped.

    Args:
        directory: The register.
        name: Lower-case letters, digits, dashes.
        job: What to serve, and on which address; relative directories start at the project.
        python: The interpreter.
        startup_seconds: The new process must answer within so many seconds.
        model: Digest of the model. A name that already serves the same on the same terms is kept.
        accept: Called with the address before it takes the name; what it raises stops the new
            process and leaves the former one in place.

    Raises:
        ConfigError: The name or the address cannot work, or the trainer refused the job.
        JobFailed: The process ended, or did not answer in time.
        TransientError: Another deployment of the name took too long.
    """
    records = Records(directory, name)
    order = _order(job, model)
    with records.lock(2 * (startup_seconds + STOP_SECONDS)):
        old = records.swept(STOP_SECONDS)
        if old and old.order == order and launching.answers(old.url) and _good(old.url, accept):
            return _running(old)
        blocking = _blocking(job.host, job.port, old)
        if blocking:
            processes.stop(blocking.pid, blocking.born, STOP_SECONDS)
        try:
            new = _launch(records, job, python, startup_seconds, model, accept)
        except PipelineError as reason:
            if not blocking:
                raise
            restored = _restored(records, blocking, python)
            raise type(reason)(f"{reason}\n{restored}") from reason
        if old:
            processes.stop(old.pid, old.born, STOP_SECONDS)
            records.forget(old)
        return _running(new)


def check_address(directory: Path, name: str, host: str, port: int) -> None:
    """Refuse an address that cannot be listened on; the predecessor of the name does not count.

    Raises:
        ConfigError: Something else holds the port, or the address is not one of this machine.
    """
    record = Records(directory, name).read()
    _blocking(host, port, record if record and record.alive() else None)


def find(directory: Path, name: str) -> Running | None:
    """Return what serves under a name, or None when nothing of ours answers."""
    record = Records(directory, name).read()
    if record and record.alive() and launching.answers(record.url):
        return _running(record)
    return None


def running(directory: Path) -> list[Running]:
    """Return everything of the register that answers, by name."""
    found = (find(directory, name) for name in endpoint_records.names(directory))
    return [one for one in found if one]


def stop(directory: Path, name: str) -> bool:
    """Stop what serves under a name and forget it; say whether there was something to stop.

    Raises:
        JobFailed: The process does not end.
        TransientError: A deployment of the name is under way.
    """
    records = Records(directory, name)
    with records.lock(_STOP_PATIENCE):
        live = records.swept(STOP_SECONDS)
        if live:
            processes.stop(live.pid, live.born, STOP_SECONDS)
        records.clear()
        return live is not None


def invoke(url: str, messages: list[dict[str, str]], timeout: float) -> str:
    """Send one conversation to a served model and return its answer.

    Args:
        url: Address of the server, without a path.
        messages: Of roles and contents; the last one is the user's.
        timeout: Seconds to wait for the answer.

    Raises:
        TransientError: It is not reachable, not ready, or has too much to do.
        JobFailed: It refused the request or failed to answer.
    """
    try:
        reply = httpx.post(
            f"{url}/invocations", json={"messages": messages}, timeout=timeout, trust_env=False
        )
    except httpx.HTTPError as reason:
        raise TransientError(
            f"{url}: does not answer ({type(reason).__name__}: {reason}). Try again."
        ) from reason
    if reply.status_code in (429, 503, 504):
        raise TransientError(f"{url}: has no time ({_said(reply)}). Try again.")
    if reply.status_code != httpx.codes.OK:
        raise JobFailed(f"{url}: did not answer ({_said(reply)}). Look at its log.")
    answer: str = reply.json()["answer"]
    return answer


def _said(reply: httpx.Response) -> str:
    try:
        message = reply.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = reply.text[:200]
    return f"status {reply.status_code}: {message}"


def _running(record: Record) -> Running:
    return Running(record.name, record.url, record.pid, record.model)


def _good(url: str, accept: Accept | None) -> bool:
    """Say whether what already serves is still accepted; if not, a fresh process takes its place."""
    try:
        if accept:
            accept(url)
    except PipelineError:
        return False
    return True


def _order(job: Job, model: str) -> str:
    """Digest what is asked for. Directories are told by the digest of the model, not by place."""
    places = {"base": "", "tuned": "", "data": "", "out": "", "work": ""}
    asked = {**asdict(job), **places, "model": model}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _blocking(host: str, port: int, old: Record | None) -> Record | None:
    """Return the former process if it holds the port that is asked for.

    Raises:
        ConfigError: Something else holds the port, or the host is not one of this machine.
    """
    reason = launching.refused(host, port)
    if not reason:
        return None
    if old and urlsplit(old.url).port == port:
        return old
    raise ConfigError(f"serving.port: {port} is taken on {host} ({reason}). Choose another or 0.")


def _launch(
    records: Records,
    job: Job,
    python: str,
    startup_seconds: float,
    model: str,
    accept: Accept | None,
) -> Record:
    """Start a process and, once it answers and is accepted, give it the name."""
    token = uuid.uuid4().hex[:8]
    job_file = records.job(token)
    fresh = launching.launch(job, job_file, records.log(token), python, startup_seconds)
    with contextlib.ExitStack() as undo:
        undo.callback(job_file.unlink)
        undo.callback(processes.stop, fresh.pid, fresh.born, STOP_SECONDS)
        if accept:
            accept(fresh.url)
        order = _order(job, model)
        record = Record(records.name, fresh.url, fresh.pid, fresh.born, model, order, token)
        records.write(record)
        undo.pop_all()
    return record


def _restored(records: Records, old: Record, python: str) -> str:
    """Start a former process again that had to give up its port, and say how that went."""
    job = Job.read(records.job(old.token))
    try:
        again = _launch(records, job, python, _RESTORE_SECONDS, old.model, None)
    except PipelineError as reason:
        return f"The former endpoint could not be started again ({reason})."
    records.forget(old)
    return f"The former endpoint answers again at {again.url}."
