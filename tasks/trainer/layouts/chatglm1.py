"""ChatGLM-6B as published, and the same model in the names of `architectures/chatglm.py`.

The two layouts hold the same numbers. The rows of the fused `query_key_value` go head by head: the
queries of the first head, its keys, its values, then the next head. The way there and back gives the same bits.
Left out are `rotary_emb.inv_freq`, which follows from the configuration, and the output layer: the original
ties it to the embeddings when it loads a checkpoint, whatever the file holds (seen with transformers 4.30).

Three kinds of checkpoint are refused, each with what to take instead: those quantised by the original's own CUDA
code, those that hold a trained prefix, and those from before 6 April 2023, whose first 20,000 tokens are
images. The later revision is the same model without these; the older tokenizer lacks its special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from ..architectures.chatglm_config import ChatGlmConfig

LAYER = "transformer.layers."
"""Before the number of a block in the original names."""

_FIRST = {"transformer.word_embeddings.": "model.embed_tokens."}
_LAST = {"transformer.final_layernorm.": "model.norm.", "lm_head.": "lm_head."}
_INSIDE = {
    "input_layernorm.": "input_layernorm.",
    "attention.dense.": "self_attn.o_proj.",
    "post_attention_layernorm.": "post_attention_layernorm.",
    "mlp.dense_h_to_4h.": "mlp.up_proj.",
    "mlp.dense_4h_to_h.": "mlp.down_proj.",
}
_QKV = "attention.query_key_value."

_WHOLE = (
    "vocab_size",
    "hidden_size",
    "inner_hidden_size",
    "num_layers",
    "num_attention_heads",
    "max_sequence_length",
)
_TOKENS = ("mask_token_id", "gmask_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
_IMAGE_TOKENS = 20_000
_TAKE_PUBLISHED = "Take the published base model THUDM/chatglm-6b"


def config(c: Mapping[str, Any]) -> ChatGlmConfig:
    """Return the native configuration of an original one.

    Raises:
        ConfigError: Something is missing, or it is a kind of checkpoint that is not covered.
    """
    from ..architectures.chatglm_config import ChatGlmConfig

    _require_whole(c, _WHOLE, lowest=1)
    _require_covered(c)
    _require_whole(c, _TOKENS, lowest=0)
    return ChatGlmConfig(
        vocab_size=c["vocab_size"],
        hidden_size=c["hidden_size"],
        intermediate_size=c["inner_hidden_size"],
        num_hidden_layers=c["num_layers"],
        num_attention_heads=c["num_attention_heads"],
        max_position_embeddings=c["max_sequence_length"],
        layer_norm_eps=c.get("layernorm_epsilon", 1e-5),
        tie_word_embeddings=bool(c.get("tie_word_embeddings", True)),
        architectures=["ChatGlmForCausalLM"],
        **{name: c[name] for name in _TOKENS},
    )


def to_native(name: str, tensor: Tensor, config: ChatGlmConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield what an original tensor is in the native layout.

    Raises:
        ConfigError: The original model has no tensor of this name, or not of this shape.
    """
    if name.endswith(".attention.rotary_emb.inv_freq"):
        return
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return
    for original, native in (_FIRST | _LAST).items():
        if name.startswith(original):
            yield native + name.removeprefix(original), tensor
            return
    found = re.fullmatch(re.escape(LAYER) + r"(\d+)\.(.+\.)(weight|bias)", name)
    number, part, kind = found.groups() if found else ("", "", "")
    if part in _INSIDE:
        yield f"model.layers.{number}.{_INSIDE[part]}{kind}", tensor
    elif part == _QKV:
        place = f"model.layers.{number}.self_attn"
        for letter, rows in zip("qkv", _parts(name, tensor, config), strict=True):
            yield f"{place}.{letter}_proj.{kind}", rows
    else:
        prefix = "prefix_encoder." in name
        belongs = "to a trained prefix" if prefix else "to no ChatGLM-6B that is covered"
        advice = " and read the prefix with `adopt`" if prefix else ""
        raise ConfigError(f"{name}: belongs {belongs}. {_TAKE_PUBLISHED}{advice}.")


