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

from torch import Tensor

from ..checkpoint import write_tensors
from ..errors import ConfigError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def write(out: Path, weights: Mapping[str, Tensor], config: dict[str, Any], base: str) -> None:
    """Write both files; `base` is the digest of the base model."""
    write_tensors({name: weights[name] for name in sorted(weights)}, out / WEIGHTS)
    described = config | {"base_model_name_or_path": base, "inference_mode": True}
    text = json.dumps(described, indent=2, sort_keys=True, default=_plain)
    (out / CONFIG).write_text(text + "\n", encoding="utf-8")


def require(tuned: Path) -> None:
    """Check that the weights are there.

    Raises:
        ConfigError: They are not.
    """
    if not (tuned / WEIGHTS).is_file():
        raise ConfigError(f"{tuned}: no {WEIGHTS}. Only safetensors are read; train again.")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
