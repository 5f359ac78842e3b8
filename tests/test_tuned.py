"""What is wrong with the files of a tuned model is said before it answers, never answered around."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from tasks.trainer import model, tuned
from tasks.trainer.errors import ConfigError
from tasks.trainer.job import Job, Lora, Method, Prefix, TrainSpec
from tasks.trainer.methods import files
from tasks.trainer.model import RECORD

Damage = Callable[[Path], Any]
Tensors = dict[str, torch.Tensor]
A = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
METHODS: dict[str, Method] = {"lora": Lora(rank=4), "prefix": Prefix(tokens=5)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """Save a model of each method as it is before its first step."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tuned")
    base = tiny_models.llama(root / "base")
    jobs = {}
    for name, method in METHODS.items():
        spec = TrainSpec(method=method, precision="float32")
        job = Job("train", "llama", str(base), "ab" * 32, out=str(root / name), train=spec)
        loaded = model.load(job)
        tuned.save(loaded, job, tuned.prepare_training(loaded, spec), [], {})
        jobs[name] = job
    return jobs


def answering(job: Job, folder: Path, damage: Damage, **other: str) -> model.Loaded:
    """Load a damaged copy of what a job has saved."""
    copy = folder / "copy"
    shutil.copytree(job.out, copy)
    damage(copy)
    return model.load(replace(job, action="predict", train=None, tuned=str(copy), **other))


def says(file: str, **changes: Any) -> Damage:
    """Change fields of a JSON file; those that become None go."""

    def damage(folder: Path) -> None:
        fields = json.loads((folder / file).read_text()) | changes
        kept = {name: value for name, value in fields.items() if value is not None}
        (folder / file).write_text(json.dumps(kept))

    return damage


def holds(file: str, content: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(content)


def lacks(file: str) -> Damage:
    return lambda folder: (folder / file).unlink()


def cut(file: str, size: int) -> Damage:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def weighs(change: Callable[[Tensors], Tensors]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / files.WEIGHTS
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return damage


def trained(**method: Any) -> Damage:
    return says(RECORD, train={"method": {"kind": "lora", **method}})


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lacks(RECORD), "not the record"),
        (cut(RECORD, 40), "not the record"),
        (holds(RECORD, b"[]"), "not the record"),
        (holds(RECORD, b"\xff"), "not the record"),
        (says(RECORD, base_digest=None), "not the record .*base_digest"),
        (says(RECORD, train=None), "does not say how it was trained"),
        (says(RECORD, train=5), "does not say how"),
        (says(RECORD, train={"method": {"kind": "lora"}, "newer": 1}), "does not say how .*newer"),
        (trained(kind="other"), "does not say how .*other"),
        (trained(rank=0), r"does not say how .*rank: must be at least 1 \(found 0\)"),
        (trained(rank="4"), "does not say how"),
        (
            says(RECORD, train={"method": {"kind": "lora"}, "precision": "int8"}),
            "precision: .*int8",
        ),
        (says(RECORD, kind="other"), "unknown kind"),
        (says(RECORD, kind=[]), "unknown kind"),
        (says(RECORD, kind="prefix"), "contradict each other .*'prefix', trained with 'lora'"),
        (says(RECORD, base_digest=5), "tuned on another base model"),
        (says(RECORD, family="qwen"), "tuned as 'qwen'"),
    ],
)
def test_a_record_that_is_none_is_refused(
    saved: dict[str, Job], tmp_path: Path, damage: Damage, wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        answering(saved["lora"], tmp_path, damage)


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lacks(files.WEIGHTS), "no adapter_model.safetensors"),
        (lacks(files.CONFIG), "no adapter_config.json"),
        (cut(files.WEIGHTS, 100), "cannot be read"),
        (cut(files.WEIGHTS, 4000), "cannot be read"),
        (holds(files.WEIGHTS, b""), "cannot be read"),
        (cut(files.CONFIG, 50), "cannot be read"),
        (holds(files.CONFIG, b"[]"), "cannot be read"),
        (holds(files.CONFIG, b"{}"), "not a LoRA .*None"),
        (says(files.CONFIG, peft_type="LOKR"), "not a LoRA .*LOKR"),
        (says(files.CONFIG, r="4"), "adapter_config.json: does not fit"),
        (says(files.CONFIG, target_modules=["other"]), "adapter_config.json: does not fit"),
        (says(files.CONFIG, r=8), r"28 tensors do not fit .*found \(4, 96\), .* takes \(8, 96\)"),
        (says(files.CONFIG, target_modules=["q_proj"]), "24 tensors do not fit .* takes none"),
        (says(files.CONFIG, init_lora_weights="pissa"), "only plain LoRA .*pissa"),
        (says(files.CONFIG, use_dora=True), "only plain LoRA .*use_dora"),
        (says(files.CONFIG, modules_to_save=["lm_head"]), "only plain LoRA .*modules_to_save"),
        (says(files.CONFIG, newer=1), "only plain LoRA .*newer"),
        (weighs(lambda t: {n: t[n] for n in t if n != A}), f"1 tensors .*{A}, found none"),
        (weighs(lambda t: t | {"other": t[A].clone()}), r"1 tensors .*other, found \(4, 96\)"),
        (weighs(lambda t: t | {A: t[A] / 0}), "finite numbers"),
        (weighs(lambda t: t | {A: t[A].to(torch.int8)}), "finite numbers .*int8"),
    ],
)
def test_damaged_adapters_are_refused(
    saved: dict[str, Job], tmp_path: Path, damage: Damage, wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong) as refusal:
        answering(saved["lora"], tmp_path, damage)
    assert "\n" not in str(refusal.value)


def longer(tensors: Tensors) -> Tensors:
    return {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lacks(files.CONFIG), "no adapter_config.json"),
        (cut(files.WEIGHTS, 400), "cannot be read"),
        (weighs(longer), r"another length .*found 10 tokens, the record has 5"),
        (weighs(lambda t: {"other": torch.zeros(5, 96)}), "not a prefix .*other"),
        (weighs(lambda t: {n: t[n][0] for n in t}), r"does not fit the model \(found \(96,\)"),
    ],
)
def test_a_damaged_prefix_is_refused(
    saved: dict[str, Job], tmp_path: Path, damage: Damage, wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        answering(saved["prefix"], tmp_path, damage)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [{"layers": 1}, {"layers": 3}, {"width": 64}], ids=str)
def test_what_was_tuned_on_a_model_of_another_size_is_refused(
    saved: dict[str, Job], tmp_path: Path, method: str, sizes: dict[str, int]
) -> None:
    base = str(tiny_models.llama(tmp_path / "base", **sizes))
    with pytest.raises(ConfigError, match=r"not fit the model.*Name the base model"):
        answering(saved[method], tmp_path, lambda _: None, base=base, base_digest="")


@pytest.mark.slow
def test_importing_the_methods_says_nothing(tmp_path: Path) -> None:
    """Wherever bitsandbytes is installed, peft imports it, and it warns about a kernel of the hub."""
    imports = "from tasks.trainer import model; import tasks.trainer.methods.lora"
    done = subprocess.run(
        [sys.executable, "-c", imports], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""
