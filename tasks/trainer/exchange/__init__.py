"""Takes over adapters in ChatGLM's own layouts, and writes ours in them: `trainer adopt`, `trainer export`.

In: a directory with a LoRA of peft on ChatGLM's own layers (`adapter_config.json` and `adapter_model.safetensors` or
`.bin`), or with a prefix encoder of P-Tuning v2 (`pytorch_model.bin`, alone or inside a whole model). Out: a tuned
model like those that are trained here. The other way round: a LoRA on `query_key_value` and its kin, or
`prefix_encoder.safetensors`.

Only the configuration of the base model is read, not its weights. `.bin` files are read without unpickling
(`layouts/bins.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import GlmForCausalLM

from .. import events, layouts, model, template, tuned, verification
from ..architectures.chatglm import ChatGlmForCausalLM
from ..checkpoint import write_tensors
from ..errors import ConfigError
from ..job import UNCUT, Job, Lora, Method, Prefix, Qlora
from ..methods import files
from ..methods import prefix as prefixes
from . import lora, prefix, shape, sources
from .pairs import Adapter

ENCODER = "prefix_encoder.safetensors"


@dataclass(frozen=True)
class _Adopted:
    """An adapter that has been written in our layout."""

    method: Method
    numbers: int
    """How many it holds in its own layout."""
    sources: list[Path]


def adopt(job: Job) -> None:
    """Write the adapter in the job's `tuned` as a tuned model into its `out`.

    The record says `train` of the job, if it has one: the lengths and the number format to answer with, and
    method `qlora` for a LoRA that was trained on weights of 4 bits.

    Raises:
        ConfigError: It is not an adapter for this base model.
    """
    sizes = shape.of(Path(job.base))
    source, out = Path(job.tuned), Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    take = _adopt_lora if (source / files.CONFIG).is_file() else _adopt_prefix
    adopted = take(job, source, sizes, out)
    spec = replace(job.train or UNCUT, method=adopted.method)
    text = template.of_dataset(Path(job.data)) if job.data else ""
    numbers = adopted.numbers
    counted = tuned.Parameters(_numbers(Path(job.base)) + numbers, numbers)
    data = {"adopted": {path.name: verification.sha256(path) for path in adopted.sources}}
    record = tuned.record(job, adopted.method.kind, spec, text, counted, data)
    tuned.write_record(out, record)


def export(job: Job) -> None:
    """Write the job's tuned adapter in ChatGLM's own layout into its `out`.

    Raises:
        ConfigError: It is not an adapter of this base model.
    """
    sizes = shape.of(Path(job.base))
    source, out = Path(job.tuned), Path(job.out)
    kind = model.record(source, job)["kind"]
    files.require(source)
    weights = sources.tensors(source / files.WEIGHTS)
    out.mkdir(parents=True, exist_ok=True)
    where = str(source)
    if kind == "prefix":
        encoded = prefix.to_original(weights.get(prefix.SAVED, torch.empty(0)), sizes, where)
        _write_encoder(encoded, out)
        events.text(
            f"{out / ENCODER}: {len(encoded)} virtual tokens for {sizes.generation}; load the model with "
            f"pre_seq_len={len(encoded)} and give these weights to its transformer.prefix_encoder"
        )
        return
    original = lora.to_original(Adapter(_config(source), weights), sizes, where)
    files.write(out, original.weights, original.config, job.base_digest)
    events.text(
        f"{out}: LoRA of rank {original.rank} on {', '.join(original.config['target_modules'][:4])} "
        f"for {sizes.generation}; load it with peft on the original model"
        + (" in the same 4 bits" if kind == "qlora" else "")
    )


def _adopt_lora(job: Job, source: Path, sizes: shape.Shape, out: Path) -> _Adopted:
    weights, path = sources.adapter(source)
    original = Adapter(_config(source), weights)
    native = lora.to_native(original, sizes, str(source))
    files.write(out, native.weights, native.config, job.base_digest)
    targets = native.config["target_modules"]
    attention = {name.rpartition(".")[2] for name in targets} <= set(shape.PARTS)
    told: dict[str, Any] = {
        "rank": native.rank,
        "alpha": max(1, round(native.config["lora_alpha"])),
        "dropout": native.config["lora_dropout"],
        "layers": "attention" if attention else "all",
    }
    asked = job.train.method if job.train else None
    method: Method = Lora(**told)
    if isinstance(asked, Qlora):
        method = Qlora(**told, quantisation=asked.quantisation, double=asked.double)
    trained = sum(tensor.numel() for tensor in original.weights.values())
    events.text(
        f"{source}: LoRA of rank {native.rank} on {len(original.weights) // 2} layers of "
        f"{sizes.generation}, {trained:,} parameters, taken over without rounding"
    )
    return _Adopted(method, trained, [path])


def _adopt_prefix(job: Job, source: Path, sizes: shape.Shape, out: Path) -> _Adopted:
    found, where = sources.encoder(source), str(source)
    states = prefix.to_native(prefix.evaluated(found.weights, where), sizes, where)
    _check_length(source, len(states))
    sources.check_base(found, Path(job.base))
    if not torch.isfinite(states).all():
        raise ConfigError(f"{where}: the prefix holds numbers that are not finite. Train it again.")
    form = prefixes.Shape(sizes.layers, sizes.groups, sizes.head, sizes.width)
    prefixes.write_states(out, states, form, job.base_digest)
    numbers = sum(tensor.numel() for tensor in found.weights.values())
    events.text(
        f"{where}: {len(states)} virtual tokens of {sizes.generation}, {numbers:,} parameters"
    )
    if len(found.weights) > 1:
        events.text(
            "its projection was computed and left behind: answers stay the same, "
            "training would go on without it"
        )
    if found.others:
        events.text(
            f"{len(found.others):,} other weights beside it are left aside: the base model has its own"
        )
    return _Adopted(Prefix(tokens=len(states)), numbers, found.paths)


def _numbers(base: Path) -> int:
    """Return how many numbers the base model has, without reading them."""
    config: Any = layouts.config(base)
    build = GlmForCausalLM if config.model_type == "glm" else ChatGlmForCausalLM
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def _check_length(source: Path, tokens: int) -> None:
    """Compare the prefix with the configuration beside it, where there is one."""
    path = source / "config.json"
    if not path.is_file():
        return
    expected = _read(path).get("pre_seq_len")
    if expected is not None and expected != tokens:
        raise ConfigError(
            f"{path}: pre_seq_len is {expected!r} (the prefix encoder has {tokens} virtual tokens). "
            "Take both files from the same training."
        )


def _write_encoder(encoded: torch.Tensor, out: Path) -> None:
    write_tensors({prefix.NAME: encoded}, out / ENCODER)
    config = {"pre_seq_len": len(encoded), "prefix_projection": False}
    text = json.dumps(config, indent=2) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")


def _config(folder: Path) -> dict[str, Any]:
    return _read(folder / files.CONFIG)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Save the adapter again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not an object (found {type(content).__name__}).")
    return content
