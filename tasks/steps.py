"""What every step of the flow wears: cached by content, retried by cause, timed, and plannable.

`@step(...)` makes a Prefect task. A call inside a flow runs it and notes how it ended (`noted`);
a call inside `planning()` runs nothing: it looks the result up and says what would happen, through the
very same flow. To see a step's policy, read its decorator; to change a rule for all steps, change it here.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

from tasks import caching
from tasks.errors import TransientError, transient

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class StepLine:
    """One line of what a run did, or would do."""

    name: str
    state: str
    """`Completed`, `Cached`, `Failed`; in a plan `cached`, `will run`, `depends`."""
    seconds: float
    produced: str
    """What came out; in a plan, why the step would run."""


class Unknown:
    """The result, in a plan, of a step that has not run: whatever is asked of it is unknown too."""

    def __init__(self, of: str) -> None:
        self.of = of

    def __getattr__(self, name: str) -> Unknown:
        if name.startswith("__") or name == "identity":
            raise AttributeError(name)
        return self

    def __iter__(self) -> Iterator[Unknown]:
        return iter(())

    def __str__(self) -> str:
        return self.of


@dataclass
class Plan:
    """What a run would do: filled by calling the flow's function inside `planning()`."""

    lines: list[StepLine] = field(default_factory=list)

    def visit(self, step: Step[Any, Any], arguments: dict[str, Any]) -> Any:
        """Return the step's result when it is in the cache, else an `Unknown`."""
        name = step.label(arguments)
        waiting = sorted({value.of for value in _flat(arguments) if isinstance(value, Unknown)})
        if waiting:
            self._note(name, "depends", f"on what {', '.join(waiting)} will produce")
        elif not isinstance(step.cache_policy, caching.ContentPolicy):
            self._note(name, "will run", "never cached")
        elif not caching.pinned(arguments):
            self._note(name, "will run", "asks the server whether anything changed")
        else:
            return self._look_up(step, name, step.cache_policy.parts(arguments))
        return Unknown(name)

    def _look_up(self, step: Step[Any, Any], name: str, parts: caching.Components) -> Any:
        results = ResultStore(result_storage=_local_results())
        key = caching.key_of(parts)
        if results.exists(key) and not step.refresh_cache:
            result = results.read(key).result
            self._note(name, "cached", describe(result))
            return result
        reason = _damage(results, key) or caching.why(parts)
        self._note(name, "will run", "asked to refresh" if step.refresh_cache else reason)
        return Unknown(name)

    def _note(self, name: str, state: str, text: str) -> None:
        self.lines.append(StepLine(name, state, 0.0, text))


_steps: list[Step[..., Any]] = []

