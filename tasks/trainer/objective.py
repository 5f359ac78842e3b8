"""What is minimised: the cross entropy of the answers.

Logits are computed from the first answer column on, not over the prompts. On a 1.6 M parameter model
with a vocabulary of 2,048 that saves a tenth of the time, and on a large vocabulary most of the memory.
Where examples share a sequence, only the columns that some row is scored at are computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from .batches import Batch
from .encode import IGNORED, Example
from .model import Loaded


def summed_loss(loaded: Loaded, batch: Batch) -> torch.Tensor:
    """Return the cross entropy summed over answer tokens, in nats; 0 where none is scored."""
    columns = _columns(batch)
    if not len(columns):
        columns = torch.tensor([0])
    on_device = batch.to(loaded.device)
    keep = columns.to(loaded.device)
    mixed = loaded.dtype != torch.float32
    with torch.autocast(loaded.device.type, loaded.dtype, enabled=mixed):
        logits = _logits(loaded, on_device, keep)
    targets = on_device.labels[:, keep + 1]
    return cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def scored(examples: Sequence[Example]) -> int:
    """Count the answer tokens."""
    return sum(label != IGNORED for example in examples for label in example.labels)


def _columns(batch: Batch) -> torch.Tensor:
    """Return the columns from which a scored token is told, `(columns,) int64`."""
    some = (batch.labels[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
    if batch.positions is None and len(some):
        return torch.arange(int(some[0]), batch.labels.shape[1] - 1)
    return some


def _logits(loaded: Loaded, batch: Batch, columns: torch.Tensor) -> torch.Tensor:
    rows = batch.input_ids.shape[0]
    beside: dict[str, Any] = {}
    tokens = 0
    if loaded.prefix is not None:
        tokens = loaded.prefix.tokens
        beside["past_key_values"] = loaded.prefix.cache(rows, growing=False)
    beside |= loaded.view.training(batch, tokens)
    kind: Any = type(loaded.model)
    if not _chooses_columns(kind):
        whole = loaded.model(input_ids=batch.input_ids, use_cache=False, **beside).logits
        return whole[:, columns]
    return loaded.model(
        input_ids=batch.input_ids, use_cache=False, logits_to_keep=columns, **beside
    ).logits


@lru_cache(maxsize=8)
def _chooses_columns(kind: Any) -> bool:
    """Say whether a model computes the logits of chosen columns only."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters
