"""Adapters that become part of the weights: the answers stay, and the result is a model like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import chatglm_6b
import chatglm_layouts
import pytest
import sentencepiece_models
import tiny_models
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.trainer import families, merging, model, tuned
from tasks.trainer.__main__ import main
from tasks.trainer.errors import ConfigError, Interrupted
from tasks.trainer.job import Full, Job, Lora, Method, Prefix, Qlora, TrainSpec
from tasks.trainer.methods import full
from tasks.trainer.stopping import Stop

PROJECT = Path(__file__).parents[1]
DIGEST = "ab" * 32


def original(generation: int, folder: Path) -> Path:
    """Write a base in ChatGLM's own layout, with its tokenizer."""
    if generation == 1:
        return chatglm_6b.v1(folder, torch_dtype="float32")
    write = chatglm_layouts.v2 if generation == 2 else chatglm_layouts.v3
    sentencepiece_models.write(write(folder), generation)
    return folder


BASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "chatglm1": ("chatglm", lambda folder: original(1, folder)),
    "chatglm2": ("chatglm", lambda folder: original(2, folder)),
    "chatglm3": ("chatglm", lambda folder: original(3, folder)),
    "glm4": ("glm4", tiny_models.glm4),
    "mpt": ("mpt", tiny_models.mpt),
    "llama": ("llama", tiny_models.llama),
    "qwen2": ("qwen", lambda folder: tiny_models.llama(folder, kind="qwen2")),
    "qwen3": ("qwen", lambda folder: tiny_models.llama(folder, kind="qwen3")),
    "tiny": ("tiny", tiny_models.glm),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bases, and what was tuned on them; made when asked for, written by no test."""
    return tmp_path_factory.mktemp("merging")


def order(home: Path, base: str, out: Path, **other: Any) -> Job:
    family, write = BASES[base]
    if not (home / base).exists():
        write(home / base)
    fields: dict[str, Any] = {"action": "merge", "family": family, "base": str(home / base)}
    return Job(**fields | {"base_digest": DIGEST, "out": str(out)} | other)


def adapters(home: Path, base: str, method: Method | None = None, **spec: Any) -> Path:
    """Return a tuned model whose adapters change every logit, as training writes it."""
    method = method or Lora(rank=4, alpha=8)
    folder = home / f"{base}-{method.kind}"
    if folder.exists():
        return folder
    asked = TrainSpec(method=method, precision="float32", learning_rate=1e-3, **spec)
    job = replace(order(home, base, folder), action="train", train=asked)
    loaded = model.load(job)
    counted = tuned.prepare_training(loaded, asked)
    torch.manual_seed(3)
    for layer in loaded.model.modules():
        if isinstance(layer, LoraLayer):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    history = [{"step": 1, "loss": 2.0}]
    tuned.save(loaded, job, counted, history, {"rows": 3})
    return folder


@torch.no_grad()
def logits(job: Job, tuned: Path | None = None) -> Tensor:
    """Return the logits of two prompts as answering computes them."""
    loaded = model.load(replace(job, action="predict", tuned=str(tuned or "")))
    turns = [[{"role": "user", "content": text}] for text in ("类型#上衣", "颜色#红色")]
    rows = families.prompts(loaded.family, loaded.tokenizer, turns)
    width = max(map(len, rows))
    padding = torch.tensor([width - len(row) for row in rows])
    pad = loaded.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    passes = loaded.view.passes(ids, padding, 0, loaded.dtype)
    found: Tensor = loaded.model(input_ids=ids, **passes.inputs(0)).logits[:, -1].float()
    return found


def difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return found


def test_every_family_has_a_base_here() -> None:
    assert {family for family, _ in BASES.values()} == set(families.names())


@pytest.mark.parametrize("base", BASES)
def test_a_merged_model_answers_as_the_adapter_did(base: str, home: Path, tmp_path: Path) -> None:
    source = adapters(home, base)
    job = order(home, base, tmp_path / "out", tuned=str(source))
    merging.merge(job, Stop())
    beside = logits(job, source)
    assert difference(logits(job), beside) > 0.01
    assert difference(logits(job, tmp_path / "out"), beside) <= 1e-5
    # it needs no base any more: the same as a model on its own
    alone = replace(job, base=str(tmp_path / "out"))
    assert difference(logits(alone), beside) <= 1e-5


def test_the_result_is_a_whole_model_in_the_native_layout(home: Path, tmp_path: Path) -> None:
    source = adapters(home, "chatglm2")
    job = order(home, "chatglm2", tmp_path / "out", tuned=str(source))
    merging.merge(job, Stop())
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GlmForCausalLM"]
    assert "auto_map" not in config
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "model.json",
        "model.safetensors",
        "tokenizer.json",
    }
    names = set(load_file(tmp_path / "out/model.safetensors"))
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert not [name for name in names if "lora" in name or "base_layer" in name]
    found = record(tmp_path / "out")
    assert (found["kind"], found["merged"], found["base_digest"]) == ("full", "lora", DIGEST)
    assert found["train"] == record(source)["train"]
    assert found["data"] == {"rows": 3}


def test_the_chat_template_comes_along(home: Path, tmp_path: Path) -> None:
    source = adapters(home, "llama")
    merging.merge(order(home, "llama", tmp_path / "out", tuned=str(source)), Stop())
    for name in ("chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (home / "llama" / name).read_bytes()


def test_equal_input_gives_equal_bytes(home: Path, tmp_path: Path) -> None:
    source = adapters(home, "tiny")
    for name in ("one", "two"):
        merging.merge(order(home, "tiny", tmp_path / name, tuned=str(source)), Stop())
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("base", ["tiny", "chatglm1"])
def test_adapters_of_qlora_are_merged_into_the_weights_they_were_trained_on(
    base: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = adapters(home, base, Qlora(rank=4, alpha=8))
    job = order(home, base, tmp_path / "out", tuned=str(source))
    merging.merge(job, Stop())
    assert "merged into the 4-bit weights" in capsys.readouterr().out
    beside = logits(job, source)
    assert difference(logits(job, tmp_path / "out"), beside) <= 1e-4
    # the same adapters on the base as it is stored answer something else
    plain = record(source) | {"kind": "lora"}
    (tmp_path / "plain").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "plain" / name).write_bytes((source / name).read_bytes())
    (tmp_path / "plain/model.json").write_text(json.dumps(plain), encoding="utf-8")
    assert difference(logits(job, tmp_path / "plain"), beside) > 0.02
    weights = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config


def test_the_number_format_of_the_base_is_kept_and_its_rounding_is_said(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = adapters(home, "tiny")
    half = tmp_path / "half"
    half.mkdir()
    for path in (home / "tiny").iterdir():
        (half / path.name).write_bytes(path.read_bytes())
    stored = {n: t.bfloat16() for n, t in load_file(half / "model.safetensors").items()}
    save_file(stored, half / "model.safetensors", metadata={"format": "pt"})
    job = replace(order(home, "tiny", tmp_path / "out", tuned=str(source)), base=str(half))
    merging.merge(job, Stop())
    merged = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == "bfloat16"
    matrices = load_file(source / "adapter_model.safetensors")
    lost = learnt = 0.0
    for name, a in matrices.items():
        if name.endswith("lora_A.weight"):
            place = name.removesuffix("lora_A.weight")
            plain = place.removeprefix("base_model.model.") + "weight"
            update = 2 * matrices[f"{place}lora_B.weight"] @ a
            whole = stored[plain].float() + update
            assert merged[plain].equal(whole.bfloat16())
            lost += (merged[plain].float() - whole).square().sum().item()
            learnt += update.square().sum().item()
    share = (lost / learnt) ** 0.5
    assert 0 < share < 0.1
    assert f"rounding to bfloat16 blurs {share:.1%} of what was learnt" in capsys.readouterr().out
    # answered in float32, the rounded sums are next to the sums
    beside = logits(job, source)
    assert 0 < difference(logits(job, tmp_path / "out"), beside) < 0.02


def test_a_large_model_is_written_in_parts_that_load_together(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full, "_SHARD", 40_000)
    source = adapters(home, "chatglm3")
    job = order(home, "chatglm3", tmp_path / "out", tuned=str(source))
    merging.merge(job, Stop())
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 3
    assert difference(logits(job, tmp_path / "out"), logits(job, source)) <= 1e-5


class Asked(Stop):
    """A request to stop that came before the first weight."""

    def __init__(self) -> None: ...

    @property
    def asked(self) -> bool:  # type: ignore[override]
        return True


def test_a_merge_that_is_stopped_leaves_no_model(home: Path, tmp_path: Path) -> None:
    source = adapters(home, "tiny")
    with pytest.raises(Interrupted, match="interrupted while merging"):
        merging.merge(order(home, "tiny", tmp_path / "out", tuned=str(source)), Asked())
    assert not (tmp_path / "out/model.json").exists()


def test_adapters_of_another_base_are_refused(home: Path, tmp_path: Path) -> None:
    source = adapters(home, "tiny")
    job = order(home, "tiny", tmp_path / "out", tuned=str(source), base_digest="cd" * 32)
    with pytest.raises(ConfigError, match="tuned on another base model"):
        merging.merge(job, Stop())
    with pytest.raises(ConfigError, match="tuned as 'tiny'"):
        merging.merge(order(home, "llama", tmp_path / "out", tuned=str(source)), Stop())


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Prefix(tokens=3), "a prefix stands before the text and cannot become part of the weights"),
        (Full(), "it is a whole model already, with nothing to merge"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_what_cannot_be_merged_is_refused_with_the_reason(
    method: Method, reason: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = adapters(home, "tiny", method)
    order(home, "tiny", tmp_path / "out", tuned=str(source)).write(tmp_path / "job.json")
    capsys.readouterr()
    assert main(["merge", "--job", str(tmp_path / "job.json")]) == 64
    assert capsys.readouterr().out.startswith(f"[error] {source}/model.json: {reason}")
    assert not (tmp_path / "out").exists()


def test_a_job_merges(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = adapters(home, "tiny")
    job = order(home, "tiny", tmp_path / "out", tuned=str(source), threads=1)
    job.write(tmp_path / "job.json")
    assert main(["merge", "--job", str(tmp_path / "job.json")]) == 0
    assert record(tmp_path / "out")["kind"] == "full"


def test_a_mistake_in_a_job_is_found_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/model.json").write_text('{"kind": "prefix"}', encoding="utf-8")
    Job("merge", "llama", str(tmp_path), tuned=f"{tmp_path}/tuned", out=f"{tmp_path}/out").write(
        tmp_path / "job.json"
    )
    script = (
        "import sys; from tasks.trainer.__main__ import main; "
        f"code = main(['merge', '--job', {str(tmp_path / 'job.json')!r}]); "
        "sys.exit(code if 'torch' not in sys.modules else 1)"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True)
    assert ended.returncode == 64, ended.stderr
    assert b"a prefix stands before the text" in ended.stdout


def test_several_processes_are_for_training_only(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    source = adapters(home, "tiny")
    order(home, "tiny", tmp_path / "out", tuned=str(source)).write(tmp_path / "job.json")
    assert main(["merge", "--job", str(tmp_path / "job.json")]) == 64
    assert "only train runs in several processes (found 'merge')" in capsys.readouterr().out
