"""A model spread over the processes that train it: FSDP2, block by block.

Each process keeps its rows of every weight, gradient and moment; a block is put together just before it is
used and taken apart again. Decisions:

* Weights and moments stay in float32. In bfloat16 blocks travel and compute in bfloat16 and gradients are summed
  in float32: half the traffic, and small updates are not rounded away.
* Gradients are summed, not averaged, as everywhere in a team (`team.py`).
* They are summed after every pass, not once a step: to keep them back would need room for whole gradients in
  each process, which is what sharding is to save.
* The blocks are those that the model itself recomputes or names as not to be split; tied weights lie in
  no block and stay one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from . import events
from .errors import ConfigError
from .parts import held, sharded

if TYPE_CHECKING:
    from torch import nn

    from .model import Loaded
    from .team import Team

# By name, because the class that transformers derives such blocks from is seconds away by import.
_RECOMPUTED = "GradientCheckpointingLayer"


def shard(loaded: Loaded, team: Team) -> None:
    """Spread the weights of a model over the processes; alone, leave them as they are.

    What is trained, and whether layers run twice, must have been chosen before (`tuned.prepare_training`); the
    optimizer must be made after.

    Raises:
        ConfigError: The model has no blocks, or weights of less than 16 bits.
    """
    model: Any = loaded.model
    if team.alone:
        events.text("shard: there is one process, which keeps all weights")
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    _check(model)
    mesh = init_device_mesh(team.device.type, (team.size,))
    policy = MixedPrecisionPolicy()
    if loaded.dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=loaded.dtype, reduce_dtype=torch.float32)
    for part in [*blocks(model), model]:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the outermost repeated blocks of a model, in its order."""
    named = {_RECOMPUTED, *(getattr(model, "_no_split_modules", None) or ())}

    def within(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if named & {kind.__name__ for kind in type(child).__mro__}:
                yield child
            else:
                yield from within(child)

    return list(within(model))


def clip(parameters: Iterable[nn.Parameter], limit: float, team: Team) -> float:
    """Return the norm of all gradients together; where it exceeds the limit, scale them to it.

    A limit of 0 leaves them as they are. Sharded gradients count in all processes, others once.
    """
    graded = [p for p in parameters if p.grad is not None]
    whole = [p for p in graded if not sharded(p)]
    spread = [p for p in graded if sharded(p)]
    norm = torch.nn.utils.get_total_norm([p.grad for p in whole])
    if spread:
        pieces = [held(p.grad)[0] for p in spread]
        own = float(torch.nn.utils.get_total_norm(pieces))
        norm = torch.tensor(math.hypot(math.sqrt(team.total(own**2)[0]), float(norm)))
        if limit:
            torch._foreach_mul_(pieces, min(1.0, limit / (float(norm) + 1e-6)))
    if limit:
        torch.nn.utils.clip_grads_with_norm_(whole, limit, norm.to(team.device))
    return float(norm)


def _check(model: Any) -> None:
    if not blocks(model):
        raise ConfigError(
            f"shard: {type(model).__name__} does not say which of its parts are blocks. "
            "Train without shard."
        )
    narrow = {p.dtype for p in model.parameters() if not p.is_floating_point()}
    if narrow:
        raise ConfigError(
            f"shard: quantised weights cannot be spread over processes (found {narrow.pop()}). "
            "Train without shard: each process then keeps the quantised model whole."
        )
