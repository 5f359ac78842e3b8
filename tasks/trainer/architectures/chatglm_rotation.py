"""Rotary positions of ChatGLM-6B: each half of a head turns by a position of its own.

Decision: rotation is rounded as the original rounds it. Its frequencies are float16 always; so are its angles
where it computes in float16, as in training. We do the latter in bfloat16 too, which knows no odd number above 256:
there the positions themselves would fall together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .chatglm_config import ChatGlmConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each `(rows, 1, width, head)`: the first half of a head for the first position."""


def rotation(position_ids: Tensor, config: ChatGlmConfig, dtype: torch.dtype) -> Rotation:
    """Return the rotation of heads at `position_ids (rows, 2, width)`."""
    half = config.hidden_size // config.num_attention_heads // 2
    steps = torch.arange(0, half, 2, device=position_ids.device).float() / half
    frequencies, exact = 1 / 10000**steps, torch.float32
    if config.half_precision_rope:
        frequencies = frequencies.half()
        exact = torch.float32 if dtype == torch.float32 else torch.float16
    angles = (position_ids[..., None].to(exact) * frequencies.to(exact)).float()
    angles = torch.cat((angles, angles), dim=-1)  # (rows, 2, width, half a head)
    angles = angles.transpose(1, 2).flatten(2)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotated(heads: Tensor, rotation: Rotation) -> Tensor:
    """Rotate `(rows, heads, width, head)`: within each half of a head, the second quarter against the first."""
    cos, sin = rotation
    quarters = heads.unflatten(-1, (2, 2, -1))
    turned = torch.stack((-quarters[..., 1, :], quarters[..., 0, :]), dim=-2).flatten(-3)
    return heads * cos + turned * sin
