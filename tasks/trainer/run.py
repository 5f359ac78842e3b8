"""The optimizer steps of a training job, from wherever its last checkpoint left off.

Decisions:

* The loss of a step is the mean over all answer tokens of its global batch, however many forward
  passes and processes the batch is cut into: the gradient does not depend on `micro_batch`.
* The learning rate and the order of the rows are functions of the step alone. What else a resumed run
  needs (weights, moments, torch's random stream, the losses so far, what guard and keeper have seen,
  the rows of a pass) is in the checkpoint, so that it ends with the bits of a run that was never stopped.
* A request to stop is seen between two forward passes. The step in progress is given up; the
  checkpoint is the one of the step before, with the random stream as it was then. A measurement of
  the held-out loss that is given up is made by the run that continues.
* The held-out loss is measured by steps only, never by the clock, so that the curve is a function of
  the job. Checkpoints are written by both.
* A step that the guard suspects (`guard.py`) replaces no checkpoint.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import checkpoint, events, inspection, memory, streams
from .batches import Schedule
from .checkpoint import Checkpoint
from .curve import Curve
from .encode import Example
from .errors import ConfigError, Interrupted
from .guard import Guard
from .job import TrainSpec
from .keeping import Keeper
from .metering import Meter
from .model import Loaded
from .objective import scored
from .optimizer import Optimizer
from .parts import Found
from .passes import Passes
from .rates import learning_rate
from .stopping import Stop
from .team import Team

_METRIC_STEPS = 10
_PROGRESS_SECONDS = 0.5


class Run:
    """The optimizer steps of one job."""

    def __init__(
        self,
        loaded: Loaded,
        spec: TrainSpec,
        rows: list[Example],
        dev: list[Example],
        work: Path,
        job: str,
        stop: Stop,
        team: Team | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loaded, self._spec, self._rows, self._dev = loaded, spec, rows, dev
        self._work, self._job, self._clock = work, job, clock
        self._team = team or Team.single()
        self.schedule = Schedule([len(row.input_ids) for row in rows], spec)
        self._parameters = loaded.trainable()
        self._optimizer = Optimizer(self._parameters, spec, self._team)
        self._passes = Passes(loaded, spec, stop, self._team)
        self._guard = Guard(loaded.model.config.vocab_size)
        self._keeper = Keeper(spec, work, job, self._team)
        self.step = 0
        self.curve = Curve()
        self._saved, self._postponed = -1, False
        streams.begin(loaded.device, spec.seed + self._team.rank)

    @property
    def history(self) -> list[dict[str, float]]:
        """The points of the curve so far."""
        return self.curve.history

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = checkpoint.newest(self._work, self._job, self._team)
        if found is None:
            self._keeper.forget()
        elif self._keeper.restore(found.values["keeper"]):
            self._take_up(found)
            events.text(f"continues after step {self.step} of {self.schedule.steps}")
        else:
            events.text("the best weights so far are damaged: begins again from the first step")
            self._keeper.forget()
            self._forget()

    def finish(self) -> int:
        """Take the steps that remain; return the step whose weights are the result.

        Raises:
            ConfigError: The training diverges, or the memory does not suffice.
            Interrupted: Asked to stop; a checkpoint is saved.
        """
        if not self._passes.rows:
            rows = [*self._rows, *self._dev]
            share = -(-self.schedule.batch // self._team.size)
            self._passes.rows = memory.rows_of_a_pass(
                self._loaded, self._spec, rows, share, self._team
            )
        self._meter = Meter(self._loaded.device, self._team)
        self._last_save, first, spoke = self._clock(), self.step, 0.0
        self._loaded.model.train()
        if self._owes_report():
            self._between(self._report)
        while not self._ended():
            self._advance()
            if time.monotonic() - spoke >= _PROGRESS_SECONDS or self._ended():
                spoke = time.monotonic()
                events.progress(self.step, self.schedule.steps, "step")
        if self.step > first:
            self._meter.say(self.step - first)
        if self._guard.suspects:
            events.text(
                "warning: the loss of the last step is far from what it was before; what comes out may be of no "
                f"use. The last good checkpoint: {self._last_good()}"
            )
        self._loaded.model.train(False)
        return self._keeper.take(self.step, self._parameters)

    def _ended(self) -> bool:
        return self.step == self.schedule.steps or self._keeper.done

    def _advance(self) -> None:
        self._between(self._take_step)
        if self._owes_report():
            self._between(self._report)
        self._checkpoint()

    def _between(self, work: Callable[[], None]) -> None:
        """Do what is given up on request: the state before it is then saved."""
        before = streams.states(self._loaded.device)
        try:
            work()
        except Interrupted:
            self._save(before)
            done = max(self._saved, 0)  # a step that is suspected is not saved
            raise Interrupted(f"interrupted after step {done}; run again to continue.") from None

    def _take_step(self) -> None:
        chosen = [self._rows[i] for i in self.schedule.examples(self.step)]
        rate = learning_rate(self.step, self.schedule.steps, self._spec)
        self._optimizer.forget_gradients()
        with memory.sufficing(self._passes.rows):
            loss = self._passes.backward(chosen)
            if self.step == 0:
                inspection.gradients(self._parameters)
            norm = self._optimizer.clip()
            tokens = scored(chosen)
            last = self.step + 1 == self.schedule.steps
            self._refuse(self._guard.look(loss / tokens, norm, last))
            self._optimizer.step(rate)
        read = sum(len(row.input_ids) for row in chosen)
        self.curve.add(loss, tokens, norm, read)
        self._meter.read(read)
        self.step += 1

    def _refuse(self, trouble: str) -> None:
        if not trouble:
            return
        precise = self._loaded.dtype == torch.float32
        raise ConfigError(
            f"step {self.step + 1}: training diverges ({trouble}; learning_rate "
            f"{self._spec.learning_rate:g}, {self._loaded.dtype}). The last good checkpoint: "
            f"{self._last_good()}. Lower learning_rate{'' if precise else ', or set precision to float32'}."
        )

    def _last_good(self) -> str:
        return f"{self._work}/step-{self._saved:06d}" if self._saved >= 0 else "none"

    def _is_due(self) -> bool:
        """Say whether this is a step at which the held-out loss is measured and a checkpoint written."""
        last = self.step == self.schedule.steps
        return last or self.step % self._spec.checkpoint_steps == 0

    def _owes_report(self) -> bool:
        due = self.step > 0 and (self._is_due() or self.step % _METRIC_STEPS == 0)
        return due and self.curve.last < self.step

    def _report(self) -> None:
        rate = learning_rate(self.step - 1, self.schedule.steps, self._spec)
        point = self.curve.point(rate)
        if self._dev and self._is_due():
            point["dev_loss"] = self._passes.loss(self._dev) / scored(self._dev)
            if not math.isfinite(point["dev_loss"]):
                self._refuse(f"the held-out loss is {point['dev_loss']:g}")
            self._keeper.measured(self.step, point["dev_loss"], self._parameters)
        self.curve.close(self.step, point)
        events.metric(self.step, **point, **self._meter.rates())

    def _checkpoint(self) -> None:
        """Save if it is time by steps or by the clock."""
        minutes = self._spec.checkpoint_minutes
        late = minutes > 0 and self._clock() - self._last_save >= 60 * minutes
        # each process has a clock of its own
        late = minutes > 0 and self._team.agree(late)
        if self._is_due() or late or self._keeper.done or self._postponed:
            self._save(streams.states(self._loaded.device))

    def _save(self, random: dict[str, torch.Tensor]) -> None:
        if self._saved == self.step:
            return
        self._postponed = self._guard.suspects
        if self._postponed:
            return
        tensors = {
            "weights": dict(self._parameters),
            "optimizer": self._optimizer.moments(),
            "random": random,
        }
        state = Checkpoint(self.step, self._job, tensors, self._values())
        checkpoint.save(self._work, state, self._team)
        self._saved, self._last_save = self.step, self._clock()

    def _values(self) -> dict[str, Any]:
        return {
            "curve": self.curve.state(),
            "rows": self._passes.rows,
            "guard": self._guard.state(),
            "keeper": self._keeper.state(),
        }

    def _take_up(self, found: Found) -> None:
        for name, parameter in self._parameters.items():
            found.read("weights", name, into=parameter)
        self._optimizer.restore(found)
        if found.random:
            streams.restore(found.random, self._loaded.device)
        self.curve.restore(found.values["curve"])
        self._passes.rows = found.values["rows"]
        self._guard.restore(found.values["guard"])
        self.step = self._saved = found.step

    def _forget(self) -> None:
        if self._team.local_rank == 0:
            for path in self._work.glob("step-*"):
                shutil.rmtree(path, ignore_errors=not self._team.alone)
        self._team.wait()
