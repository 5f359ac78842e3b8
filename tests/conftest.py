"""What the suite shares: one Prefect server for all flow tests, and a home of its own for each test."""

from __future__ import annotations

import os

# Before anything imports prefect: never touch the developer's profile, server or cache.
os.environ.pop("PREFECT_API_URL", None)
os.environ["PREFECT_PROFILE"] = "ephemeral"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_LOGGING_LEVEL"] = "CRITICAL"
os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

PROJECT = Path(__file__).parents[1]

# A job that a shell put into the background ignores Ctrl-C, and so would every process started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A test's own store, work, registry and cache."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "home" / "results"}):
        yield tmp_path / "home"


@pytest.fixture
def quiet_logs() -> Iterator[None]:
    """Lets the functions of steps run outside a flow."""
    with disable_run_logger():
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One throw-away Prefect server; only tests that ask for it pay for it."""
    folder = tmp_path_factory.mktemp("prefect")
    settings = {PREFECT_HOME: folder, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(settings), prefect_test_harness(server_startup_timeout=180):
        yield
