"""What a model gets beside its ids, so that every token sees what it should: masks and positions.

Decisions:

* Masks and positions are built here and passed finished. What a model derives by itself is wrong for some family
  whenever padding, a prefix or several rows in one sequence come together, and costs time in each step.
* Masks are 4-D and of a float type: what no token may see is the lowest number, all else 0. Of the forms that were
  tried it is the only one that is right in every family: boolean ones are wrong under eager attention, and a mask
  of ones lets packed rows see each other.
* With a prefix the columns are prefix, padding, prompt, answer; positions go on after the prefix and leave out the
  padding. Where distance is counted in columns (ALiBi), the padding comes first instead.

A model with other rules brings a view of its own (`architectures/chatglm.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from .batches import Batch

HIDDEN = torch.finfo(torch.bfloat16).min
"""Stands in the masks of training for what no token may see; every number format we train in holds it."""


class Passes(Protocol):
    """The forward passes over prompts that are answered together."""

    def inputs(self, step: int) -> dict[str, torch.Tensor]:
        """Return what goes with the ids: of step 0 the prompts, of step n the nth token of each answer."""

    def select(self, kept: torch.Tensor) -> None:
        """Go on with these rows only: `(rows,) int64`, places among those there are."""


class View(Protocol):
    """How one kind of model sees its ids."""

    packs: bool
    """Whether several examples may share a sequence."""
    padding_first: bool
    """Whether the padding of a prompt stands before a tuned prefix, not behind it."""

    def training(self, batch: Batch, prefix: int) -> dict[str, Any]:
        """Return what goes with `batch.input_ids`, on their device, behind a prefix of so many tokens."""

    def passes(
        self, ids: torch.Tensor, padding: torch.Tensor, prefix: int, dtype: torch.dtype
    ) -> Passes:
        """Begin to answer: `ids (rows, width) int64` padded on the left, `padding (rows,) int64`."""


def of(model: PreTrainedModel) -> View:
    """Return the view of a model; sharding derives a class from the model's own."""
    classes = {kind.__name__ for kind in type(model).__mro__}
    if "ChatGlmForCausalLM" in classes:
        from .architectures import chatglm

        return chatglm.View(model.config)
    return Alibi() if "MptForCausalLM" in classes else Causal()


def window(config: PreTrainedConfig) -> int | None:
    """Return how many tokens a model holds, its prefix included; None where it does not say.

    Our masks know no sliding window: where one would begin to slide, the model ends.
    """
    names = ("max_position_embeddings", "max_seq_len", "sliding_window")
    return min((int(n) for n in (getattr(config, name, None) for name in names) if n), default=None)


class Causal:
    """Every token sees those before it; positions are counted in tokens."""

    packs = True
    padding_first = False

    def training(self, batch: Batch, prefix: int) -> dict[str, Any]:
        """Return mask and positions where the model's own would not do."""
        if batch.positions is None and prefix == 0:
            return {}  # padding is on the right, where no scored token looks
        positions = batch.positions
        if positions is None:
            positions = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)[None]
        return {"attention_mask": _training_mask(batch, prefix), "position_ids": positions + prefix}

    def passes(
        self, ids: torch.Tensor, padding: torch.Tensor, prefix: int, dtype: torch.dtype
    ) -> Passes:
        """Begin to answer."""
        return _CausalPasses(ids.shape[1], padding, prefix, dtype)


class Alibi:
    """Every token sees those before it, less the further away, counted in columns: no positions (MPT)."""

    packs = True
    padding_first = True

    def training(self, batch: Batch, prefix: int) -> dict[str, Any]:
        """Return the mask where the model's own would not do."""
        if batch.positions is None and prefix == 0:
            return {}
        return {"attention_mask": _training_mask(batch, prefix)}

    def passes(
        self, ids: torch.Tensor, padding: torch.Tensor, prefix: int, dtype: torch.dtype
    ) -> Passes:
        """Begin to answer."""
        return _AlibiPasses(ids.shape[1], padding, prefix, dtype)


def _training_mask(batch: Batch, prefix: int) -> torch.Tensor:
    """Return `(rows or 1, 1, width, prefix + width)`: a token sees the prefix and its own example up to itself."""
    width, device = batch.input_ids.shape[1], batch.input_ids.device
    later = torch.ones(width, width, dtype=torch.bool, device=device).triu(1)[None]
    if batch.positions is not None:
        example = (batch.positions == 0).cumsum(1)
        later = later | (example[:, :, None] != example[:, None, :])
    mask = torch.zeros(later.shape, device=device).masked_fill(later, HIDDEN)
    return torch.nn.functional.pad(mask, (prefix, 0))[:, None]


class _CausalPasses:
    """The columns are prefix, padding, prompt, answer."""

    def __init__(self, width: int, padding: torch.Tensor, prefix: int, dtype: torch.dtype) -> None:
        self._width, self._prefix, self._padding = width, prefix, padding
        self._lowest = torch.finfo(dtype).min
        columns = torch.arange(prefix + width, device=padding.device)
        self._hidden = self._places(columns).to(dtype) * self._lowest

    def _places(self, columns: torch.Tensor) -> torch.Tensor:
        """Return where the padding is, `(rows, prefix + width) bool`."""
        return (columns >= self._prefix) & (columns < self._prefix + self._padding[:, None])

    def inputs(self, step: int) -> dict[str, torch.Tensor]:
        """Return mask and positions."""
        if step == 0:
            return {"attention_mask": self._first(), "position_ids": self._first_positions()}
        mask = torch.nn.functional.pad(self._hidden, (0, step))[:, None, None]
        position = self._prefix + self._width - 1 + step
        return {"attention_mask": mask, "position_ids": (position - self._padding)[:, None]}

    def _first(self) -> torch.Tensor:
        later = torch.full(
            (self._width, self._width), self._lowest, device=self._padding.device
        ).triu(1)
        later = torch.nn.functional.pad(later, (self._prefix, 0)).to(self._hidden.dtype)
        # two hidden on top of each other would be minus infinity, and a row of those no number
        return (later + self._hidden[:, None, None]).clamp(min=self._lowest)

    def _first_positions(self) -> torch.Tensor:
        columns = torch.arange(self._width, device=self._padding.device)
        return self._prefix + (columns - self._padding[:, None]).clamp(min=0)

    def select(self, kept: torch.Tensor) -> None:
        """Go on with these rows only."""
        self._hidden, self._padding = self._hidden[kept], self._padding[kept]


class _AlibiPasses(_CausalPasses):
    """The columns are padding, prefix, prompt, answer: distances do not depend on who else is asked."""

    def _places(self, columns: torch.Tensor) -> torch.Tensor:
        return columns < self._padding[:, None]

    def inputs(self, step: int) -> dict[str, torch.Tensor]:
        """Return the mask."""
        return {"attention_mask": super().inputs(step)["attention_mask"]}
