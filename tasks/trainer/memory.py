"""How many rows a forward pass takes: as many as the memory of the device holds, at the same global batch.

The footprint of a training is estimated (`footprint.py`), the memory that is free is asked of the device or,
on the CPU, of the system and its container. Decisions:

* A tenth of what is free stays free: allocators do not use the last of it.
* A pass has a divisor of the rows that the process has to read in a step, so that passes are equally large.
* An estimate may be wrong by a third. It refuses a job only where even two thirds of it would not do; for
  the rest, a pass that does not fit is halved while training (`passes.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from . import events, footprint, layouts
from .batches import packed_length
from .encode import IGNORED, Example
from .errors import ConfigError
from .footprint import Footprint
from .job import Job, TrainSpec
from .model import Loaded, number_format
from .parts import sharded
from .room import free
from .team import Team

_GIB = 2**30
_USED = 0.9
_CERTAIN = 2 / 3


def check_before_loading(job: Job, spec: TrainSpec, team: Team) -> None:
    """Refuse a job whose weights, gradients and moments alone are more than the device holds.

    Raises:
        ConfigError: They are.
    """
    config = layouts.config(Path(job.base))
    dtype = number_format(spec, team.device)
    shards = team.size if job.shard else 1
    # the shortest rows there can be: longer ones are looked at when they are known
    needed = footprint.of(config, spec, dtype.itemsize, 1, 1, shards)
    room = free(team.device, team.local_size)
    if _CERTAIN * needed.total(1) > room:
        raise ConfigError(
            f"memory: {spec.method.kind} takes about {_gib(needed.weights)} of weights and "
            f"{_gib(needed.state)} of gradients and moments ({_gib(room)} are free on {team.device}). "
            f"{_advice(spec, job.shard, lengths=False)}"
        )


def rows_of_a_pass(
    loaded: Loaded, spec: TrainSpec, examples: Sequence[Example], share: int, team: Team
) -> int:
    """Return how many rows a pass takes, and say why.

    Args:
        loaded: The model, ready to be trained.
        spec: How it is trained.
        examples: All rows that it will read.
        share: Rows that this process reads in a step.
        team: The processes that train together.

    Raises:
        ConfigError: Not even one row fits.
    """
    shard = any(map(sharded, loaded.model.parameters()))
    lengths = [len(example.input_ids) for example in examples]
    longest = packed_length(lengths) if spec.packing else max(lengths)
    prompt = 0 if spec.packing else min(e.labels.count(IGNORED) for e in examples)
    columns, shards = max(1, longest - prompt), team.size if shard else 1
    number, config = loaded.dtype.itemsize, loaded.model.config
    needed = footprint.of(config, spec, number, longest, columns, shards)
    room = -team.most(
        -int(_USED * free(team.device, team.local_size))
    )  # what the fullest process has
    if spec.micro_batch:
        _refuse_less_than(1, needed, room, longest, spec, shard)
        return spec.micro_batch
    divisors = (n for n in range(share, 0, -1) if share % n == 0)
    rows = next((n for n in divisors if needed.state + n * needed.row <= room), 1)
    _refuse_less_than(rows, needed, room, longest, spec, shard)
    events.text(
        f"memory: {_gib(room)} to use; a pass of {rows} rows of {longest} tokens takes about "
        f"{_gib(needed.state + rows * needed.row)}: {-(-share // rows)} a step"
    )
    return rows


@contextmanager
def sufficing(rows: int) -> Iterator[None]:
    """Say what to do where the memory does not suffice.

    Raises:
        ConfigError: It does not.
    """
    try:
        yield
    except RuntimeError as error:
        if not exhausted(error):
            raise
        raise ConfigError(advice(error, rows)) from error


def exhausted(error: RuntimeError) -> bool:
    """Say whether an error means that the memory did not suffice."""
    # the allocator of the CPU raises a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


def advice(error: RuntimeError, rows: int) -> str:
    """Say that the memory did not suffice for passes of so many rows, and what to do."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"memory: it does not suffice for passes of {rows} rows ({first}). Lower train.micro_batch, "
        "train.max_prompt_tokens or train.max_answer_tokens, set train.gradient_checkpointing, or choose "
        "method qlora, or several processes with shard."
    )


def _refuse_less_than(
    rows: int, needed: Footprint, room: int, longest: int, spec: TrainSpec, shard: bool
) -> None:
    """Raise where one row surely does not fit; `room` is free beside the weights."""
    if rows > 1 or _CERTAIN * (needed.state + needed.row) <= room:
        return
    raise ConfigError(
        f"memory: one row of {longest:,} tokens takes about {_gib(needed.row)}, gradients and moments "
        f"{_gib(needed.state)} ({_gib(room)} are to use). {_advice(spec, shard, lengths=True)}"
    )


def _advice(spec: TrainSpec, shard: bool, lengths: bool) -> str:
    ways = []
    if lengths:
        ways.append("lower train.max_prompt_tokens or train.max_answer_tokens")
        if not spec.gradient_checkpointing:
            ways.append("set train.gradient_checkpointing")
    if spec.method.kind != "qlora":
        ways.append(
            "choose method qlora" if spec.method.kind == "lora" else "choose method lora or qlora"
        )
    if not shard:
        ways.append("spread the weights over several processes with shard")
    text = ", or ".join(ways) or "take a device with more memory"
    return f"{text[0].upper()}{text[1:]}."


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= 0.1 * _GIB else f"{size / 2**20:.0f} MiB"
