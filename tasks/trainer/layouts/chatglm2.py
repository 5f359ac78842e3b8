"""ChatGLM2-6B and ChatGLM3-6B as published, and the same model as transformers' native GLM.

The two layouts hold the same numbers under other names: the rows of the fused `query_key_value` are
those of the queries of all heads, then the keys of all groups, then the values. Nothing is computed, so
the way there and back gives the same bits. Only `rotary_pos_emb.inv_freq` is dropped: it follows from
the configuration.

Two published meanings of `rope_ratio` exist, and no field tells them apart: ChatGLM2-6B-32K divides the
positions by it, ChatGLM3-6B-32K and GLM-4 multiply the base of the frequencies by it. The name of the
model decides; where it does not tell, a ratio is refused.
Source: https://github.com/NVIDIA/TensorRT-LLM, tensorrt_llm/models/chatglm/config.py, which goes by the name too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GlmConfig

LAYER = "transformer.encoder.layers."
"""Before the number of a block in the original names."""

_OUTSIDE = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}
_INSIDE = {
    "input_layernorm.weight": "input_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_FUSED = "self_attention.query_key_value."

_SIZES = (
    "padded_vocab_size",
    "hidden_size",
    "ffn_hidden_size",
    "num_layers",
    "num_attention_heads",
    "multi_query_group_num",
    "kv_channels",
    "seq_length",
)
# What GLM computes, by field: the default of the original configuration class, and the value that is covered.
_COVERED: dict[str, tuple[Any, Any]] = {
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "multi_query_attention": (False, True),
    "add_bias_linear": (False, False),
    "apply_residual_connection_post_layernorm": (False, False),
    "fp32_residual_connection": (False, False),
    "hidden_dropout": (0.0, 0.0),
    "quantization_bit": (0, 0),
    "pre_seq_len": (None, None),
}
_ADVICE = {
    "quantization_bit": "Take the model that is not quantised; method qlora quantises it on loading.",
    "pre_seq_len": "Name the published base model; the trained prefix is read by `adopt`.",
}


def config(c: Mapping[str, Any]) -> GlmConfig:
    """Return the native configuration of an original one.

    Raises:
        ConfigError: A size is missing, or the model computes something that GLM does not.
    """
    from transformers import GlmConfig

    for field in _SIZES:
        if type(c.get(field)) is not int or c[field] < 1:
            raise ConfigError(
                f"config.json: {field} must be a whole number above 0 (found {c.get(field)!r}). "
                "Fetch the model again."
            )
    for field, (default, covered) in _COVERED.items():
        if bool(c.get(field, default)) != bool(covered):
            advice = _ADVICE.get(field, "Choose another base model.")
            raise ConfigError(
                f"config.json: {field} must be {covered!r} for a ChatGLM2 or ChatGLM3 "
                f"(found {c.get(field, default)!r}). {advice}"
            )
    if c["num_attention_heads"] % c["multi_query_group_num"]:
        raise ConfigError(
            "config.json: num_attention_heads must be a multiple of multi_query_group_num "
            f"(found {c['num_attention_heads']} and {c['multi_query_group_num']}). Fetch the model again."
        )
    return GlmConfig(
        vocab_size=c["padded_vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["ffn_hidden_size"],
        num_hidden_layers=c["num_layers"],
        num_attention_heads=c["num_attention_heads"],
        num_key_value_heads=c["multi_query_group_num"],
        head_dim=c["kv_channels"],
        hidden_act="silu",
        attention_dropout=c.get("attention_dropout", 0.0),
        attention_bias=bool(c.get("add_qkv_bias", False)),
        max_position_embeddings=c["seq_length"],
        rms_norm_eps=c.get("layernorm_epsilon", 1e-5),
        rope_parameters=_rope(c),
        tie_word_embeddings=False,  # the original never ties them, whatever its configuration says
        pad_token_id=c.get("pad_token_id", 0),
        eos_token_id=c.get("eos_token_id", 2),
        bos_token_id=c.get("bos_token_id"),
        architectures=["GlmForCausalLM"],
    )


def to_native(name: str, tensor: Tensor, config: GlmConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield what an original tensor is in the native layout: views of it, nothing is copied.

    Raises:
        ConfigError: The original model has no tensor of this name, or not of this shape.
    """
    if name == "transformer.rotary_pos_emb.inv_freq":
        return
    if name in _OUTSIDE:
        yield _OUTSIDE[name], tensor
        return
    found = re.fullmatch(re.escape(LAYER) + r"(\d+)\.(.+)", name)
    number, rest = found.groups() if found else ("", "")
    if rest in _INSIDE:
        yield f"model.layers.{number}.{_INSIDE[rest]}", tensor
    elif rest in (f"{_FUSED}weight", f"{_FUSED}bias"):
        rows = fused_rows(config)
        if tensor.shape[0] != sum(rows):
            raise ConfigError(
                f"{name}: the configuration asks for {sum(rows)} rows (found {tensor.shape[0]}). "
                "Fetch the model again."
            )
        place, kind = f"model.layers.{number}.self_attn", rest.removeprefix(_FUSED)
        for letter, part in zip("qkv", tensor.split(rows), strict=True):
            yield f"{place}.{letter}_proj.{kind}", part
    elif "prefix_encoder." in name:
        raise ConfigError(
            f"{name}: belongs to a trained prefix, not to a base model. "
            "Name the published base model; the trained prefix is read by `adopt`."
        )
    else:
        raise ConfigError(
            f"{name}: is not a tensor of a ChatGLM2 or ChatGLM3. Choose another base model."
        )


def to_original(tensors: Mapping[str, Tensor], config: GlmConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield a native model's tensors under their original names, one at a time, in the original order."""
    import torch

    for original, native in list(_OUTSIDE.items())[:1]:
        yield original, tensors[native]
    for number in range(config.num_hidden_layers):
        place = f"model.layers.{number}"
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            parts = [tensors[f"{place}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            yield f"{LAYER}{number}.{_FUSED}{kind}", torch.cat(parts)
        for original, native in _INSIDE.items():
            yield f"{LAYER}{number}.{original}", tensors[f"{place}.{native}"]
    for original, native in list(_OUTSIDE.items())[1:]:
        yield original, tensors[native]


def fused_rows(config: GlmConfig) -> list[int]:
    """Return how many rows of `query_key_value` are queries, keys and values."""
    head = config.head_dim
    groups = config.num_key_value_heads * head
    return [config.num_attention_heads * head, groups, groups]


def _rope(c: Mapping[str, Any]) -> dict[str, Any]:
    ratio = c.get("rope_ratio") or 1
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    if ratio == 1:
        return rope
    name = str(c.get("_name_or_path", "")).lower()
    if "chatglm2" in name:
        return rope | {"rope_type": "linear", "factor": float(ratio)}
    if "chatglm3" in name or "glm-4" in name:
        return rope | {"rope_theta": 10000.0 * ratio}
    raise ConfigError(
        f"config.json: rope_ratio {ratio} means one thing in ChatGLM2 and another in ChatGLM3, and "
        f"_name_or_path does not tell which this is (found {name!r}). Set _name_or_path to the "
        "published name, such as THUDM/chatglm3-6b-32k."
    )
