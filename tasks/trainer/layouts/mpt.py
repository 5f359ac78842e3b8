"""The configuration of MPT as published, and as transformers reads it.

Names and weights are the same. transformers computes what the published MPT-7B and 30B need and passes over other
fields in silence: a model that sets one would be loaded, and answer something else. Such a field is refused by
name; a field that is absent has the value that transformers assumes. Whole numbers where transformers wants
fractions, and the other way round, are the same number: MPT-7B-StoryWriter clips at 6, not at 6.0.
Source: https://github.com/mosaicml/llm-foundry, llmfoundry/models/mpt/configuration_mpt.py; transformers 5.23,
modeling_mpt.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from transformers import MptConfig

_ATTENTION = "attn_config"

_COVERED: dict[str, tuple[Any, ...]] = {
    "logit_scale": (None,),
    "no_bias": (True,),
    "norm_type": ("low_precision_layernorm", "layernorm"),
}
_COVERED_ATTENTION: dict[str, tuple[Any, ...]] = {
    "alibi": (True,),
    "alibi_bias_max": (8,),
    "attn_pdrop": (0,),
    "attn_type": ("multihead_attention",),
    "prefix_lm": (False,),
    "qk_gn": (False,),
    "qk_ln": (False,),
    "rope": (False,),
    "sliding_window_size": (-1,),
}
_KINDS: dict[str, Callable[[Any], Any]] = {
    "alibi_bias_max": int,
    "attn_pdrop": int,
    "clip_qkv": float,
    "expansion_ratio": int,  # what it says is seen in the shapes of the weights
    "softmax_scale": float,
}


def config(c: Mapping[str, Any]) -> MptConfig:
    """Return the configuration of an MPT.

    Raises:
        ConfigError: The model computes something that transformers does not.
    """
    from transformers import MptConfig

    attention = c.get(_ATTENTION) or {}
    if not isinstance(attention, dict):
        raise ConfigError(
            f"config.json: {_ATTENTION} must be an object (found {attention!r}). Fetch the model again."
        )
    _require(c, _COVERED, "")
    _require(attention, _COVERED_ATTENTION, f"{_ATTENTION}.")
    found: MptConfig = MptConfig.from_dict(_converted({**c, _ATTENTION: _converted(attention)}))
    return found


def _require(c: Mapping[str, Any], covered: Mapping[str, tuple[Any, ...]], where: str) -> None:
    for field, values in covered.items():
        if field in c and c[field] not in values:
            asked = " or ".join(map(repr, values))
            raise ConfigError(
                f"config.json: {where}{field} must be {asked} for an MPT that is covered "
                f"(found {c[field]!r}). Choose another base model."
            )


def _converted(c: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with each number in the type that transformers wants, where that changes no value."""
    found = dict(c)
    for field in _KINDS.keys() & c.keys():
        if type(c[field]) in (int, float) and _KINDS[field](c[field]) == c[field]:
            found[field] = _KINDS[field](c[field])
    return found
