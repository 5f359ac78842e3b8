"""LoRA adapters: small trained matrices beside frozen ones, whole (LoRA) or of 4 bits (QLoRA).

peft puts them into the layers of the model and names their files; the passes through the model are our own.
The adapters are float32 whatever the model computes in. When answering with float32 weights they become part of
them: the logits of the tests differ by less than 1e-5 and a token costs what it costs without adapters. Beside
weights of fewer bits they stay what they are, because the sum would be rounded and blur exactly what was learnt.

Query, key and value are matrices of their own here, also of models that were published with one joint matrix, and have
an A each: ChatGLM3-6B's own fine-tuning trains 1,949,696 numbers at rank 8, `layers: attention` 3,784,704.

What is read back must be plain LoRA, and just the tensors that the model takes: peft would leave what is missing random
and say so in a warning.

Source: https://arxiv.org/abs/2106.09685 (LoRA).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor

from .. import families
from ..errors import ConfigError
from ..job import Lora, Qlora
from . import files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..model import Loaded

_PATTERNS = {"use_rslora", "rank_pattern", "alpha_pattern"}
_DECIDES = {"r", "lora_alpha", "lora_dropout", "target_modules", *_PATTERNS}
"""What `adapter_config.json` may say about the adapters: plain LoRA, of layers that differ where it was adopted."""
_BASE = {"base_model_name_or_path", "revision", "auto_mapping"}
_TOLD = {"peft_type", "peft_version", "task_type", "inference_mode", *_BASE}
"""What it says beside, which decides no number."""


def add(loaded: Loaded, method: Lora | Qlora, seed: int) -> None:
    """Put fresh adapters on linear layers of the blocks and freeze the rest."""
    attention = method.layers == "attention"
    targets = families.option(loaded.family, "ATTENTION_TARGETS" if attention else "LORA_TARGETS")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(targets),
    )
    torch.manual_seed(seed)
    loaded.adapted = get_peft_model(loaded.model, config)


def attach(loaded: Loaded, tuned: Path) -> None:
    """Put trained adapters on a base model; in float32 they become part of its weights.

    Raises:
        ConfigError: The files are missing, damaged, or of another shape than the model.
    """
    adapted = put(loaded.model, tuned, loaded.device)
    if loaded.dtype == torch.float32 and loaded.kind == "lora":
        loaded.model = adapted.merge_and_unload()
    else:
        loaded.adapted = adapted
    loaded.model.train(False)


def put(model: PreTrainedModel, tuned: Path, device: torch.device) -> PeftModel:
    """Put trained adapters beside the weights of a model, on its device.

    Raises:
        ConfigError: The files are missing, damaged, or of another shape than the model.
    """
    weights = files.read(tuned)
    config = _read(tuned / files.CONFIG)
    try:
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    except (AttributeError, TypeError, ValueError) as error:  # peft does not check types
        raise ConfigError(
            f"{tuned / files.CONFIG}: does not fit the model ({error}). Train again."
        ) from error
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    _refuse_others(tuned / files.WEIGHTS, weights, wanted)
    set_peft_model_state_dict(adapted, weights)
    adapted.requires_grad_(False)
    return adapted.to(device).train(False)


def _read(path: Path) -> dict[str, Any]:
    """Return what the file of a plain LoRA says about the adapters.

    Raises:
        ConfigError: It cannot be read, or says more.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kind = found.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Train again.") from error
    if kind != "LORA":
        raise ConfigError(f"{path}: not a LoRA (found peft_type {kind!r}). Train again.")
    plain = files.plain(LoraConfig().to_dict())
    for name in sorted(found.keys() - _DECIDES - _TOLD):
        if found[name] and found[name] != plain.get(name):
            raise ConfigError(
                f"{path}: only plain LoRA is answered (found {name} {found[name]!r}). Train again."
            )
    return {name: found[name] for name in _DECIDES if name in found}


def _refuse_others(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Check that each adapter of the model is there, and nothing else: peft would leave gaps random."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    wrong = sorted(n for n in {**shapes, **expected} if shapes.get(n) != expected.get(n))
    if wrong:
        raise ConfigError(
            f"{path}: {len(wrong)} tensors do not fit the model (first: {wrong[0]}, found "
            f"{shapes.get(wrong[0], 'none')}, the model takes {expected.get(wrong[0], 'none')}). "
            "Name the base model that it was trained on, or train again."
        )


def tensors(loaded: Loaded) -> Iterator[tuple[str, Tensor]]:
    """Yield the adapter matrices by the names of peft."""
    state = get_peft_model_state_dict(_adapted(loaded), save_embedding_layers=False)
    yield from sorted(state.items())


def write(loaded: Loaded, named: Iterable[tuple[str, Tensor]], out: Path, base: str) -> None:
    """Write the adapters in the layout of peft."""
    config = _adapted(loaded).peft_config["default"].to_dict()
    files.write(out, dict(named), config, base)


def _adapted(loaded: Loaded) -> PeftModel:
    if loaded.adapted is None:
        raise ValueError("the adapters are not beside the weights")
    return loaded.adapted
