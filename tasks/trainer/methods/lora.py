"""LoRA adapters: small trained matrices beside frozen ones, whole (LoRA) or of 4 bits (QLoRA).

peft puts them into the layers of the model and names their files; the passes through the model are our own.
The adapters are float32 whatever the model computes in. When answering with float32 weights they become part of
them: the logits of the tests differ by less than 1e-5 and a token costs what it costs without adapters. Beside
weights of fewer bits they stay what they are, because the sum would be rounded and blur exactly what was learnt.

Source: https://arxiv.org/abs/2106.09685 (LoRA).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from .. import families
from ..errors import ConfigError
from ..job import Lora, Qlora
from . import files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..model import Loaded


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
    """Put trained adapters beside the weights of a model.

    Raises:
        ConfigError: The files are missing, damaged, or of another shape than the model.
    """
    files.require(tuned)
    try:
        return PeftModel.from_pretrained(model, tuned, torch_device=str(device))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{tuned}: the adapters do not fit ({error}). Train again.") from error


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
