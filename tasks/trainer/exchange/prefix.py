"""Prefixes between ChatGLM's prefix encoders (P-Tuning v2) and the native models.

A prefix encoder stores keys and values of all layers for each virtual token; with `prefix_projection` it computes
them with two linear layers from an embedding. What the model reads is the same, so the computed ones are taken and
the network is left behind: answers do not change, only training could not go on where it was.

ChatGLM2 and 3 put the prefix into the cache as it is and count the text from position 0. The native models count it
from the length of the prefix on. Attention sees differences of positions, so the keys are turned forward by that
length on the way in, and back on the way out. ChatGLM-6B counts from 0 in both.

Source: https://huggingface.co/THUDM/chatglm2-6b, modeling_chatglm.py (`PrefixEncoder`, `get_prompt`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..errors import ConfigError
from .shape import Shape

NAME = "transformer.prefix_encoder.embedding.weight"
"""What a prefix encoder without projection consists of."""
SAVED = "prompt_embeddings"
"""What peft calls the same in the files of a tuned model."""

_KEY = re.compile(
    r"(?:(?:transformer\.)?prefix_encoder\.)?(embedding\.weight|trans\.[02]\.(?:weight|bias))"
)
_NETWORK = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")


def keys(names: Iterable[str]) -> dict[str, str]:
    """Return the weights of a prefix encoder among those of a file: short name to name."""
    return {found[1]: name for name in names if (found := _KEY.fullmatch(name))}


def evaluated(weights: Mapping[str, Tensor], where: str) -> Tensor:
    """Return what a prefix encoder puts out: (virtual tokens, keys and values of all layers), float32.

    Raises:
        ConfigError: Parts of it are missing or do not fit each other.
    """
    if "embedding.weight" not in weights:
        raise ConfigError(f"{where}: a prefix encoder without its embedding. Save it again.")
    table = weights["embedding.weight"].float()
    if set(weights) == {"embedding.weight"}:
        return table
    if absent := [name for name in _NETWORK if name not in weights]:
        raise ConfigError(f"{where}: the prefix encoder lacks {', '.join(absent)}. Save it again.")
    into, shift, out, offset = (weights[name].float() for name in _NETWORK)
    try:
        return torch.tanh(table @ into.T + shift) @ out.T + offset
    except RuntimeError as error:
        raise ConfigError(
            f"{where}: the layers of the prefix encoder do not fit each other ({error})."
        ) from error


def to_native(encoded: Tensor, shape: Shape, where: str) -> Tensor:
    """Turn what a prefix encoder puts out into the prefix of the native model.

    Raises:
        ConfigError: It is for a model of another size.
    """
    check(encoded, shape, where)
    return _turned(encoded, shape, len(encoded))


def to_original(prefix: Tensor, shape: Shape, where: str) -> Tensor:
    """Turn the prefix of the native model into the embedding of a prefix encoder."""
    check(prefix, shape, where)
    return _turned(prefix, shape, -len(prefix))


def check(prefix: Tensor, shape: Shape, where: str) -> None:
    """Refuse a prefix of another width than the base model needs."""
    if prefix.ndim == 2 and len(prefix) and prefix.shape[1] == shape.prefix_width:
        return
    hint = ""
    if prefix.ndim == 2 and prefix.shape[1] == 2 * shape.layers * shape.width:
        hint = "That is the width of ChatGLM-6B, the first generation. "
    raise ConfigError(
        f"{where}: a prefix of shape {tuple(prefix.shape)} (the base needs virtual tokens times "
        f"{shape.prefix_width}: 2 x {shape.layers} layers x {shape.groups} heads x {shape.head}). "
        f"{hint}Name the base model that it was trained on."
    )


def _turned(prefix: Tensor, shape: Shape, positions: int) -> Tensor:
    """Turn the keys by so many positions, in float64; ChatGLM-6B's stay."""
    if shape.generation == "ChatGLM-6B":
        return prefix.float().contiguous()
    every = prefix.double().view(len(prefix), shape.layers, 2, shape.groups, shape.head).clone()
    turning = every[:, :, 0, :, : shape.rotary].unflatten(-1, (-1, 2))
    steps = torch.arange(0, shape.rotary, 2, dtype=torch.float64) / shape.rotary
    angle = positions / shape.stretch * shape.theta**-steps
    cos, sin = angle.cos(), angle.sin()
    first, second = turning.unbind(-1)
    turned = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
    every[:, :, 0, :, : shape.rotary] = turned.flatten(-2)
    return every.view(prefix.shape).float()
