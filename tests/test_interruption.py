"""Killed, stopped, started twice: the run finishes afterwards, and nothing that was finished is done again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from running import Project, Said

from tasks import store

pytestmark = pytest.mark.slow

LONG = {"train__max_steps": "400", "train__checkpoint_steps": "20"}
"""Training that takes seconds, so that it can be stopped on its way."""


@pytest.fixture(scope="module")
def api(server: None) -> str:
    """The address of the suite's Prefect server."""
    return str(PREFECT_API_URL.value())


@pytest.fixture
def project(api: str, tmp_path: Path) -> Iterator[Project]:
    """A project that has not run yet; nothing of it may be left running."""
    made = Project.make(tmp_path / "project", api)
    yield made
    assert not waited_for(lambda: not made.processes(), seconds=60, project=made)


@pytest.fixture(scope="module")
def undisturbed(api: str, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """What the long run comes to when nobody disturbs it."""
    return Project.make(tmp_path_factory.mktemp("undisturbed") / "project", api).run(**LONG)


def waited_for(condition: object, seconds: float, project: Project) -> list[str]:
    """Wait until a condition holds; return the processes that are left if it never does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():  # type: ignore[operator]
            return []
        time.sleep(0.05)
    return project.processes() or ["the condition never held"]


def checkpoints(project: Project) -> set[int]:
    """Return the steps of the finished checkpoints of the training that is under way."""
    found = (project.home / "work").glob("train-*/step-*/manifest.json")
    return {int(path.parent.name.removeprefix("step-")) for path in found}


def read_until(process: subprocess.Popen[str], step: str) -> str:
    """Read what a run says until it is done with a step."""
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(f"{step} "):
            return said
    raise AssertionError(f"{step} was never reached:\n{said}")


def end(process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str]:
    """Send a signal; return the exit code and the rest of what was said."""
    process.send_signal(how)
    rest, _ = process.communicate(timeout=120)
    return process.returncode, rest


def whole(project: Project) -> None:
    """Check that everything in the store is whole."""
    for record in (project.home / "store").glob("*/*/record.json"):
        uri = str(record.parent)
        assert store.trouble(uri, store.record(uri)["digest"]) is None, uri


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_saves_a_checkpoint_and_goes_on_from_it_next_time(
    project: Project, undisturbed: Said, how: signal.Signals
) -> None:
    process = project.start(**LONG)
    said = read_until(process, "fetch_model")
    assert not waited_for(lambda: checkpoints(project), 120, project)
    started = time.monotonic()
    code, rest = end(process, how)
    assert code == 130
    assert "finished steps and checkpoints are kept" in rest
    assert "Traceback" not in said + rest
    assert time.monotonic() - started < 60
    assert not waited_for(lambda: not project.processes(), 10, project)
    left = checkpoints(project)
    assert left

    second, seen = project.start(**LONG), set[int]()

    def went_on() -> bool:
        seen.update(checkpoints(project) - left)
        return bool(seen)

    assert not waited_for(went_on, 120, project)
    assert min(seen) > max(left), "it began again instead of going on"
    rest, _ = second.communicate(timeout=240)
    again = Said(rest, "")
    assert second.returncode == 0, rest
    assert again.states["convert"] == "Cached"
    assert again.digests["train-lora"] == undisturbed.digests["train-lora"]
    assert again.table == undisturbed.table
    assert not list((project.home / "work").iterdir())


def test_a_training_whose_flow_is_killed_ends_itself_with_a_checkpoint(
    project: Project, undisturbed: Said
) -> None:
    process = project.start(**LONG)
    assert not waited_for(lambda: checkpoints(project), 120, project)
    code, _ = end(process, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not waited_for(lambda: not project.processes(), 60, project)
    again = project.run(**LONG)
    assert again.digests["train-lora"] == undisturbed.digests["train-lora"]


def test_a_trainer_that_is_stopped_from_outside_is_started_again_by_the_same_run(
    project: Project, undisturbed: Said
) -> None:
    process = project.start(**LONG)
    assert not waited_for(lambda: checkpoints(project), 120, project)
    trainer = next(
        int(place.name)
        for place in Path("/proc").glob("[0-9]*")
        if b"tasks.trainer\0train" in _command(place) and _cwd(place) == project.folder
    )
    os.kill(trainer, signal.SIGTERM)
    rest, _ = process.communicate(timeout=240)
    assert process.returncode == 0, rest
    assert Said(rest, "").digests["train-lora"] == undisturbed.digests["train-lora"]


def _command(place: Path) -> bytes:
    try:
        return (place / "cmdline").read_bytes()
    except OSError:
        return b""


def _cwd(place: Path) -> Path | None:
    try:
        return (place / "cwd").readlink()
    except OSError:
        return None


@pytest.mark.parametrize(
    "after",
    [
        "fetch",
        "convert",
        "stage",
        "fetch_model",
        "train-lora",
        "predict-tuned",
        "predict-base",
        "imitate-random",
        "score-tuned",
        "judge",
        "register",
    ],
)
def test_a_flow_killed_in_the_step_after_any_other_finishes_when_run_again(
    project: Project, after: str
) -> None:
    process = project.start()
    said = read_until(process, after)
    process.kill()
    rest, _ = process.communicate(timeout=60)
    finished = {
        name for name, state in Said(said + rest, "").states.items() if state == "Completed"
    }
    whole(project)

    again = project.run()
    redone = {name for name in finished if again.states[name] != "Cached"}
    assert redone <= {"register", "publish", "deploy"}
    whole(project)
    assert not list((project.home / "store" / ".incoming").glob("*"))


def test_two_runs_at_once_train_once_and_both_end_well(project: Project) -> None:
    first, second = project.start(**LONG), project.start(**LONG)
    outs = [process.communicate(timeout=280)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outs
    said = [Said(out, "") for out in outs]
    assert said[0].table == said[1].table
    for step in ("convert", "train-lora", "predict-tuned", "score-tuned"):
        states = sorted(each.states[step] for each in said)
        assert states == ["Cached", "Completed"], (step, states)
    whole(project)


def test_a_disk_that_fills_up_is_said_and_nothing_is_lost(project: Project, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs more rights than this user has")
    try:
        filler = disk / "filler"
        process = project.start(store__uri=str(disk / "store"))
        read_until(process, "stage")
        with filler.open("wb") as file:
            file.write(b"\0" * (600 * 2**20 - 200_000 - _used(disk)))
        rest, _ = process.communicate(timeout=120)
        assert process.returncode in (1, 2), rest
        assert "is full" in rest or "No space" in rest or "too little room" in rest, rest
        assert "Traceback" not in rest
        filler.unlink()
        assert project.run(store__uri=str(disk / "store")).states["convert"] == "Cached"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _used(disk: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in disk.rglob("*") if path.is_file())
