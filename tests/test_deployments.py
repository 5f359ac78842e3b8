"""Every deployment of prefect.yaml, found by walking: nothing unknown, nothing that cannot run."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    WorkPoolConfig,
)
from pydantic import BaseModel

from flows import cli, knobs
from tasks import store
from tasks.config import FinetuneConfig

DOCUMENT: dict[str, Any] = yaml.safe_load((store.PROJECT / "prefect.yaml").read_text("utf-8"))
DEPLOYMENTS = {each["name"]: each for each in DOCUMENT["deployments"]}


def known(model: type[BaseModel]) -> set[str]:
    aliases = {field.alias for field in model.model_fields.values() if field.alias}
    return set(model.model_fields) | aliases


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One deployment after the other."""
    return DEPLOYMENTS[request.param]


def test_the_file_holds_only_keys_that_prefect_knows() -> None:
    assert not set(DOCUMENT) - known(PrefectYamlModel) - {"definitions"}


def test_the_promised_deployments_are_there() -> None:
    assert {"smoke-local", "advertisegen-local", "evaluate", "export"} <= set(DEPLOYMENTS)


def test_a_deployment_holds_only_keys_that_prefect_knows(deployment: dict[str, Any]) -> None:
    assert not set(deployment) - known(DeploymentConfig)
    assert not set(deployment["work_pool"]) - known(WorkPoolConfig)
    assert not set(deployment["concurrency_limit"]) - known(ConcurrencyLimitSpec)


def test_its_entrypoint_is_a_flow_in_a_module(deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), Flow)


def test_its_parameters_are_knobs_and_build_a_configuration(deployment: dict[str, Any]) -> None:
    module, _, function = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), function)
    model = type(inspect.signature(flow.fn).parameters["config"].default)
    values = deployment["parameters"]["config"]
    names = {knob.name for knob in knobs.knobs(model)}
    assert set(flat(values)) <= names
    config = knobs.build(model, values)
    command = cli.Command(deployment=deployment["name"])
    assert config == cli.configure(command, flow.name, model)


def flat(values: dict[str, Any], path: str = "") -> list[str]:
    found = []
    for name, value in values.items():
        dotted = f"{path}.{name}" if path else name
        found += flat(value, dotted) if isinstance(value, dict) else [dotted]
    return found


def test_schedules_have_a_slug_and_a_timezone(deployment: dict[str, Any]) -> None:
    for schedule in deployment.get("schedules", []):
        assert {"cron", "timezone", "slug", "active"} <= set(schedule)


def test_the_nightly_smoke_run_is_paused_by_default() -> None:
    (schedule,) = DEPLOYMENTS["smoke-local"]["schedules"]
    assert schedule["active"] is False


def test_single_knobs_lie_over_the_deployment() -> None:
    command = cli.read(["smoke-local", "--train.epochs", "1", "--name=other"])
    config = cli.configure(command, "finetune", FinetuneConfig)
    assert isinstance(config, FinetuneConfig)
    assert config.train.epochs == 1
    assert config.name == "other"


def test_the_servers_dependencies_are_those_that_work() -> None:
    assert importlib.import_module("prefect.server.api.server")
