"""The keys and values of answers in progress, in buffers with room for more.

transformers' own cache joins all it holds with the next token, in every layer at every step. Here a token is written
where there is room, and what is held is copied once in 64 tokens. The numbers are the same.

A tuned prefix is there from the beginning. Where a model counts distance in columns, it stands between the padding of
a prompt and its first token, so that an answer does not depend on who else is asked; else before the padding.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64


def begun(prefix: Cache | None, padding: torch.Tensor | None) -> Cache:
    """Return a cache for prompts that are padded on the left.

    Args:
        prefix: Holds the keys and values of a tuned prefix for each row.
        padding: `(rows,) int64`, the columns before each prompt, if the prefix has to stand behind them.
    """
    if prefix is None:
        return Cache(layer_class_to_replicate=_Roomy)
    return Cache(layers=[_Prefixed(layer.keys, layer.values, padding) for layer in prefix.layers])


class _Roomy(DynamicLayer):
    """One layer: `keys` and `values` are the taken columns of buffers `(rows, heads, columns, width)`."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin with nothing."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self._buffers = [self.keys, self.values]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the columns of a forward pass and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        taken = self.keys.shape[-2]
        used = taken + key_states.shape[-2]
        if used > self._buffers[0].shape[-2]:
            self._make_room(used + _ROOM)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, taken:used] = states
        self.keys, self.values = (buffer[:, :, :used] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        used = self.keys.shape[-2]
        self._buffers = [buffer.index_select(0, indices) for buffer in self._buffers]
        self.keys, self.values = (buffer[:, :, :used] for buffer in self._buffers)

    def _make_room(self, columns: int) -> None:
        held = (self.keys, self.values)
        self._buffers = [each.new_empty(*each.shape[:2], columns, each.shape[3]) for each in held]
        for buffer, states in zip(self._buffers, held, strict=True):
            buffer[:, :, : states.shape[-2]] = states


class _Prefixed(_Roomy):
    """Begins with a prefix; the first pass of the prompts brings it behind their padding, where that is asked."""

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, padding: torch.Tensor | None
    ) -> None:
        super().__init__()
        self._padding = padding
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the columns of a forward pass and return all."""
        prefix = self.keys.shape[-2]
        keys, values = super().update(key_states, value_states)
        if self._padding is not None:
            places = _behind(self._padding, prefix, keys.shape[-2])[:, None, :, None]
            for states in (keys, values):
                states.copy_(states.gather(-2, places.expand(states.shape)))
            self._padding = None
        return keys, values


def _behind(padding: torch.Tensor, prefix: int, width: int) -> torch.Tensor:
    """Return which column of prefix, padding, prompt goes where, `(rows, width) int64`."""
    columns = torch.arange(width, device=padding.device)[None]
    padding = padding[:, None]
    moved = torch.where(columns < padding, columns + prefix, columns - padding)
    return torch.where(columns < padding + prefix, moved, columns)
