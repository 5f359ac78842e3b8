"""How fast a training is and how much memory it takes: measured, said, and kept out of the result.

The result of equal jobs is equal to the byte, and no two runs are equally fast.
"""

from __future__ import annotations

import time

import torch

from . import events, room
from .team import Team

_GIB = 2**30


class Meter:
    """Counts the tokens that all processes read."""

    def __init__(self, device: torch.device, team: Team) -> None:
        self._device, self._team = device, team
        self._began = self._looked = time.monotonic()
        self._tokens = self._since = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self, tokens: int) -> None:
        """Note the tokens of a step."""
        self._tokens += tokens
        self._since += tokens

    def rates(self) -> dict[str, float]:
        """Return tokens a second since the last look, and the peak memory of the fullest process."""
        now = time.monotonic()
        speed = self._since / max(now - self._looked, 1e-9)
        self._looked, self._since = now, 0
        return {
            "tokens_per_second": round(speed, 1),
            "peak_memory_gib": round(self._peak() / _GIB, 3),
        }

    def say(self, steps: int) -> None:
        """Say what the whole took."""
        seconds = time.monotonic() - self._began
        events.text(
            f"{steps:,} steps in {seconds:.1f} s, {self._tokens / max(seconds, 1e-9):,.0f} tokens/s, "
            f"at most {self._peak() / _GIB:.2f} GiB of memory"
        )

    def _peak(self) -> int:
        """Return bytes: of the GPU what tensors took, else what the process took."""
        if self._device.type == "cuda":
            return self._team.most(torch.cuda.max_memory_allocated(self._device))
        return self._team.most(room.peak())