def to_original(
    tensors: Mapping[str, Tensor], config: ChatGlmConfig
) -> Iterator[tuple[str, Tensor]]:
    """Yield a native model's tensors under their original names, one at a time, in the original order."""
    for original, native in _FIRST.items():
        yield f"{original}weight", tensors[f"{native}weight"]
    for number in range(config.num_hidden_layers):
        place = f"model.layers.{number}."
        for kind in ("weight", "bias"):
            rows = [tensors[f"{place}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            yield f"{LAYER}{number}.{_QKV}{kind}", _fused(rows, config)
            for original, native in _INSIDE.items():
                yield f"{LAYER}{number}.{original}{kind}", tensors[f"{place}{native}{kind}"]
    for kind in ("weight", "bias"):
        yield f"transformer.final_layernorm.{kind}", tensors[f"model.norm.{kind}"]
    tied = config.tie_word_embeddings
    yield "lm_head.weight", tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]


def _parts(name: str, tensor: Tensor, config: ChatGlmConfig) -> Iterator[Tensor]:
    """Yield the rows of a fused tensor that are queries, keys and values: copies, one at a time.

    Raises:
        ConfigError: It has another number of rows.
    """
    heads, asked = config.num_attention_heads, 3 * config.hidden_size
    if tensor.shape[0] != asked:
        raise ConfigError(
            f"{name}: the configuration asks for {asked} rows (found {tensor.shape[0]}). "
            "Fetch the model again."
        )
    by_head = tensor.unflatten(0, (heads, 3, -1))
    for part in range(3):
        yield by_head[:, part].flatten(0, 1)


def _fused(parts: list[Tensor], config: ChatGlmConfig) -> Tensor:
    """Put the rows of queries, keys and values together, head by head."""
    import torch

    heads = config.num_attention_heads
    by_head = torch.stack([rows.unflatten(0, (heads, -1)) for rows in parts], dim=1)
    return by_head.flatten(0, 2)


def _require_whole(c: Mapping[str, Any], fields: tuple[str, ...], lowest: int) -> None:
    for field in fields:
        if type(c.get(field)) is not int or c[field] < lowest:
            raise ConfigError(
                f"config.json: {field} must be a whole number from {lowest} on (found {c.get(field)!r}). "
                "Fetch the model again."
            )


def _require_covered(c: Mapping[str, Any]) -> None:
    if c.get("quantization_bit"):
        raise ConfigError(
            f"config.json: quantised by the original's own code (found quantization_bit {c['quantization_bit']!r}). "
            f"{_TAKE_PUBLISHED}; method qlora quantises it on loading."
        )
    if c.get("pre_seq_len"):
        raise ConfigError(
            f"config.json: holds a trained prefix (found pre_seq_len {c['pre_seq_len']!r}). "
            f"{_TAKE_PUBLISHED} and read the prefix with `adopt`."
        )
    if not c.get("position_encoding_2d", True):
        raise ConfigError(
            "config.json: position_encoding_2d must be true for a ChatGLM-6B (found False). "
            "Choose another base model."
        )
    if "gmask_token_id" not in c or c.get("bos_token_id", 0) >= 130_004 + _IMAGE_TOKENS:
        raise ConfigError(
            f"config.json: a revision with image tokens (found vocab_size {c['vocab_size']}, no gmask_token_id or "
            f"ids moved by {_IMAGE_TOKENS}). {_TAKE_PUBLISHED} in its revision of 6 April 2023 or later: the same "
            "model without them."
        )
    if c["hidden_size"] % (4 * c["num_attention_heads"]):
        raise ConfigError(
            f"config.json: hidden_size must be a multiple of four times num_attention_heads "
            f"(found {c['hidden_size']} and {c['num_attention_heads']}). Fetch the model again."
        )
