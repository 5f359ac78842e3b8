"""Weights of 4 bits, on which QLoRA trains its adapters.

The linear layers of the blocks are quantised while they are loaded, tensor by tensor; embeddings, norms and the
output layer stay as they are. An adapter has learnt to correct just these rounded weights: put on the unrounded
ones, its logits differ by up to 0.3 on the tiny models of the tests. So a model is answered as it was trained.

What is not quantised stays in the number format of the forward pass, norms too, which compute in float32 inside;
peft's preparation for k-bit training would make all of it float32: of ChatGLM3-6B 1 GiB more, and a float32 output
layer. Nor need inputs have gradients, because layers are recomputed the non-reentrant way.

Needs bitsandbytes: `pip install '.[qlora]'`. It works without a GPU too, for tests.
Source: https://arxiv.org/abs/2305.14314 (QLoRA).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
from torch import nn

from ..errors import ConfigError
from ..job import Method, Qlora

# where it is installed, peft imports it for any method, and it warns about a kernel of the hub, never fetched here
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

_BLOCK = 64  # weights that share a scale
_SCALES = 256  # scales that share a scale, where they are quantised too


@dataclass(frozen=True)
class Bits:
    """How weights are quantised."""

    kind: Literal["nf4", "fp4"]
    """Number format of a weight."""
    double: bool
    """Whether the scales are quantised too."""
    compute: torch.dtype
    """Number format of the multiplication, to which weights are expanded each time."""

    @property
    def per_weight(self) -> float:
        """Bits that a weight costs, with its share of the scales."""
        scales = 8 / _BLOCK + 32 / (_BLOCK * _SCALES) if self.double else 32 / _BLOCK
        return 4 + scales

    def config(self) -> object:
        """Return the `BitsAndBytesConfig` with which transformers quantises while it loads.

        Raises:
            ConfigError: bitsandbytes is not installed.
        """
        require()
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.kind,
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=self.compute,
        )


def of(method: Method, compute: torch.dtype) -> Bits | None:
    """Return how the base of a method is quantised; None where it is not."""
    if not isinstance(method, Qlora):
        return None
    return Bits(method.quantisation, method.double, compute)


def require() -> None:
    """Check that weights can be quantised.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "method: qlora needs bitsandbytes, which is not installed. "
            "Run `pip install '.[qlora]'`, or choose lora."
        )


def settle(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking weights on the CPU at the first pass without gradients.

    It does so on processors with AVX512-BF16: a run that has measured its held-out loss would go on with other bits
    than one that was resumed after it, and layers whose width is no multiple of its blocks could not answer at all.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
