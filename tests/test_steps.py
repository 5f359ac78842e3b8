"""What a step wears, on a real Prefect server: cache, retries, notes, plans."""

from __future__ import annotations

import contextvars
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect import flow

from tasks import steps, store
from tasks.artifacts import RawFile
from tasks.data import convert, fetch, stage
from tasks.errors import ConfigError, DataError, PipelineError, TransientError
from tasks.serving import deploy, register
from tasks.steps import Step, StepLine, step
from tasks.training import fetch_model, predict, train

pytestmark = pytest.mark.usefixtures("server", "home")

Make = Callable[..., "Step[..., RawFile]"]


@pytest.fixture
def calls() -> list[str]:
    """What the step was really asked to do."""
    return []


@pytest.fixture
def make(calls: list[str]) -> Make:
    """Returns a step that writes its text into the store, after failing as told."""

    def build(failures: list[PipelineError] | None = None, **options: object) -> Step[..., RawFile]:
        waiting = list(failures or [])

        def write(text: str) -> RawFile:
            calls.append(text)
            if waiting:
                raise waiting.pop(0)
            with store.scratch(store.local()) as folder:
                (folder / "a.txt").write_text(text)
                uri, digest = store.commit(folder, store.local(), "raw", {})
            return RawFile(uri=uri, digest=digest, files=("a.txt",))

        return step(**options)(write)  # type: ignore[arg-type]

    return build


def run(made: Step[..., RawFile], *texts: str) -> list[StepLine]:
    @flow
    def once() -> None:
        for text in texts:
            made(text)

    with steps.noting(lambda line: None) as lines:
        once()
    return lines


def test_the_second_run_is_served_from_the_cache(make: Make, calls: list[str]) -> None:
    made = make()
    first, second = run(made, "hello"), run(made, "hello")
    assert [line.state for line in first + second] == ["Completed", "Cached"]
    assert calls == ["hello"]
    assert first[0].produced == second[0].produced


def test_another_input_runs(make: Make, calls: list[str]) -> None:
    made = make()
    assert [line.state for line in run(made, "a", "b", "a")] == ["Completed", "Completed", "Cached"]
    assert calls == ["a", "b"]


@pytest.mark.parametrize("harm", ["delete", "truncate", "alter"])
def test_a_result_whose_bytes_were_harmed_is_made_again(
    make: Make, calls: list[str], harm: str
) -> None:
    made = make()
    run(made, "hello")
    file = next((store.home() / "store").rglob("a.txt"))
    if harm == "delete":
        shutil.rmtree(file.parent)
    else:
        file.write_text("" if harm == "truncate" else "jello")
    assert run(made, "hello")[0].state == "Completed"
    assert file.read_text() == "hello"
    assert calls == ["hello", "hello"]
    assert run(made, "hello")[0].state == "Cached"


def test_a_transient_error_is_retried_and_then_succeeds(make: Make, calls: list[str]) -> None:
    made = make([TransientError("busy"), TransientError("busy")], retries=2)
    assert run(made, "hello")[0].state == "Completed"
    assert len(calls) == 3


def test_the_last_attempt_is_the_last(make: Make, calls: list[str]) -> None:
    made = make([TransientError("busy")] * 9, retries=2)
    with pytest.raises(TransientError):
        run(made, "hello")
    assert len(calls) == 3


@pytest.mark.parametrize("kind", [DataError, ConfigError, PipelineError])
def test_other_errors_are_not_retried(
    make: Make, calls: list[str], kind: type[PipelineError]
) -> None:
    made = make([kind("no")] * 9, retries=5)
    with pytest.raises(kind, match="no"):
        run(made, "hello")
    assert len(calls) == 1


def test_a_failure_is_noted_and_not_cached(make: Make, calls: list[str]) -> None:
    made = make([DataError("row 3 is broken")])
    noted: list[StepLine] = []

    @flow
    def once() -> None:
        made("hello")

    with steps.noting(noted.append), pytest.raises(DataError):
        once()
    assert [(line.state, line.produced) for line in noted] == [("Failed", "row 3 is broken")]
    assert run(made, "hello")[0].state == "Completed"


def test_a_refreshed_step_runs_again_and_replaces_its_result(make: Make, calls: list[str]) -> None:
    made = make()
    run(made, "hello")
    made.refresh_cache = True
    assert run(made, "hello")[0].state == "Completed"
    made.refresh_cache = None
    assert run(made, "hello")[0].state == "Cached"
    assert len(calls) == 2


def test_a_step_that_is_never_cached_always_runs(make: Make, calls: list[str]) -> None:
    made = make(cached=False)
    assert [line.state for line in run(made, "a", "a")] == ["Completed", "Completed"]
    assert len(calls) == 2


def test_of_two_runs_at_once_one_computes_and_the_other_waits(make: Make, calls: list[str]) -> None:
    made = make()
    entered, leave = threading.Event(), threading.Event()
    inner = made.fn

    def slow(text: str) -> RawFile:
        entered.set()
        assert leave.wait(30)
        return inner(text)

    made.fn = slow
    states: list[str] = []

    def one() -> None:
        states.extend(line.state for line in run(made, "hello"))

    # a thread of its own does not see this test's settings, which live in the context
    first = threading.Thread(target=contextvars.copy_context().run, args=(one,))
    first.start()
    assert entered.wait(30)
    second = threading.Thread(target=contextvars.copy_context().run, args=(one,))
    second.start()
    leave.set()
    first.join(60)
    second.join(60)
    assert sorted(states) == ["Cached", "Completed"]
    assert calls == ["hello"]


def test_a_plan_runs_nothing_and_names_what_differs(make: Make, calls: list[str]) -> None:
    made, after = make(), make()
    run(made, "hello")

    def chain(text: str) -> None:
        after(made(text))  # type: ignore[arg-type]

    with steps.planning() as plan:
        chain("hello")
    assert plan.lines[0].state == "cached"
    with steps.planning() as plan:
        chain("goodbye")
    assert [line.state for line in plan.lines] == ["will run", "depends"]
    assert plan.lines[0].produced == "text: hello → goodbye"
    assert calls == ["hello"]


def test_a_plan_sees_that_a_result_is_damaged(make: Make) -> None:
    made = make()
    run(made, "hello")
    next((store.home() / "store").rglob("a.txt")).write_text("jello")
    with steps.planning() as plan:
        made("hello")
    assert plan.lines[0].state == "will run"
    assert "its files are not those of the record" in plan.lines[0].produced


def test_a_step_that_is_not_vital_fails_alone(make: Make) -> None:
    assert run(make([DataError("no")], vital=False), "a", "b")[0].state == "Failed"


def test_directly_is_a_plain_call(make: Make, calls: list[str]) -> None:
    with steps.directly():
        assert make()("hello").files == ("a.txt",)
    assert calls == ["hello"]


@pytest.mark.parametrize(
    "declared", [fetch, convert, stage, fetch_model, train, predict, register, deploy]
)
def test_every_step_that_can_meet_a_passing_cause_waits_longer_each_time_with_jitter(
    declared: Step[..., object],
) -> None:
    pauses = declared.retry_delay_seconds
    assert isinstance(pauses, list)
    assert declared.retries == len(pauses) >= 2
    assert pauses == sorted(pauses)
    assert declared.retry_jitter_factor
    assert declared.retry_condition_fn is not None


def test_what_a_step_produced_lies_where_the_store_says(make: Make, home: Path) -> None:
    run(make(), "hello")
    assert list((home / "store" / "raw").glob("*/a.txt"))
