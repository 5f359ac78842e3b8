"""The forward and backward passes over the examples of a step, however many the memory takes at once.

Decisions:

* Between two passes the processes of a team tell each other, in one message, whether one was asked to stop
  or has no memory left. Alone, that is a look at a flag.
* Where the memory does not suffice, the passes are halved and the step begins again from its start, with the
  random streams as they were: the result is that of a run with smaller passes from this step on.
* All processes make the same number of passes, because sharded weights are gathered in each. One that has
  no examples left passes a row of which nothing is scored.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from . import batches, events, memory, streams, views
from .batches import Batch
from .encode import Example
from .errors import ConfigError, Interrupted
from .job import TrainSpec
from .model import Loaded
from .objective import scored, summed_loss
from .parts import sharded
from .stopping import Stop
from .team import Team

_GO, _STOP, _FULL = range(3)


class Passes:
    """Runs examples through the model."""

    def __init__(self, loaded: Loaded, spec: TrainSpec, stop: Stop, team: Team) -> None:
        self._loaded, self._packing = loaded, spec.packing
        self._window = views.window(loaded.model.config)
        self._stop, self._team = stop, team
        self._parameters = list(loaded.trainable().values())
        # not what is trained: a prefix is whole where the model behind it is spread
        self._sharded = any(map(sharded, loaded.model.parameters()))
        self.rows = 0
        """Rows of a pass; 0 until it is known what the memory takes."""

    def backward(self, examples: Sequence[Example]) -> float:
        """Leave the gradient of the mean loss over the answer tokens; return the summed loss.

        Raises:
            ConfigError: Not even one row fits into the memory.
            Interrupted: Asked to stop between two passes.
        """
        tokens = scored(examples)

        def one(batch: Batch) -> float:
            part = summed_loss(self._loaded, batch)
            torch.autograd.backward(part / tokens)
            return part.item()

        loss = self._summed(examples, one)
        self._team.add_gradients(self._parameters)
        return loss

    @torch.no_grad()
    def loss(self, examples: Sequence[Example]) -> float:
        """Return the summed loss, without dropout and gradients.

        Raises:
            ConfigError: Not even one row fits into the memory.
            Interrupted: Asked to stop between two passes.
        """
        self._loaded.model.train(False)
        try:
            longest_first = sorted(examples, key=lambda row: -len(row.input_ids))
            return self._summed(
                longest_first, lambda batch: summed_loss(self._loaded, batch).item()
            )
        finally:
            self._loaded.model.train()

    def _summed(self, examples: Sequence[Example], one: Callable[[Batch], float]) -> float:
        before = streams.states(self._loaded.device)
        while (loss := self._tried(examples, one)) is None:
            self._halve()
            for parameter in self._parameters:
                parameter.grad = None
            streams.restore(before, self._loaded.device)
        return self._team.total(loss)[0]

    def _tried(self, examples: Sequence[Example], one: Callable[[Batch], float]) -> float | None:
        """Make the passes; None when the memory of some process did not suffice."""
        mine = self._team.share(examples)
        cut = batches.passes(mine, self.rows, self._packing, self._window)
        cut += [batches.empty(examples[-1])] * (self._team.most(len(cut)) - len(cut))
        loss, full = 0.0, False
        for batch in cut:
            state = self._team.most(_FULL if full else _STOP if self._stop.asked else _GO)
            if state == _STOP:
                raise Interrupted("interrupted between two passes.")
            if state == _FULL:
                return None
            part = self._within_memory(one, batch)
            full = part is None
            loss += part or 0.0
        return None if self._team.agree(full) else loss

    def _within_memory(self, one: Callable[[Batch], float], batch: Batch) -> float | None:
        try:
            return one(batch)
        except RuntimeError as error:
            if not memory.exhausted(error):
                raise
            if self._sharded:
                # the others wait in the middle of the pass for this one's part of the weights
                raise ConfigError(memory.advice(error, self.rows)) from error
            if self.rows == 1:
                raise ConfigError(memory.advice(error, 1)) from error
        return None

    def _halve(self) -> None:
        before, self.rows = self.rows, (self.rows + 1) // 2
        gc.collect()
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()
        events.text(
            f"memory: passes of {before} rows do not fit; from here on {self.rows} rows a pass, "
            "the step begins again"
        )
