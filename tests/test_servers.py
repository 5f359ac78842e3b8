"""Without a Prefect server, and with `make serve`: the same run, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Project, Said

from flows import knobs
from tasks.config import FinetuneConfig

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project of a user who has no Prefect server; nothing of it may be left running."""
    made = Project.make(tmp_path / "project", "")
    yield made
    wait(lambda: not made.processes(), 60)


def wait(condition: Callable[[], Any], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition never held"
        time.sleep(0.2)


def test_a_temporary_server_serves_one_run_and_is_gone(project: Project) -> None:
    said = project.run()
    assert "starting a temporary Prefect server" in said.out
    assert "verdict:" in said.out
    wait(lambda: not project.processes(), 20)


def test_a_killed_run_takes_its_temporary_server_along(project: Project) -> None:
    process = project.start()
    assert process.stdout
    for line in process.stdout:
        if line.startswith("convert "):
            break
    assert any("server start" in words for words in project.processes())
    process.kill()
    process.communicate(timeout=60)
    wait(lambda: not project.processes(), 60)


@pytest.fixture
def serving(project: Project) -> Iterator[str]:
    """`make serve` in the project, on a free port; yields the address of the API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.serve"],
        cwd=project.folder,
        env=project.environment() | {"PREFECT_SERVER_API_PORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("ready: "):
            break
    yield f"http://127.0.0.1:{port}/api"
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=90)
    wait(lambda: not project.processes(), 30)


def test_a_click_in_the_ui_runs_a_deployment_that_shares_its_cache_with_the_command_line(
    project: Project, serving: str
) -> None:
    with httpx.Client(base_url=serving, timeout=30) as client:
        deployment = client.get("/deployments/name/finetune/smoke-local").raise_for_status().json()
        assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
        pairs = [(name, value) for name, value in project.knobs.items()]
        config = knobs.parse(pairs, knobs.knobs(FinetuneConfig))
        body = {"parameters": {"config": config}, "state": {"type": "SCHEDULED"}}
        run = client.post(f"/deployments/{deployment['id']}/create_flow_run", json=body).json()
        address = f"/flow_runs/{run['id']}"
        ended = ("COMPLETED", "FAILED", "CRASHED")
        wait(lambda: client.get(address).json()["state_type"] in ended, 240)
        done = client.get(address).json()
        assert (done["state_type"], done["name"]) == ("COMPLETED", "test-lora-local")
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        pages = {page["key"] for page in client.post("/artifacts/filter", json=of_run).json()}
        assert pages >= {"data-card", "training-curve", "scores", "side-by-side", "files-model"}
        assert pages >= {"training-progress", "answering-progress"}
        logs = client.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run["id"]]}}})
        assert any(line["message"].startswith("[metric] step=") for line in logs.json())

    here = Project(project.folder, serving, project.knobs).run()
    assert "temporary" not in here.out
    steps = Said(here.out, "").states
    assert {name for name, state in steps.items() if state != "Cached"} == {
        "register",
        "publish",
        "deploy",
    }
