"""The losses of a run: summed over the steps between two points, and the points so far.

Everything here is a function of the job, to the bit: what a run measured of its speed is in `metering.py`.
"""

from __future__ import annotations

from typing import Any


class Curve:
    """Collects what the steps say."""

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        """The points so far."""
        self.tokens = 0
        """Tokens read so far, prompts included."""
        self._loss, self._scored, self._norm = 0.0, 0, 0.0

    @property
    def last(self) -> int:
        """The step of the last point; 0 where there is none."""
        return int(self.history[-1]["step"]) if self.history else 0

    def add(self, loss: float, scored: int, norm: float, read: int) -> None:
        """Take a step: its summed loss over so many scored tokens, its gradient norm, the tokens it read."""
        self._loss, self._scored, self._norm = self._loss + loss, self._scored + scored, norm
        self.tokens += read

    def point(self, rate: float) -> dict[str, float]:
        """Return the mean loss since the last point, and rate and gradient norm of the last step."""
        return {
            "loss": self._loss / self._scored,
            "learning_rate": rate,
            "gradient_norm": self._norm,
            "tokens": self.tokens,
        }

    def close(self, step: int, point: dict[str, float]) -> None:
        """Keep a point, and begin the next."""
        self._loss, self._scored = 0.0, 0
        self.history.append({"step": step, **point})

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to know."""
        return {
            "history": self.history,
            "tokens": self.tokens,
            "loss": self._loss,
            "scored": self._scored,
            "norm": self._norm,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.history, self.tokens = state["history"], state["tokens"]
        self._loss, self._scored, self._norm = state["loss"], state["scored"], state["norm"]
