"""The sizes of a ChatGLM base, and where the parts of its fused layers lie.

ChatGLM keeps query, key and value in one matrix, the native layout in three. In ChatGLM2 and 3 the fused rows are
all of query, then all of key, then all of value; in ChatGLM-6B they alternate from head to head. `rows` says it
once; adapters go both ways through it.

Source: https://huggingface.co/THUDM/chatglm-6b, https://huggingface.co/THUDM/chatglm2-6b and
https://huggingface.co/THUDM/chatglm3-6b, modeling_chatglm.py of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import layouts
from ..errors import ConfigError

FUSED = "query_key_value"
PARTS = ("q_proj", "k_proj", "v_proj")

Generation = Literal["ChatGLM-6B", "ChatGLM2/3"]

_LAYERS: dict[Generation, str] = {
    "ChatGLM-6B": "transformer.layers",
    "ChatGLM2/3": "transformer.encoder.layers",
}
# original module of a block -> native module; of the fused one the part is put in
_MODULES: dict[Generation, dict[str, str]] = {
    "ChatGLM-6B": {
        f"attention.{FUSED}": "self_attn.{part}",
        "attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    },
    "ChatGLM2/3": {
        f"self_attention.{FUSED}": "self_attn.{part}",
        "self_attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.gate_up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
    },
}


@dataclass(frozen=True)
class Shape:
    """What decides how an adapter of this base looks."""

    generation: Generation
    layers: int
    width: int
    inner: int
    """Width between the two matrices of the feed-forward part."""
    heads: int
    groups: int
    """Heads of key and value."""
    head: int
    """Numbers of one head."""
    theta: float = 10_000.0
    """Base of the rotary frequencies."""
    stretch: float = 1.0
    """By what positions are divided before they turn anything."""

    @property
    def rotary(self) -> int:
        """The numbers of each head that turn with the position."""
        return self.head // 2

    @property
    def original_layers(self) -> str:
        """The path of the blocks in the original layout."""
        return _LAYERS[self.generation]

    @property
    def modules(self) -> dict[str, str]:
        """The linear layers of a block: original path to native path."""
        return _MODULES[self.generation]

    @property
    def prefix_width(self) -> int:
        """Numbers that a prefix encoder holds for each virtual token: keys and values of all layers."""
        return 2 * self.layers * self.groups * self.head

    def sizes(self, module: str) -> tuple[int, int]:
        """Return inputs and outputs of a linear layer, by the last part of its original name."""
        outputs = {
            FUSED: (self.width, (self.heads + 2 * self.groups) * self.head),
            "dense": (self.heads * self.head, self.width),
            "dense_h_to_4h": (self.width, self.inner * (2 if self.gated else 1)),
            "dense_4h_to_h": (self.inner, self.width),
        }
        return outputs[module.rpartition(".")[2]]

    @property
    def gated(self) -> bool:
        """Whether gate and input of the feed-forward part are one matrix."""
        return self.generation == "ChatGLM2/3"

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return which rows of the fused matrix are query, key and value, in native order."""
        if self.generation == "ChatGLM-6B":
            each = torch.arange(3 * self.heads * self.head).view(self.heads, 3, self.head)
            query, key, value = (each[:, part].flatten() for part in range(3))
        else:
            kept = self.groups * self.head
            every = torch.arange((self.heads + 2 * self.groups) * self.head)
            query, key, value = every.split([self.heads * self.head, kept, kept])
        return query, key, value


def of(home: Path) -> Shape:
    """Return the sizes of a base model in whatever layout.

    Raises:
        ConfigError: It is no ChatGLM.
    """
    config: Any = layouts.config(home)
    common = {
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "inner": config.intermediate_size,
        "heads": config.num_attention_heads,
    }
    if config.model_type == "glm":
        rope = config.rope_parameters
        return Shape(
            generation="ChatGLM2/3",
            groups=config.num_key_value_heads,
            head=config.head_dim,
            theta=float(rope["rope_theta"]),
            stretch=float(rope.get("factor") or 1.0),
            **common,
        )
    if config.model_type == "chatglm_6b":
        heads = config.num_attention_heads
        return Shape(
            generation="ChatGLM-6B", groups=heads, head=config.hidden_size // heads, **common
        )
    raise ConfigError(
        f"{home / 'config.json'}: not a ChatGLM (found model_type {config.model_type!r}). "
        "Adapters are exchanged with ChatGLM-6B, ChatGLM2-6B and ChatGLM3-6B only."
    )
