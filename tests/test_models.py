"""A folder is taken for a model only where it holds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import models
from tasks.errors import ConfigError


@pytest.mark.parametrize(
    "weights", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"]
)
def test_a_configuration_with_weights_is_a_model(tmp_path: Path, weights: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    models.check(tmp_path, ["config.json", weights, "tokenizer.json"])


@pytest.mark.parametrize(
    "names", [["config.json"], ["model.safetensors"], ["config.json", "training_args.bin"]]
)
def test_a_folder_without_weights_or_configuration_is_refused(
    tmp_path: Path, names: list[str]
) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"must hold config.json, \*.safetensors or pytorch_model"
    ):
        models.check(tmp_path, names)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, b"\xff"])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"config\.json is not JSON"):
        models.check(tmp_path, ["config.json", "model.safetensors"])
