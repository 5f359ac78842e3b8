"""Which weights are the result, and when further steps are of no use: what the held-out loss decides.

The best weights lie beside the checkpoints, in `work/best`, written and verified like them. They are
written before the checkpoint that knows of them, and two are kept, so that after a kill at any moment the
checkpoint that is taken up finds the best of its time; what a later, lost step wrote is cleared.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.nn import Parameter

from . import checkpoint, events
from .checkpoint import Checkpoint
from .errors import ConfigError
from .job import TrainSpec
from .parts import Found
from .team import Team


class Keeper:
    """Compares the measurements of the held-out loss."""

    def __init__(self, spec: TrainSpec, work: Path, job: str, team: Team) -> None:
        self._keeps, self._patience = spec.keep == "best", spec.patience
        self._folder, self._job, self._team = work / "best", job, team
        self.step = 0
        """Step of the lowest loss; 0 before the first measurement."""
        self._loss = math.inf
        self._worse = 0

    @property
    def done(self) -> bool:
        """Whether the loss has not fallen so often that no step is to follow."""
        return 0 < self._patience <= self._worse

    def measured(self, step: int, loss: float, parameters: Mapping[str, Parameter]) -> None:
        """Take a held-out loss; keep the weights if it is the lowest.

        Raises:
            ConfigError: The weights cannot be written.
        """
        if loss >= self._loss:
            self._worse += 1
            return
        self.step, self._loss, self._worse = step, loss, 0
        if self._keeps:
            best = Checkpoint(step, self._job, {"weights": dict(parameters)}, {"dev_loss": loss})
            checkpoint.save(self._folder, best, self._team)

    def take(self, last: int, parameters: Mapping[str, Parameter]) -> int:
        """Make the weights the result: put the best back, if they are to be; return their step."""
        if self.done:
            events.text(
                f"stopped after step {last}: the held-out loss has not fallen at {self._worse} "
                f"measurements since step {self.step}, where it was {self._loss:.4f}"
            )
        if not self._keeps:
            return last
        found = self._found()
        if found is None:
            raise ConfigError(
                f"{self._folder}: the weights of step {self.step} are damaged. "
                "Clear the work directory and train again."
            )
        for name, parameter in parameters.items():
            found.read("weights", name, into=parameter)
        events.text(f"the result is step {self.step}, held-out loss {self._loss:.4f}")
        return self.step

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to know."""
        loss = None if math.isinf(self._loss) else self._loss
        return {"step": self.step, "loss": loss, "worse": self._worse}

    def restore(self, state: dict[str, Any]) -> bool:
        """Take up what `state` returned; False if the weights that go with it are not there."""
        self.step, self._worse = state["step"], state["worse"]
        self._loss = math.inf if state["loss"] is None else state["loss"]
        if not self._keeps:
            return True
        self._clear_after(self.step)
        return not self.step or self._found() is not None

    def forget(self) -> None:
        """Begin anew."""
        self.step, self._loss, self._worse = 0, math.inf, 0
        if self._keeps:
            self._clear_after(0)

    def _clear_after(self, step: int) -> None:
        if self._team.local_rank == 0:
            for path in self._folder.glob("step-*"):
                if int(path.name.removeprefix("step-")) > step:
                    shutil.rmtree(path, ignore_errors=not self._team.alone)
        self._team.wait()

    def _found(self) -> Found | None:
        found = checkpoint.newest(self._folder, self._job, self._team)
        return found if found is not None and found.step == self.step else None
