"""What a folder must hold to be a model in the transformers layout, or in ChatGLM's own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tasks.errors import ConfigError


def check(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder that is no model.

    Raises:
        ConfigError: The configuration or the weights are missing, or the configuration cannot be read.
    """
    found = sorted(names)
    weights = (".safetensors", ".bin")
    if "config.json" not in found or not any(name.endswith(weights) for name in found):
        raise ConfigError(
            f"base.uri: not a model in the transformers layout (found {', '.join(found)}). "
            "The folder must hold config.json, *.safetensors or pytorch_model*.bin, and the tokenizer."
        )
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as reason:
        raise ConfigError(
            f"base.uri: config.json is not JSON (found {reason}). Fetch the model again."
        ) from reason
