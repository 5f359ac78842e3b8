"""The optimizer steps of a training job, from wherever its last checkpoint left off.

Decisions:

* The loss of a step is the mean over all answer tokens of its global batch, however many forward
  passes the batch is cut into: the gradient does not depend on `micro_batch`.
* The learning rate and the order of the rows are functions of the step alone. What else a resumed run
  needs (weights, moments, torch's random stream, the losses so far) is in the checkpoint, so that it
  ends with the bits of a run that was never stopped. Python's and NumPy's streams are not used.
* A request to stop is seen between two forward passes. The step in progress is given up; the
  checkpoint is the one of the step before, with the random stream as it was then.
* A loss that is not finite stops the run before it reaches the weights.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch

from . import checkpoint, events
from .batches import Schedule, collate
from .checkpoint import Checkpoint
from .encode import Example
from .errors import ConfigError, Interrupted
from .job import TrainSpec
from .model import Loaded, within_memory
from .objective import scored, summed_loss
from .stopping import Stop

_METRIC_STEPS = 10
_PROGRESS_SECONDS = 0.5


def learning_rate(step: int, steps: int, spec: TrainSpec) -> float:
    """Return the rate of a step, counted from 0: it rises linearly, then decays towards 0."""
    warm = round(spec.warmup * steps)
    if step < warm:
        return spec.learning_rate * (step + 1) / warm
    done = (step - warm) / (steps - warm)
    shape = {
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - done,
        "constant": 1.0,
    }
    return spec.learning_rate * shape[spec.decay]


class Run:
    """The optimizer steps of one job, from wherever its last checkpoint left off."""

    def __init__(
        self,
        loaded: Loaded,
        spec: TrainSpec,
        rows: list[Example],
        dev: list[Example],
        work: Path,
        job: str,
        stop: Stop,
    ) -> None:
        self._loaded, self._spec, self._rows, self._dev = loaded, spec, rows, dev
        self._work, self._job, self._stop = work, job, stop
        self.schedule = Schedule([len(row.input_ids) for row in rows], spec)
        named = loaded.model.named_parameters()
        self._parameters = {name: p for name, p in named if p.requires_grad}
        self._optimizer = _optimizer(list(self._parameters.values()), spec)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._loss, self._tokens = 0.0, 0
        self._saved = -1
        _make_deterministic(loaded.device, spec.seed)

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = checkpoint.newest(self._work, self._job)
        if found is None:
            return
        for name, tensor in found.tensors["weights"].items():
            self._parameters[name].data.copy_(tensor)
        for place, tensor in found.tensors.get("optimizer", {}).items():
            name, _, moment = place.rpartition("/")
            parameter = self._parameters[name]
            self._optimizer.state[parameter][moment] = tensor.to(parameter.device)
        _set_streams(found.tensors["random"])
        self.history = found.values["history"]
        self._loss, self._tokens = found.values["loss"], found.values["tokens"]
        self.step = self._saved = found.step
        events.text(f"continues after step {self.step} of {self.schedule.steps}")

    def finish(self) -> None:
        """Take the steps that remain."""
        schedule = self.schedule
        events.text(
            f"{schedule.steps:,} steps of {self._spec.global_batch} rows, "
            f"{schedule.epochs:.2f} epochs"
        )
        began, spoke, tokens = time.monotonic(), 0.0, 0
        first = self.step
        self._loaded.model.train()
        while self.step < schedule.steps:
            tokens += self._advance()
            if time.monotonic() - spoke >= _PROGRESS_SECONDS or self.step == schedule.steps:
                spoke = time.monotonic()
                events.progress(self.step, schedule.steps, "step")
        seconds = time.monotonic() - began
        if self.step > first:
            events.text(
                f"{self.step - first:,} steps in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s"
            )
        self._loaded.model.train(False)

    def _advance(self) -> int:
        """Take one step; return the tokens it read."""
        streams = _streams(self._loaded.device)
        chosen = [self._rows[i] for i in self.schedule.examples(self.step)]
        try:
            self._update(chosen)
        except Interrupted:
            self._save(streams)
            raise
        self.step += 1
        last = self.step == self.schedule.steps
        keep = last or self.step % self._spec.checkpoint_steps == 0
        if keep or self.step % _METRIC_STEPS == 0:
            self._report(keep)
        if keep:
            self._save(_streams(self._loaded.device))
        return sum(len(row.input_ids) for row in chosen)

    def _update(self, chosen: list[Example]) -> None:
        tokens = scored(chosen)
        loss = 0.0
        size = self._spec.micro_batch or len(chosen)
        self._optimizer.zero_grad(set_to_none=True)
        for start in range(0, len(chosen), size):
            if self._stop.asked:
                raise Interrupted(f"interrupted after step {self.step}; run again to continue.")
            with within_memory("micro_batch, max_prompt_tokens or max_answer_tokens"):
                part = summed_loss(self._loaded, *collate(chosen[start : start + size]))
                torch.autograd.backward(part / tokens)
            loss += part.item()
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._check(loss / tokens, float(norm))
        if self._spec.clip:
            torch.nn.utils.clip_grads_with_norm_(self._parameters.values(), self._spec.clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate(self.step)
        self._optimizer.step()
        self._loss, self._tokens = self._loss + loss, self._tokens + tokens

    def _check(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        raise ConfigError(
            f"step {self.step + 1}: training diverges (loss {loss}, gradient norm {norm}, "
            f"learning_rate {self._spec.learning_rate}, {self._loaded.dtype}). "
            "Lower learning_rate, or set precision to float32."
        )

    def _rate(self, step: int) -> float:
        return learning_rate(step, self.schedule.steps, self._spec)

    def _report(self, keep: bool) -> None:
        point = {"loss": self._loss / self._tokens, "learning_rate": self._rate(self.step - 1)}
        if keep and self._dev:
            point["dev_loss"] = self._dev_loss()
        self._loss, self._tokens = 0.0, 0
        self.history.append({"step": self.step, **point})
        events.metric(self.step, **point)

    @torch.no_grad()
    def _dev_loss(self) -> float:
        """Return the mean loss over the answer tokens of the held-out rows."""
        self._loaded.model.train(False)
        size = self._spec.micro_batch or self._spec.global_batch
        rows = sorted(self._dev, key=lambda row: -len(row.input_ids))
        parts = (rows[i : i + size] for i in range(0, len(rows), size))
        loss = sum(summed_loss(self._loaded, *collate(part)).item() for part in parts)
        self._loaded.model.train()
        return loss / scored(rows)

    def _save(self, streams: dict[str, torch.Tensor]) -> None:
        if self._saved == self.step:
            return
        moments = {
            f"{name}/{moment}": value
            for name, parameter in self._parameters.items()
            for moment, value in self._optimizer.state[parameter].items()
        }
        values = {"history": self.history, "loss": self._loss, "tokens": self._tokens}
        tensors = {"weights": dict(self._parameters), "optimizer": moments, "random": streams}
        checkpoint.save(self._work, Checkpoint(self.step, self._job, tensors, values))
        self._saved = self.step


def _optimizer(parameters: list[torch.nn.Parameter], spec: TrainSpec) -> torch.optim.AdamW:
    """Decay matrices only: shrinking norms and biases towards 0 has no use."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)


def _make_deterministic(device: torch.device, seed: int) -> None:
    torch.manual_seed(seed)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def _streams(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of torch's random streams, on which dropout depends."""
    streams = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        streams["cuda"] = torch.cuda.get_rng_state(device)
    return streams


def _set_streams(streams: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(streams["cpu"])
    if "cuda" in streams:
        torch.cuda.set_rng_state(streams["cuda"])
