"""Sees that a training has gone wrong, while the last good checkpoint still exists.

Three things end a run: a loss or gradient that is not a number or infinite, at once; a loss of 0 for ten
steps; an explosion.

A loss of 0 is what broken number formats give, and no text has it, unless the model has learnt its few rows
by heart. The two differ in how they get there: where one of the last losses was small but not 0, below 0.01,
the loss has come down step by step. That is said, and goes on.

A loss has exploded when it was above its bound for eight steps in a row. The bound is

    1.25 x the lowest mean of ten losses so far, or the first loss, + 1.5 nats + 5 x the noise

where noise is the median difference between neighbouring losses. It is never above twice the logarithm of
the vocabulary, the loss of guessing being once that, unless the untrained model was worse: the first loss
is that of weights that no step has changed. A spike that comes down again is no alarm: of 20,000 simulated
healthy runs of 300 steps, batches of one row among them, two were stopped: one at eight steps of spikes in a
row, one at five before its end (tests/test_guard.py simulates some of them). While a run is above its bound
it is suspected, and checkpoints wait, so that what is on the disk is from before.
"""

from __future__ import annotations

import math
from statistics import fmean, median
from typing import Any

from . import events

_ZERO = 1e-7
_ZEROS = 10
_BY_HEART = 0.01
_WINDOW = 10
_PATIENCE = 8
_PATIENCE_AT_END = 5


class Guard:
    """Looks at the loss of every step."""

    def __init__(self, vocabulary: int) -> None:
        self._ceiling = 2 * math.log(max(vocabulary, 3))
        self._recent: list[float] = []
        self._lowest = math.inf
        self._zeros = self._above = 0
        self._said = False

    @property
    def suspects(self) -> bool:
        """Whether the last step looked wrong, so that its state should replace no checkpoint."""
        return bool(self._zeros or self._above)

    def look(self, loss: float, norm: float, last: bool = False) -> str:
        """Take the mean loss and the gradient norm of a step; say what is wrong, empty when nothing is.

        Args:
            loss: Nats per token, before the step changes the weights.
            norm: Norm of the whole gradient.
            last: No step follows that could tell a spike from an explosion.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"the loss is {loss:g}, the gradient norm {norm:g}"
        if loss < _ZERO:
            return self._zero()
        self._zeros = 0
        if not self._recent:
            self._ceiling = max(self._ceiling, self._bound_over(loss))
        bound = self._bound()
        self._above = self._above + 1 if loss > bound else 0
        if self._above >= (_PATIENCE_AT_END if last else _PATIENCE):
            return (
                f"the loss is {loss:.3f} and has been above {bound:.3f} for {self._above} steps, "
                f"its lowest was {self._lowest:.3f}"
            )
        if not self._above:
            self._learn(loss)
        return ""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to know."""
        return {
            "recent": self._recent,
            "lowest": None if math.isinf(self._lowest) else self._lowest,
            "zeros": self._zeros,
            "above": self._above,
            "ceiling": self._ceiling,
            "said": self._said,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._recent = list(state["recent"])
        self._lowest = math.inf if state["lowest"] is None else state["lowest"]
        self._zeros, self._above = state["zeros"], state["above"]
        self._ceiling, self._said = state["ceiling"], state["said"]

    def _zero(self) -> str:
        """Take a loss of 0: an alarm, or rows that are known by heart."""
        self._above = 0
        if min(self._recent, default=math.inf) < _BY_HEART:
            if not self._said:
                events.text(
                    "warning: the loss is 0: the model knows its rows by heart, and further steps teach nothing"
                )
            self._said = True
            return ""
        self._zeros += 1
        return f"the loss has been 0 for {self._zeros} steps" if self._zeros >= _ZEROS else ""

    def _bound(self) -> float:
        if len(self._recent) < _WINDOW:
            return self._ceiling
        pairs = zip(self._recent, self._recent[1:], strict=False)
        noise = median(abs(b - a) for a, b in pairs)
        return min(self._ceiling, self._bound_over(self._lowest) + 5 * noise)

    @staticmethod
    def _bound_over(lowest: float) -> float:
        return 1.25 * lowest + 1.5

    def _learn(self, loss: float) -> None:
        if not self._recent:
            self._lowest = loss
        self._recent = [*self._recent, loss][-2 * _WINDOW :]
        if len(self._recent) >= _WINDOW:
            self._lowest = min(self._lowest, fmean(self._recent[-_WINDOW:]))
