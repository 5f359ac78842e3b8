"""What a folder must hold to be a model in the transformers layout, or in ChatGLM's own."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable
from pathlib import Path

from tasks.errors import ConfigError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def check(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder that is no model.

    Raises:
        ConfigError: The configuration or the weights are missing, or the configuration cannot be read.
    """
    found = sorted(names)
    weights = [name for glob in _WEIGHTS for name in fnmatch.filter(found, glob)]
    if "config.json" not in found or not weights:
        raise ConfigError(
            f"base.uri: not a model in the transformers layout (found {', '.join(found)}). "
            "The folder must hold config.json, *.safetensors or pytorch_model*.bin, and the tokenizer."
        )
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as reason:
        raise ConfigError(
            f"base.uri: config.json is not JSON (found {reason}). Fetch the model again."
        ) from reason
