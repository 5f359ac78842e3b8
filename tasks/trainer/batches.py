"""Which examples make up which optimizer step, and the tensors of a forward pass.

The order is a pure function of the seed and the position, so that a resumed run needs to know only its
step. Each epoch is a permutation of its own; the epochs follow one another without a gap.

Padding is kept low in one of two ways:

* Length groups: a window of the stream is sorted by length, cut into steps, and the steps are shuffled.
* Packing: the steps are as they were drawn; within a step, examples share sequences. They do not see each
  other: positions begin again with each, and the view of the model makes the mask from them (`views.py`).

On 1,600 advertisements of 59 tokens in batches of 16, length groups read 5,400 tokens per second of CPU and
packing 4,500, with sequences of 256 tokens; 4,000 with sequences as long as the longest row of a step, 3,900
with 512. The mask costs what padding saves, so groups are the default.

A global batch that is larger than the dataset is the dataset: rows fill no step twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .encode import IGNORED, Example
from .job import TrainSpec

# Measured on 2,400 rows of 60 to 120 tokens in batches of 32: 16 steps leave 2 % padding, 1 leaves 24 %.
_WINDOW_STEPS = 16
_TOGETHER = 4


@dataclass(frozen=True)
class Batch:
    """The tensors of one forward pass, padded on the right."""

    input_ids: torch.Tensor
    """`(rows, width) int64`."""
    labels: torch.Tensor
    """`(rows, width) int64`, -100 where not scored. The model shifts."""
    positions: torch.Tensor | None = None
    """`(rows, width) int64`: 0 where an example begins; None when no two share a row."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        positions = None if self.positions is None else self.positions.to(device)
        return Batch(self.input_ids.to(device), self.labels.to(device), positions)


class Schedule:
    """The plan of a run: how many steps, and the examples of each."""

    def __init__(self, lengths: list[int], spec: TrainSpec) -> None:
        self._lengths = lengths
        self._seed = spec.seed
        self.batch = min(spec.global_batch, len(lengths))
        self._sorts = not spec.packing
        self._windows: dict[int, list[list[int]]] = {}
        asked = spec.max_steps * self.batch
        # 1.1 times 100 is 110.00000000000001, which must not ask for one row more
        self.total = asked or max(1, math.ceil(round(spec.epochs * len(lengths), 6)))
        self.steps = math.ceil(self.total / self.batch)
        self.epochs = self.total / len(lengths)

    def examples(self, step: int) -> list[int]:
        """Return the indices of a step's examples, longest first; steps count from 0."""
        return self._window(step // _WINDOW_STEPS)[step % _WINDOW_STEPS]

    def _window(self, number: int) -> list[list[int]]:
        if number not in self._windows:
            self._windows = {number: self._arranged(number)}
        return self._windows[number]

    def _arranged(self, number: int) -> list[list[int]]:
        start = number * _WINDOW_STEPS * self.batch
        drawn = self._drawn(start, min(start + _WINDOW_STEPS * self.batch, self.total))
        if self._sorts:
            drawn.sort(key=self._longest_first)
        steps = [drawn[i : i + self.batch] for i in range(0, len(drawn), self.batch)]
        if not self._sorts:
            return [sorted(step, key=self._longest_first) for step in steps]
        random.Random(f"{self._seed}/window/{number}").shuffle(steps)
        return steps

    def _longest_first(self, example: int) -> tuple[int, int]:
        return -self._lengths[example], example

    def _drawn(self, start: int, stop: int) -> list[int]:
        """Return a stretch of the stream of epochs."""
        rows = len(self._lengths)
        stream: list[int] = []
        for epoch in range(start // rows, (stop - 1) // rows + 1):
            order = list(range(rows))
            random.Random(f"{self._seed}/epoch/{epoch}").shuffle(order)
            stream += order
        offset = start // rows * rows
        return stream[start - offset : stop - offset]


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples on the right, a row for each.

    No attention mask: under causal attention no scored token can see the padding that follows it.
    """
    return _filled([[example] for example in examples], packed=False)


def passes(
    examples: Sequence[Example], rows: int, packing: bool, window: int | None = None
) -> list[Batch]:
    """Cut the examples of a step, longest first, into forward passes of at most so many sequences.

    Sequences that examples share are not longer than `window`, what the model holds.
    """
    sequences = _bins(examples, window) if packing else [[example] for example in examples]
    cut = (sequences[i : i + rows] for i in range(0, len(sequences), rows))
    return [_filled(part, packing) for part in cut]


def empty(example: Example) -> Batch:
    """Return an example of which nothing is scored: a pass of no weight."""
    ids = torch.tensor([example.input_ids])
    return Batch(ids, torch.full_like(ids, IGNORED))


def packed_length(lengths: Sequence[int], window: int | None = None) -> int:
    """Return how long a sequence is that rows of these lengths share, within what the model holds."""
    shared = -(-_TOGETHER * sum(lengths) // len(lengths))
    return max(max(lengths), shared if window is None else min(shared, window))


def _bins(examples: Sequence[Example], window: int | None) -> list[list[Example]]:
    """Put examples, longest first, each into the first sequence with room."""
    bins: list[list[Example]] = []
    rooms: list[int] = []
    if not examples:
        return bins
    most = packed_length([len(example.input_ids) for example in examples], window)
    for example in examples:
        length = len(example.input_ids)
        place = next((i for i, room in enumerate(rooms) if room >= length), None)
        if place is None:
            bins.append([example])
            rooms.append(most - length)
        else:
            bins[place].append(example)
            rooms[place] -= length
    return bins


def _filled(sequences: list[list[Example]], packed: bool) -> Batch:
    width = max(sum(len(e.input_ids) for e in sequence) for sequence in sequences)
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    labels = torch.full((len(sequences), width), IGNORED, dtype=torch.long)
    positions = torch.arange(width).repeat(len(sequences), 1)
    for row, sequence in enumerate(sequences):
        start = 0
        for example in sequence:
            end = start + len(example.input_ids)
            ids[row, start:end] = torch.tensor(example.input_ids)
            labels[row, start:end] = torch.tensor(example.labels)
            if start:
                # the token before it belongs to another example
                labels[row, start] = IGNORED
                positions[row, start:] = torch.arange(width - start)
            start = end
    return Batch(ids, labels, positions if packed else None)
