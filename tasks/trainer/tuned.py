"""What training changes, and the directory that holds the result.

    adapter_model.safetensors, adapter_config.json     lora, qlora, prefix: the layout of peft
    model.safetensors, config.json, tokenizer files    full: a model of its own, in the layout of transformers
    metrics.jsonl                                      the losses, a line each
    model.json                                         what it is; written last

Equal weights made by equal software give equal bytes: no path, time or host is written, nothing that was
measured on the way but the losses, and the base model is named by its digest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.modeling_layers import GradientCheckpointingLayer

from . import families, methods
from .errors import ConfigError
from .job import Job, TrainSpec
from .model import RECORD
from .parts import full_tensor

if TYPE_CHECKING:
    from .model import Loaded
    from .team import Team

_PACKAGES = {
    "lora": ("torch", "transformers", "peft", "safetensors"),
    "qlora": ("torch", "transformers", "peft", "bitsandbytes", "safetensors"),
}
_ALWAYS = ("torch", "transformers", "safetensors")


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model has, and how many of them are trained."""

    total: int
    trainable: int


def prepare_training(loaded: Loaded, spec: TrainSpec) -> Parameters:
    """Choose what is trained: fresh adapters, a fresh prefix, or all weights.

    Args:
        loaded: The base model, as `model.load` returns it for this training.
        spec: How it is trained; kept in the record of the result.

    Raises:
        ConfigError: The model cannot be trained so.
    """
    loaded.spec, loaded.kind = spec, spec.method.kind
    methods.load(spec.method.kind).add(loaded, spec.method, spec.seed)
    if spec.gradient_checkpointing:
        _checkpoint_gradients(loaded)
    trained = sum(p.numel() for p in loaded.trainable().values())
    frozen = sum(_numbers(p) for p in loaded.model.parameters() if not p.requires_grad)
    return Parameters(trained + frozen, trained)


def save(
    loaded: Loaded,
    job: Job,
    parameters: Parameters,
    history: list[dict[str, float]],
    data: dict[str, Any],
    team: Team | None = None,
) -> None:
    """Write a tuned model into the job's `out`; its record last.

    Every process of a team calls it, because the weights may be spread over them; one writes.
    """
    method = methods.load(loaded.kind)
    named = ((name, full_tensor(t)) for name, t in method.tensors(loaded))
    if team is not None and not team.leads:
        for _ in named:
            continue
        return
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    method.write(loaded, named, out, job.base_digest)
    lines = (json.dumps(point) + "\n" for point in history)
    (out / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    write_record(out, record(job, loaded.kind, loaded.spec, loaded.template, parameters, data))


def record(
    job: Job,
    kind: str,
    spec: TrainSpec,
    template: str,
    parameters: Parameters,
    data: dict[str, Any],
) -> dict[str, Any]:
    """Return what a tuned model says about itself.

    Args:
        job: Names the family and the base model.
        kind: What the files are: a kind of `methods`.
        spec: What it was trained with; decides how it is answered.
        template: The text around each prompt; empty for none.
        parameters: How many numbers it has.
        data: What it has seen.
    """
    return {
        "kind": kind,
        "family": job.family,
        "base_digest": job.base_digest,
        "train": asdict(spec),
        "template": template,
        "parameters": asdict(parameters),
        "data": data,
        "packages": {name: version(name) for name in _PACKAGES.get(kind, _ALWAYS)},
    }


def write_record(out: Path, content: dict[str, Any]) -> None:
    """Write the record: from now on the directory is a tuned model."""
    partial = out / f".{RECORD}.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / RECORD)


def _checkpoint_gradients(loaded: Loaded) -> None:
    """Compute activations twice instead of keeping them."""
    if not families.option(loaded.family, "CHECKPOINTING"):
        raise ConfigError(
            f"gradient_checkpointing: {families.option(loaded.family, 'CHECKPOINTING_REASON')} "
            "Switch it off."
        )
    model = loaded.model
    # the reentrant way needs inputs with gradients, which adapters lack, and misses those of a prefix
    model.activation_checkpointing_enable({"use_reentrant": False})
    blocks = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not blocks:
        raise ConfigError(
            f"gradient_checkpointing: the layers of {type(model).__name__} cannot be run twice. "
            "Switch it off."
        )
    for block in blocks:
        # the cache of a prefix stays as it is, however often a layer reads it
        block._can_checkpoint_with_cache = loaded.prefix is not None


def _numbers(parameter: Any) -> int:
    """Count what a tensor stands for: of quantised weights, the weights."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else state.shape.numel())
