"""The two files of a LoRA in the layout of peft, as pairs of matrices by layer, and back.

A field of `adapter_config.json` that changes what the adapter computes is either carried over (rank, alpha, their
patterns, rank stabilisation) or refused by name: a new field of peft is refused until somebody has looked at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import ConfigError

Weights = dict[str, Tensor]

_WRAPPED = "base_model.model."
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")

# What may stand in a configuration without changing what a trained adapter computes here.
_PLAIN = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules"),
    *("inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform"),
    *("lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version"),
    *("qalora_group_size", "r", "rank_pattern", "revision", "target_modules"),
    *("task_type", "use_rslora"),
}
# Ways to begin that leave the base model as it is; others (pissa, olora, …) subtract something from it.
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Pair:
    """The two matrices beside one linear layer, and their scale."""

    a: Tensor
    """(rank, inputs)"""
    b: Tensor
    """(outputs, rank)"""
    alpha: float


@dataclass(frozen=True)
class Adapter:
    """The two files of an adapter in the layout of peft."""

    config: dict[str, Any]
    weights: Weights = field(repr=False)

    @property
    def rank(self) -> int:
        """The rank of the layers that no pattern names."""
        return int(self.config["r"])


def read(adapter: Adapter, where: str) -> dict[str, Pair]:
    """Return the two matrices of each layer, by the layer's path.

    Raises:
        ConfigError: It is more than a plain LoRA, or its two files do not belong together.
    """
    _check(adapter.config, where)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.weights.items():
        key = _KEY.fullmatch(name)
        if key is None:
            raise ConfigError(
                f"{where}: not a LoRA weight (found {name}). "
                "Adapters hold lora_A and lora_B of linear layers and nothing else."
            )
        halves.setdefault(key[1], {})[key[2]] = tensor
    if not halves:
        raise ConfigError(f"{where}: holds no weights. Save the adapter again.")
    found = {}
    for path, both in halves.items():
        shapes = [tuple(both[side].shape) for side in "AB" if side in both]
        if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][1]:
            raise ConfigError(
                f"{where}: lora_A and lora_B of {path} do not belong together (found {shapes}). "
                "Save the adapter again."
            )
        alpha = _pattern(adapter.config, "alpha_pattern", path, adapter.config["lora_alpha"])
        rank = _pattern(adapter.config, "rank_pattern", path, adapter.rank)
        found[path] = Pair(both["A"], both["B"], alpha)
        if len(both["A"]) != rank:
            raise ConfigError(
                f"{where}: {path} has rank {len(both['A'])} (adapter_config.json says {rank}). "
                "Take both files from the same training."
            )
    return found


def _pattern(config: Mapping[str, Any], name: str, path: str, default: float) -> float:
    """Return the value of a layer as peft finds it: the first pattern that its path ends with."""
    patterns: dict[str, float] = config.get(name) or {}
    fitting = (v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", path))
    return float(next(fitting, default))


def _check(config: Mapping[str, Any], where: str) -> None:
    """Refuse what is not a plain LoRA."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConfigError(
            f"{where}: adapter_config.json has peft_type {kind!r}. "
            "LoRA and ChatGLM's own prefix encoders can be exchanged, nothing else of peft."
        )
    if not all(isinstance(config.get(name), (int, float)) for name in ("r", "lora_alpha")):
        raise ConfigError(f"{where}: adapter_config.json lacks r or lora_alpha.")
    _check_patterns(config, where)
    beginning = config.get("init_lora_weights")
    if not any(beginning is known or beginning == known for known in _BEGINNINGS):
        raise ConfigError(
            f"{where}: trained with init_lora_weights {beginning!r}, which changes the base model "
            "too. Convert it with peft to a plain LoRA first."
        )
    for name in sorted(set(config) - _PLAIN):
        if config[name] and config[name] != "none":
            raise ConfigError(
                f"{where}: adapter_config.json has {name} {config[name]!r}, "
                "which is not carried over. Only plain LoRA is exchanged."
            )


def _check_patterns(config: Mapping[str, Any], where: str) -> None:
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        try:
            for pattern, value in patterns.items():
                re.compile(pattern)
                float(value)
        except (AttributeError, TypeError, ValueError, re.error) as error:
            raise ConfigError(
                f"{where}: {name} of adapter_config.json cannot be used ({error})."
            ) from error


def build(pairs: Mapping[str, Pair], source: Mapping[str, Any], layers: int) -> Adapter:
    """Return the two files for these layers."""
    weights: Weights = {}
    for path, pair in pairs.items():
        weights[f"{_WRAPPED}{path}.lora_A.weight"] = pair.a.contiguous()
        weights[f"{_WRAPPED}{path}.lora_B.weight"] = pair.b.contiguous()
    ranks = {path: len(pair.a) for path, pair in pairs.items()}
    alphas = {path: _number(pair.alpha) for path, pair in pairs.items()}
    rank, alpha = _usual(ranks.values()), _usual(alphas.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": source.get("lora_dropout") or 0.0,
        "target_modules": _targets(pairs, layers),
        "bias": "none",
        "fan_in_fan_out": False,
    }
    # the peft of ChatGLM's days stops at fields that it does not know
    newer = {
        "use_rslora": bool(source.get("use_rslora")),
        "rank_pattern": _exceptions(ranks, rank),
        "alpha_pattern": _exceptions(alphas, alpha),
    }
    return Adapter(config | {name: value for name, value in newer.items() if value}, weights)


def _targets(paths: Iterable[str], layers: int) -> list[str]:
    """Name the layers briefly where every block has them, else each by its path."""
    names = list(paths)
    short = sorted({path.rpartition(".")[2] for path in names})
    return short if len(names) == len(short) * layers else sorted(names)


def _exceptions(values: Mapping[str, float], usual: float) -> dict[str, float]:
    """Return the values that are not the usual one, by the last part of the name where that says it."""
    by_name: dict[str, set[float]] = {}
    for path, value in values.items():
        by_name.setdefault(path.rpartition(".")[2], set()).add(value)
    other: dict[str, float] = {}
    for path, value in values.items():
        name = path.rpartition(".")[2]
        if by_name[name] != {usual}:
            other[name if len(by_name[name]) == 1 else re.escape(path)] = value
    return other


def _usual(values: Iterable[Any]) -> Any:
    every = list(values)
    return max(dict.fromkeys(every), key=every.count)


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value
