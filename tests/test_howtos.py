"""The systems of the how-tos, each with its architecture, its layout of files and its method, through the whole flow.

The models are random and tiny, so what is asserted is that each system trains, answers, is scored and served by
what it was trained to be, not that it is any good.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import chatglm_6b
import chatglm_layouts
import pytest
import sentencepiece_models
import tiny_models
from prefect.settings import PREFECT_API_URL
from running import Project, Said

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("server")]


class Writer(Protocol):
    def __call__(self, folder: Path) -> Path: ...


def chatglm1(folder: Path) -> Path:
    return chatglm_6b.v1(folder, "bin", 2)


def chatglm2(folder: Path) -> Path:
    return sentencepiece_models.write(chatglm_layouts.v2(folder), 2)


def chatglm3(folder: Path) -> Path:
    return sentencepiece_models.write(chatglm_layouts.v3(folder), 3)


@dataclass(frozen=True)
class System:
    """What one how-to does by hand."""

    write: Writer
    family: str
    knobs: dict[str, str]
    files: set[str]
    """What the trained model consists of, beside its record and its curve."""


ADAPTER = {"adapter_model.safetensors", "adapter_config.json"}
SYSTEMS = {
    "chatglm-ptuning": System(
        chatglm1,
        "chatglm",
        {"train.method.kind": "prefix", "train.method.tokens": "16"},
        ADAPTER,
    ),
    "chatglm2-ptuning-on-spot": System(
        chatglm2,
        "chatglm",
        {
            "train.method.kind": "prefix",
            "train.method.tokens": "16",
            "train.gradient_checkpointing": "true",
            "train.micro_batch": "1",
        },
        ADAPTER,
    ),
    "chatglm3-lora": System(
        chatglm3,
        "chatglm",
        {"train.method.rank": "8", "train.method.layers": "attention"},
        ADAPTER,
    ),
    "chatglm3-qlora": System(chatglm3, "chatglm", {"train.method.kind": "qlora"}, ADAPTER),
    "mpt-full": System(
        tiny_models.mpt,
        "mpt",
        {
            "train.method.kind": "full",
            "train.learning_rate": "0.001",
            "train.decay": "linear",
            "data.template": "question",
            "compute.processes": "2",
            "compute.shard": "true",
        },
        {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"},
    ),
}


def prepared(system: System, folder: Path) -> Project:
    """Return a project with the base and the knobs of a system."""
    project = Project.make(folder, str(PREFECT_API_URL.value()))
    shutil.rmtree(project.folder / "tiny-base")
    system.write(project.folder / "tiny-base")
    del project.knobs["train.learning_rate"]
    project.knobs |= {"base.family": system.family, **system.knobs}
    return project


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_of_the_how_tos_runs_from_rows_to_a_served_model(
    name: str, tmp_path: Path
) -> None:
    system = SYSTEMS[name]
    project = prepared(system, tmp_path / "project")
    project.knobs["serving.when"] = "always"
    try:
        said = project.run()
        again = project.run()
    finally:
        project.run_module("flows.teardown")
    method = system.knobs.get("train.method.kind", "lora")
    assert said.states[f"train-{method}"] == "Completed"
    assert "golden answers equal" in said.reason("deploy")
    assert again.states[f"train-{method}"] == "Cached"
    assert again.table == said.table
    (model,) = (path.parent for path in (project.home / "store" / "models").glob("*/model.json"))
    assert {path.name for path in model.iterdir()} >= system.files
    assert not [path for path in model.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
    record = json.loads((model / "model.json").read_text("utf-8"))
    assert (record["kind"], record["family"]) == (method, system.family)
    losses = [json.loads(line)["loss"] for line in (model / "metrics.jsonl").open("rb")]
    assert losses
    assert all(0 < loss < 20 for loss in losses)


@pytest.mark.parametrize("name", ["chatglm2-ptuning-on-spot", "chatglm3-lora"])
def test_an_adapter_goes_out_in_chatglms_layout_and_comes_back_the_same(
    name: str, tmp_path: Path
) -> None:
    system = SYSTEMS[name]
    project = prepared(system, tmp_path / "project")
    tuned = next(line for line in project.run().table if line.startswith("tuned"))
    flags = ["--subject.name", "test", "--subject.version", "1", "--form", "chatglm"]
    project.run_module("flows.export", *flags, "--to", "theirs")
    theirs = {path.name for path in (project.folder / "theirs").iterdir()}
    assert "model.json" not in theirs
    knobs = {
        "source.uri": "rows",
        "data.format": "messages",
        "decode.max_new_tokens": "8",
        "subject.kind": "model",
        "subject.base.uri": "tiny-base",
        "subject.base.family": "chatglm",
        "subject.tuned": "theirs",
    }
    words = [word for knob, value in knobs.items() for word in (f"--{knob}", value)]
    said = Said(project.run_module("flows.evaluate", *words), "")
    assert said.states["fetch_tuned"] == "Completed"
    assert tuned in said.table


def test_a_merged_model_is_a_base_that_answers_like_the_tuned_one(tmp_path: Path) -> None:
    project = Project.make(tmp_path / "project", str(PREFECT_API_URL.value()))
    tuned = next(line for line in project.run().table if line.startswith("tuned"))
    flags = ["--subject.name", "test", "--subject.version", "1", "--to", "merged"]
    project.run_module("flows.export", *flags)
    knobs = {
        "source.uri": "rows",
        "data.format": "messages",
        "decode.max_new_tokens": "8",
        "subject.kind": "model",
        "subject.base.uri": "merged",
    }
    words = [word for knob, value in knobs.items() for word in (f"--{knob}", value)]
    said = Said(project.run_module("flows.evaluate", *words), "")
    assert tuned in said.table
