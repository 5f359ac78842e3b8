"""The files that an adapter from elsewhere comes in, safetensors or `.bin`; only the tensors asked for are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ConfigError
from ..layouts import reading
from . import prefix
from .pairs import Weights

_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
# `training_args.bin` and `optimizer.bin` lie beside these and hold no model
_ENCODERS = ("prefix_encoder.safetensors", "*model*.safetensors", "*model*.bin")


# the last norm of a model: small, and trained with every weight of it
_NORMS = ("final_layernorm.weight", "model.norm.weight")
_SAME = 0.01  # two number formats of 16 bits differ by less


@dataclass(frozen=True)
class Encoder:
    """A prefix encoder, and the files it lies in."""

    weights: Weights
    """By short names: `embedding.weight`, `trans.0.weight`, …"""
    paths: list[Path]
    others: Mapping[str, Mapping[str, torch.Tensor]]
    """What lies beside it: by name, the file that holds it."""


def adapter(folder: Path) -> tuple[Weights, Path]:
    """Return the weights of a LoRA, and the file they are in.

    Raises:
        ConfigError: There are none, or they cannot be read.
    """
    for name in _ADAPTERS:
        if (folder / name).is_file():
            return tensors(folder / name), folder / name
    raise ConfigError(f"{folder}: no {' and no '.join(_ADAPTERS)}. Save the adapter again.")


def encoder(folder: Path) -> Encoder:
    """Find a prefix encoder, alone or within a whole model.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    for pattern in _ENCODERS:
        if paths := sorted(folder.glob(pattern)):
            return _encoder(folder, paths)
    raise ConfigError(
        f"{folder}: no adapter here (no adapter_config.json, no *model*.safetensors or .bin). "
        "Name the directory of a LoRA of peft or of a P-Tuning checkpoint."
    )


def _encoder(folder: Path, paths: list[Path]) -> Encoder:
    weights: Weights = {}
    holding: list[Path] = []
    others: dict[str, Mapping[str, torch.Tensor]] = {}
    for path in paths:
        there = reading.file(path)
        found = prefix.keys(there)
        others |= dict.fromkeys(set(there) - set(found.values()), there)
        if found:
            holding.append(path)
            weights |= {short: there[name] for short, name in found.items()}
    if not weights:
        first = f"first: {min(others)}" if others else "empty"
        raise ConfigError(
            f"{folder}: no prefix encoder among {len(others):,} weights ({first}; looked for "
            f"{prefix.NAME}). Name a P-Tuning checkpoint, or the directory of a LoRA of peft."
        )
    return Encoder(weights, holding, others)


def check_base(found: Encoder, base: Path) -> None:
    """Compare the last norm beside a prefix encoder with that of the base model.

    The chat model and the one it was made from have equal sizes; a prefix for one is of no use to the other.

    Raises:
        ConfigError: They differ.
    """
    there = reading.folder(base)
    ours, theirs = (
        next((n for n in names if n.endswith(_NORMS)), "") for names in (there, found.others)
    )
    if not ours or not theirs:
        return
    one, other = there[ours].float(), found.others[theirs][theirs].float()
    if one.shape != other.shape or not torch.allclose(one, other, rtol=_SAME, atol=_SAME):
        raise ConfigError(
            f"{found.paths[0].parent}: holds a whole model too, and it is not the base model ({theirs} "
            "differs). Name the base model that the prefix was trained on."
        )


def tensors(path: Path) -> Weights:
    """Return all tensors of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    return dict(reading.file(path))
