"""LoRA adapters, in the layout of peft: put on, read back, written.

Apart from `model.py` because importing peft takes over a second and a model without adapters needs
none of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError

from .checkpoint import write_tensors
from .errors import ConfigError
from .job import Lora

if TYPE_CHECKING:
    from .model import Loaded

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def add(loaded: Loaded, method: Lora, seed: int) -> None:
    """Put fresh adapters on every linear layer of the blocks and freeze the rest."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(loaded.family.LORA_TARGETS),
    )
    torch.manual_seed(seed)
    loaded.adapted = get_peft_model(loaded.model, config)
    loaded.kind = "lora"


def attach(loaded: Loaded, tuned: Path) -> None:
    """Put trained adapters on a base model; in float32 they become part of its weights.

    Raises:
        ConfigError: The files are missing, damaged, or of another shape than the model.
    """
    if not (tuned / WEIGHTS).is_file():
        raise ConfigError(f"{tuned}: no {WEIGHTS}. Only safetensors are read; train again.")
    try:
        adapted = PeftModel.from_pretrained(loaded.model, tuned, torch_device=str(loaded.device))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{tuned}: the adapters do not fit ({error}). Train again.") from error
    if loaded.dtype == torch.float32:
        loaded.model = adapted.merge_and_unload()
    else:
        loaded.adapted = adapted
    loaded.model.train(False)


def save(adapted: PeftModel, out: Path, base_digest: str) -> None:
    """Write the adapters: equal weights give equal bytes, and no path or time is among them."""
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    write_tensors({name: weights[name] for name in sorted(weights)}, out / WEIGHTS)
    config = adapted.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base_digest, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    (out / CONFIG).write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
