"""The two files of adapters in the layout of peft, which other tools read too.

    adapter_model.safetensors    the trained tensors
    adapter_config.json          what they are; the base model is named by its digest

Equal weights give equal bytes: no path, time or host is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checkpoint import write_tensors
from ..errors import ConfigError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

_FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def write(out: Path, weights: Mapping[str, Tensor], config: dict[str, Any], base: str) -> None:
    """Write both files; `base` is the digest of the base model."""
    write_tensors({name: weights[name] for name in sorted(weights)}, out / WEIGHTS)
    described = plain(config | {"base_model_name_or_path": base, "inference_mode": True})
    text = json.dumps(described, indent=2, sort_keys=True)
    (out / CONFIG).write_text(text + "\n", encoding="utf-8")


def require(tuned: Path) -> None:
    """Check that both files are there.

    Raises:
        ConfigError: One is not.
    """
    for name in (WEIGHTS, CONFIG):
        if not (tuned / name).is_file():
            raise ConfigError(f"{tuned}: no {name}. Only safetensors are read; train again.")


def read(tuned: Path) -> dict[str, Tensor]:
    """Return the trained tensors.

    Raises:
        ConfigError: A file is missing or damaged, or holds what no training leaves.
    """
    require(tuned)
    path = tuned / WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Train again.") from error
    for name, tensor in weights.items():
        if tensor.dtype not in _FORMATS or not tensor.isfinite().all():
            raise ConfigError(
                f"{path}: {name} does not consist of finite numbers (found {tensor.dtype}). Train again."
            )
    return weights


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of peft as it reads when it is read again: sets sorted, all else as JSON has it."""
    read: dict[str, Any] = json.loads(json.dumps(config, default=_listed))
    return read


def _listed(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
