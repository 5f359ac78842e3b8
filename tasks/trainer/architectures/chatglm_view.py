"""Where the tokens of ChatGLM-6B stand, and what each of them sees.

A sequence is a prompt that ends with `[gMASK]`, then `<sop>` and the answer. Each token has two positions. In
the prompt the first counts tokens and the second is 0; from `<sop>` on the first stays at the place of
`[gMASK]` and the second counts 1, 2, … The prompt sees itself both ways; the answer sees the prompt and
itself up to each token.

Decisions: a tuned prefix has no position, the text starts at 0 behind it, as in the original. Padding on the
left has no position either and is seen by nobody, so that an answer does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..views import HIDDEN

if TYPE_CHECKING:
    from ..batches import Batch
    from .chatglm_config import ChatGlmConfig


@dataclass(frozen=True)
class Places:
    """The columns that decide where the tokens of each row stand, each `(rows,) int64`."""

    padding: Tensor
    """Columns of padding on the left."""
    gap: Tensor
    """Column of the place the answer fills, `[gMASK]`, or `[MASK]` where there is none."""
    start: Tensor
    """Column of `<sop>`; the width where it is missing."""

    @classmethod
    def of(cls, ids: Tensor, padding: Tensor, config: ChatGlmConfig) -> Places:
        """Find them in `ids (rows, width) int64`."""
        width = ids.shape[1]
        start = _first(ids, config.bos_token_id)
        gap = _first(ids, config.gmask_token_id)
        gap = torch.where(gap < width, gap, _first(ids, config.mask_token_id))
        return cls(padding, gap, start)

    def require(self, width: int) -> None:
        """Check that each row has its places.

        Raises:
            ValueError: A row lacks a token that decides; it would see the answer that it is to learn.
        """
        if not ((self.start < width) & (self.gap < width)).all():
            raise ValueError(
                "ChatGLM-6B: a row lacks [gMASK] or <sop>. Let the family render the prompt, or pass position_ids."
            )

    def positions(self, width: int) -> Tensor:
        """Return the two positions of each token, `(rows, 2, width) int64`."""
        columns = torch.arange(width, device=self.start.device)
        start, padding = self.start[:, None], self.padding[:, None]
        prompt = (columns - padding).clamp(min=0)
        first = torch.where(columns < start, prompt, (self.gap - self.padding)[:, None])
        return torch.stack((first, (columns - start + 1).clamp(min=0)), dim=1)


def _first(ids: Tensor, token: int | None) -> Tensor:
    """Return the first column of a token in each row, the width where it is missing."""
    found = ids == token
    return torch.where(found.any(1), found.int().argmax(1), ids.shape[1])


def seen(position_ids: Tensor) -> Tensor:
    """Return which column each token sees, padding aside, `(rows, width, width) bool`."""
    prompt = position_ids[:, 1] == 0
    width = prompt.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=prompt.device).tril()
    return earlier | prompt[:, None]


def derived(ids: Tensor | None, mask: Tensor | None, config: ChatGlmConfig) -> Tensor:
    """Return the positions of `ids`, whose padding on the left is where a 2-D mask says 0.

    Raises:
        ValueError: There are no ids, or a row lacks the tokens that decide.
    """
    if ids is None or (mask is not None and mask.dim() != 2):
        raise ValueError(
            "ChatGLM-6B: positions cannot be derived without ids and a 2-D mask. Pass position_ids."
        )
    width = ids.shape[1]
    filled = torch.ones_like(ids) if mask is None else mask[:, -width:].to(ids.device, torch.long)
    places = Places.of(ids, (filled.cumsum(1) == 0).sum(1), config)
    places.require(width)
    return places.positions(width)


def mask(
    given: Tensor | None, position_ids: Tensor, past: int, dtype: torch.dtype
) -> Tensor | None:
    """Return what is added to the scores, `(rows or 1, 1, width, columns)`; None where all is visible."""
    lowest = torch.finfo(dtype).min
    if given is not None and given.dim() == 4:
        if given.is_floating_point():
            return given.clamp(min=lowest).to(dtype)
        visible = given.bool()
    else:
        width = position_ids.shape[-1]
        if given is None and width == 1:
            return None
        visible = pad(seen(position_ids), (past, 0), value=True)[:, None]
        if given is not None:
            columns = pad(given.bool(), (past + width - given.shape[1], 0), value=True)
            visible = visible & columns[:, None, None]
    scores = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return scores.masked_fill(~visible, lowest)


class View:
    """What ChatGLM-6B gets beside its ids."""

    padding_first = False
    packs = False  # one row has one prompt that sees itself both ways and one place for `<sop>`

    def __init__(self, config: ChatGlmConfig) -> None:
        self._config = config

    def training(self, batch: Batch, prefix: int) -> dict[str, Any]:
        """Return mask and positions of rows padded on the right: `<sop>` says where their answers start.

        Raises:
            ValueError: The batch is packed, or a row has no answer.
        """
        if batch.positions is not None:
            raise ValueError("ChatGLM-6B: several examples in one sequence. Switch packing off.")
        ids = batch.input_ids
        padding = torch.zeros(ids.shape[0], dtype=torch.long, device=ids.device)
        places = Places.of(ids, padding, self._config)
        places.require(ids.shape[1])
        positions = places.positions(ids.shape[1])
        visible = pad(seen(positions), (prefix, 0), value=True)[:, None]
        mask = torch.zeros(visible.shape, device=ids.device).masked_fill(~visible, HIDDEN)
        return {"attention_mask": mask, "position_ids": positions}

    def passes(self, ids: Tensor, padding: Tensor, prefix: int, dtype: torch.dtype) -> _Passes:
        """Begin to answer prompts that are padded on the left.

        Raises:
            ValueError: A prompt does not end as it must.
        """
        places = Places.of(ids, padding, self._config)
        places.require(ids.shape[1])
        return _Passes(places, ids.shape[1], prefix, dtype)


class _Passes:
    """The columns are prefix, padding, prompt, answer."""

    def __init__(self, places: Places, width: int, prefix: int, dtype: torch.dtype) -> None:
        self._places, self._width, self._prefix = places, width, prefix
        self._dtype = dtype

    def inputs(self, step: int) -> dict[str, Tensor]:
        """Return mask and positions: of step 0 for the prompts, of step n for the nth token of each answer."""
        places = self._places
        columns = torch.arange(self._width + step, device=places.start.device)
        visible = (columns >= places.padding[:, None])[:, None]
        if step == 0:
            positions = places.positions(self._width)
            visible = visible & seen(positions)
        else:
            first, second = places.gap - places.padding, self._width - places.start + step
            positions = torch.stack((first, second), dim=1)[:, :, None]
        visible = pad(visible, (self._prefix, 0), value=True)[:, None]
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=positions.device)
        lowest = torch.finfo(self._dtype).min
        return {"attention_mask": mask.masked_fill(~visible, lowest), "position_ids": positions}

    def select(self, kept: Tensor) -> None:
        """Go on with these rows only."""
        was = self._places
        self._places = Places(was.padding[kept], was.gap[kept], was.start[kept])
