"""torch's random streams, on which dropout depends, and what makes equal runs equal.

Python's and NumPy's streams are not used while training.
"""

from __future__ import annotations

import os

import torch


def begin(device: torch.device, seed: int) -> None:
    """Start the streams, and let no operation choose its order by chance."""
    torch.manual_seed(seed)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def states(device: torch.device) -> dict[str, torch.Tensor]:
    """Return where the streams are."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore(found: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put the streams where they were."""
    torch.set_rng_state(found["cpu"])
    if "cuda" in found:
        torch.cuda.set_rng_state(found["cuda"], device)
