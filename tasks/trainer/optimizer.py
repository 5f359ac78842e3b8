"""AdamW over what is trained, with the norm of its gradient and the moments that a checkpoint keeps."""

from __future__ import annotations

import torch

from .job import TrainSpec
from .parts import Found
from .sharding import clip
from .team import Team


class Optimizer:
    """Changes the parameters of a run."""

    def __init__(
        self, parameters: dict[str, torch.nn.Parameter], spec: TrainSpec, team: Team
    ) -> None:
        self._parameters, self._team = parameters, team
        self._limit = spec.clip
        # shrinking norms and biases towards 0 has no use
        matrices = [p for p in parameters.values() if p.ndim >= 2]
        others = [p for p in parameters.values() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": spec.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)

    def forget_gradients(self) -> None:
        """Free the gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def clip(self) -> float:
        """Shorten the gradient to the limit of the spec; return the norm it had."""
        return clip(self._parameters.values(), self._limit, self._team)

    def step(self, rate: float) -> None:
        """Change the parameters by their gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()

    def moments(self) -> dict[str, torch.Tensor]:
        """Return the moments by `parameter/moment`."""
        return {
            f"{name}/{moment}": value
            for name, parameter in self._parameters.items()
            for moment, value in self._adamw.state[parameter].items()
        }

    def restore(self, found: Found) -> None:
        """Take up the moments of a checkpoint."""
        for place in found.names("optimizer"):
            name, _, moment = place.rpartition("/")
            parameter = self._parameters[name]
            if moment == "step":
                value = found.whole("optimizer", place).to(parameter.device)
            else:
                value = torch.zeros_like(parameter, requires_grad=False)
                found.read("optimizer", place, into=value)
            self._adamw.state[parameter][moment] = value
