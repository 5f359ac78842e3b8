"""Which examples make up which optimizer step, and the tensors of a forward pass.

The order is a pure function of the seed and the position, so that a resumed run needs to know only its
step. Each epoch is a permutation of its own; the epochs follow one another without a gap. Examples of
similar length are put into one step, which keeps padding low: a window of the stream is sorted by
length, cut into steps, and the steps are shuffled.
"""

from __future__ import annotations

import math
import random

import torch

from .encode import IGNORED, Example
from .job import TrainSpec

# Measured on 2,400 rows of 60 to 120 tokens in batches of 32: 16 steps leave 2 % padding, 1 leaves 24 %.
_WINDOW_STEPS = 16


class Schedule:
    """The plan of a run: how many steps, and the examples of each."""

    def __init__(self, lengths: list[int], spec: TrainSpec) -> None:
        self._lengths = lengths
        self._seed = spec.seed
        self._batch = spec.global_batch
        self._windows: dict[int, list[list[int]]] = {}
        asked = spec.max_steps * spec.global_batch
        self.total = asked or math.ceil(spec.epochs * len(lengths))
        self.steps = math.ceil(self.total / spec.global_batch)
        self.epochs = self.total / len(lengths)

    def examples(self, step: int) -> list[int]:
        """Return the indices of a step's examples, longest first; steps count from 0."""
        return self._window(step // _WINDOW_STEPS)[step % _WINDOW_STEPS]

    def _window(self, number: int) -> list[list[int]]:
        if number not in self._windows:
            self._windows = {number: self._arranged(number)}
        return self._windows[number]

    def _arranged(self, number: int) -> list[list[int]]:
        start = number * _WINDOW_STEPS * self._batch
        drawn = self._drawn(start, min(start + _WINDOW_STEPS * self._batch, self.total))
        drawn.sort(key=lambda i: (-self._lengths[i], i))
        steps = [drawn[i : i + self._batch] for i in range(0, len(drawn), self._batch)]
        random.Random(f"{self._seed}/window/{number}").shuffle(steps)
        return steps

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


def collate(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad examples on the right.

    Returns `input_ids: (batch, seq) int64; labels: same, -100 where not scored`. No attention mask:
    under causal attention no scored token can see the padding that follows it.
    """
    width = max(len(example.input_ids) for example in examples)
    ids = torch.zeros((len(examples), width), dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : len(example.input_ids)] = torch.tensor(example.input_ids)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    return ids, labels