_plan: ContextVar[Plan | None] = ContextVar("plan", default=None)
_direct: ContextVar[bool] = ContextVar("direct", default=False)
_notes: ContextVar[list[StepLine] | None] = ContextVar("notes", default=None)
_listener: ContextVar[Callable[[StepLine], None] | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def planning() -> Iterator[Plan]:
    """Make step calls in this block look results up instead of running."""
    plan = Plan()
    token = _plan.set(plan)
    try:
        yield plan
    finally:
        _plan.reset(token)


@contextlib.contextmanager
def directly() -> Iterator[None]:
    """Make step calls in this block plain function calls: no Prefect, no cache, no retries."""
    token = _direct.set(True)
    try:
        yield
    finally:
        _direct.reset(token)


@contextlib.contextmanager
def noting(listener: Callable[[StepLine], None]) -> Iterator[list[StepLine]]:
    """Collect a line for each step that ends in this block, and hand each to the listener."""
    lines: list[StepLine] = []
    notes, told = _notes.set(lines), _listener.set(listener)
    try:
        yield lines
    finally:
        _notes.reset(notes)
        _listener.reset(told)


def every() -> list[Step[..., Any]]:
    """Return the steps that have been imported, in the order of their definition."""
    return list(_steps)


def describe(result: Any) -> str:
    """Say in a few words what a step produced."""
    told = getattr(result, "told", None)
    return told() if callable(told) else "" if result is None else str(result)


def _local_results() -> LocalFileSystem:
    """Return where results of this machine lie. Prefect's own lookup would start a server to ask for a default."""
    return LocalFileSystem(basepath=str(PREFECT_LOCAL_STORAGE_PATH.value()))


def _damage(results: ResultStore, key: str) -> str | None:
    """Say why a result that is recorded cannot be used, or None when none is recorded."""
    storage = cast(Any, results.result_storage)
    try:
        record = storage.read_path(key, _sync=True)
    except (OSError, ValueError):
        return None
    return caching.damage(record)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _flat(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


class Step(Task[P, R], Generic[P, R]):
    """A Prefect task that can be planned and that notes how it ended."""

    vital: bool = True
    """Whether its failure ends the run."""
    afterwards: Callable[[str], None] | None = None
    """Called with the key once the result is safe in the cache."""

    def label(self, arguments: dict[str, Any]) -> str:
        """Return the name of one call, as the UI shows it."""
        template = self.task_run_name
        if not isinstance(template, str):
            return str(self.name)
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            return template.format(**arguments)
        return str(self.name)

    def arguments(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of a call by name, defaults included."""
        bound = inspect.signature(self.fn).bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """Return the cache key of a call; work that outlives a run is filed under it.

        Raises:
            TypeError: The step is never cached.
        """
        if not isinstance(self.cache_policy, caching.ContentPolicy):
            raise TypeError(f"{self.name} is never cached")
        return caching.key_of(self.cache_policy.parts(self.arguments(*args, **kwargs)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step, or look it up inside `planning()`."""
        arguments = self.arguments(*args, **kwargs)
        plan = _plan.get()
        if plan is not None:
            return plan.visit(self, arguments)
        if _direct.get():
            return self.fn(*args, **kwargs)
        self._settle(arguments)
        started = time.monotonic()
        state = super().__call__(*args, return_state=True, **kwargs)
        result = state.result(raise_on_failure=False)
        failed = isinstance(result, BaseException)
        produced = str(result) if failed else describe(result)
        self._note(StepLine(self.label(arguments), state.name or "", _since(started), produced))
        if self.afterwards and not failed:
            self.afterwards(self.key(*args, **kwargs))
        return None if failed and not self.vital else state.result()

    def _settle(self, arguments: dict[str, Any]) -> None:
        """Look at what the cache holds before Prefect does, which takes *not to be reached now* for *not there*.

        Raises:
            TransientError: The store of a cached artifact could not be reached, however often it was tried.
        """
        policy = self.cache_policy
        if not isinstance(policy, caching.ContentPolicy) or not caching.pinned(arguments):
            return
        key, results = (
            caching.key_of(policy.parts(arguments)),
            ResultStore(result_storage=_local_results()),
        )
        for wait in (*cast(list[float], self.retry_delay_seconds or []), None):
            try:
                _damage(results, key)
            except TransientError:
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                return

    @staticmethod
    def _note(line: StepLine) -> None:
        notes, listener = _notes.get(), _listener.get()
        if notes is not None:
            notes.append(line)
        if listener is not None:
            listener(line)


def _since(started: float) -> float:
    return time.monotonic() - started


def step(
    *,
    sources: tuple[str, ...] = (),
    packages: tuple[str, ...] = (),
    cached: bool = True,
    ignoring: tuple[str, ...] = (),
    entirely: tuple[str, ...] = (),
    retries: int = 0,
    wait_seconds: tuple[float, ...] = (),
    name: str | None = None,
    vital: bool = True,
    afterwards: Callable[[str], None] | None = None,
) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a step.

    Args:
        sources: Files and folders whose content decides the output; part of the key. Arguments in braces are filled
            in: `families/{model.family}.py`.
        packages: Libraries another version of which gives another output; part of the key.
        cached: False for what must happen each time; such a step is idempotent by itself.
        ignoring: Arguments that never count, such as where a job runs.
        entirely: Artifacts that count with all their files, also those that only tell how the others came about.
        retries: Further attempts after a `TransientError`; other errors are never retried.
        wait_seconds: Pause before each further attempt, lengthened at random by up to a half.
        name: Name of one call in the UI and on the terminal, a template over the arguments.
        afterwards: Called with the key once the result is safe in the cache: what only served to reach it can go.
        vital: False lets the run go on, with None, when the step fails; the failure is noted and logged.
    """

    def wrap(function: Callable[P, R]) -> Step[P, R]:
        policy = (
            caching.policy(
                function.__name__,
                sources=sources,
                ignoring=ignoring,
                packages=packages,
                entirely=entirely,
            )
            if cached
            else NO_CACHE
        )
        made = Step(
            function,
            cache_policy=policy,
            persist_result=cached,
            result_serializer="json",
            retries=retries,
            retry_delay_seconds=list(wait_seconds) if wait_seconds else None,
            retry_jitter_factor=0.5 if wait_seconds else None,
            retry_condition_fn=transient,
            task_run_name=name or function.__name__,
        )
        made.vital, made.afterwards = vital, afterwards
        _steps.append(made)
        return made

    return wrap
