"""How many rows a forward pass takes: as many as the memory of the device holds, at the same global batch.

The footprint of a training is estimated (`footprint.py`), the memory that is free is asked of the device or,
on the CPU, of the system and its container. Decisions:

* A tenth of what is free stays free: allocators do not use the last of it.
* A step has as few passes as the memory allows, and they are equally large, but for the last.
* An estimate may be wrong by a third. It refuses a job only where even two thirds of it would not do; for
  the rest, a pass that does not fit is halved while training (`passes.py`).
* Who sets `micro_batch` knows better: nothing is refused then, only said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from . import events, footprint, layouts, views
from .batches import packed_length
from .encode import IGNORED, Example
from .errors import ConfigError
from .job import Job, TrainSpec
from .model import Loaded, number_format
from .parts import sharded
from .room import free
from .team import Team

_GIB = 2**30
_USED = 0.9
_CERTAIN = 2 / 3
_FULL = ("allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


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
        _refuse(
            f"memory: {spec.method.kind} takes about {_gib(needed.weights)} of weights and "
            f"{_gib(needed.state)} of gradients and moments ({_gib(room)} are free on {team.device}). ",
            _advice(spec, job.shard, lengths=False),
            spec,
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
    window = views.window(loaded.model.config)
    longest = packed_length(lengths, window) if spec.packing else max(lengths)
    prompt = 0 if spec.packing else min(e.labels.count(IGNORED) for e in examples)
    columns, shards = max(1, longest - prompt), team.size if shard else 1
    number, config = loaded.dtype.itemsize, loaded.model.config
    needed = footprint.of(config, spec, number, longest, columns, shards)
    room = -team.most(
        -int(_USED * free(team.device, team.local_size))
    )  # what the fullest process has
    rows = spec.micro_batch or _most_even(share, int((room - needed.state) // needed.row))
    filled = min(rows, share)
    taken = needed.state + filled * needed.row
    if (rows == 1 or spec.micro_batch) and _CERTAIN * taken > room:
        of_rows = f"a pass of {filled} rows" if filled > 1 else "one row"
        _refuse(
            f"memory: {of_rows} of {longest:,} tokens takes about {_gib(filled * needed.row)}, gradients and "
            f"moments {_gib(needed.state)} ({_gib(room)} are to use). ",
            _advice(spec, shard, lengths=True),
            spec,
        )
    passes = -(-share // rows)
    events.text(
        f"memory: {_gib(room)} to use; a pass of {filled} rows of {longest:,} tokens takes about "
        f"{_gib(taken)}: {passes:,} a step"
    )
    return rows


def _most_even(share: int, fitting: int) -> int:
    """Return the rows of a pass, where so many fit, that make few and even passes of a share."""
    passes = -(-share // max(1, fitting))
    return -(-share // passes)


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
    # the allocator of the CPU and the libraries of CUDA raise errors without a class of their own
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _FULL)


def advice(error: RuntimeError, rows: int) -> str:
    """Say that the memory did not suffice for passes of so many rows, and what to do."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"memory: it does not suffice for passes of {rows} rows ({first}). Lower "
        f"{'train.micro_batch, ' if rows > 1 else ''}train.max_prompt_tokens or train.max_answer_tokens, set "
        "train.gradient_checkpointing, or choose method qlora, or several processes with shard."
    )


def _refuse(what: str, advice: str, spec: TrainSpec) -> None:
    """Say that the memory will not suffice; raise where nobody has said to go on."""
    if spec.micro_batch:
        events.text(f"warning: {what}train.micro_batch is set: goes on.")
        return
    raise ConfigError(f"{what}{advice} To try it all the same, set train.micro_batch.")


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
