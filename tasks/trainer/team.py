"""The processes that train one model together, and what they say to each other.

Started by torchrun, or by anything else that sets `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`,
`MASTER_ADDR` and `MASTER_PORT`, a process joins the others; without these it is alone and nothing here
costs anything. Decisions:

* Every process takes every step with its part of the rows. Sums, not means, go round: a loss is divided
  by the tokens of the whole step before it is differentiated, so that the gradient does not depend on how
  many processes there are.
* Small numbers and texts travel over gloo and the CPU also where gradients travel over nccl: asking
  whether somebody wants to stop must not wait for the GPU.
* Only the first process speaks. The others are silent but for `[error]` lines.
* A process that dies ends the others: at once where its connection closes, after fifteen minutes where a
  machine vanishes. They end with `EXIT_LEFT`, so that the code of the one that began it is found among
  theirs. A step, the loading of the weights and the writing of the result must take less than that.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ConfigError, TrainerError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

EXIT_LEFT = 76
"""Another process of the team ended; what happened is said by that one."""

_PATIENCE = datetime.timedelta(minutes=15)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# 64 MiB of float32 a message: larger ones are not faster, and each needs a copy of the gradients in it
_MESSAGE_NUMBERS = 2**24
# What gloo and nccl say, in RuntimeErrors without a class of their own, when a connection breaks.
_BROKEN = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL")


class PeerLost(TrainerError):
    """Another process of the team ended in the middle of the work."""

    exit_code = EXIT_LEFT


@dataclass(frozen=True)
class Team:
    """The processes that train together, as one of them sees them."""

    rank: int
    size: int
    device: torch.device
    """Where this process computes."""
    local_rank: int = 0
    """Its number among the processes of its machine."""
    local_size: int = 1
    """How many processes its machine has."""

    @staticmethod
    def join() -> Team:
        """Meet the other processes; alone, return at once.

        Raises:
            ConfigError: The machine has fewer GPUs than processes, or the others cannot be reached.
        """
        if size_of_environment() == 1:
            return Team.single()
        import torch

        hush()
        gpus = torch.cuda.device_count()
        local, beside = _number("LOCAL_RANK"), _number("LOCAL_WORLD_SIZE")
        if gpus and beside > gpus:
            raise ConfigError(
                f"processes: more than the machine has GPUs (found {gpus}, started {beside} processes). "
                "Start one for each GPU."
            )
        device = torch.device("cuda", local) if gpus else torch.device("cpu")
        team = Team(_number("RANK"), size_of_environment(), device, local, beside)
        team._meet()
        return team

    @staticmethod
    def single() -> Team:
        """Return a team of this process alone."""
        import torch

        return Team(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def machines(self) -> int:
        """How many machines work together."""
        return self.size // self.local_size

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this process's part of the items of a step: every `size`-th, in order."""
        return list(items[self.rank :: self.size])

    def total(self, *values: float) -> list[float]:
        """Return the sums of the values over the processes, in float64, equal bits in each."""
        if self.alone:
            return [float(value) for value in values]
        import torch

        return self._reduced(torch.tensor(values, dtype=torch.float64), "SUM").tolist()

    def agree(self, flag: bool) -> bool:
        """Return whether any process says True."""
        return bool(self.most(int(flag)))

    def most(self, number: int) -> int:
        """Return the largest number that any process has."""
        if self.alone:
            return number
        import torch

        return int(self._reduced(torch.tensor([number]), "MAX").item())

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.most(0)

    def tell(self, text: str) -> str:
        """Return the text that the first process has."""
        return self.gather(text)[0]

    def gather(self, text: str) -> list[str]:
        """Return the texts of all processes, by rank."""
        if self.alone:
            return [text]
        import torch
        import torch.distributed as dist

        raw = text.encode()
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(raw)]))
        widest = max(1, *(int(size) for size in sizes))
        mine = torch.zeros(widest, dtype=torch.uint8)
        mine[: len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else 0
        texts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(texts, mine)
        return [
            bytes(found[: int(size)].tolist()).decode()
            for found, size in zip(texts, sizes, strict=True)
        ]

    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by the sum of the processes' gradients.

        Sharded parameters are left as they are: FSDP has summed theirs. A parameter that has a gradient
        in some processes only counts as 0 in the others; one that has none anywhere keeps none.
        """
        if self.alone:
            return
        import torch
        from torch.distributed.tensor import DTensor

        whole = [p for p in parameters if not isinstance(p, DTensor)]
        if not whole:
            return
        there = self._reduced(torch.tensor([int(p.grad is not None) for p in whole]), "MAX")
        graded = [p for p, found in zip(whole, there.tolist(), strict=True) if found]
        for parameter in graded:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for message in _messages([p.grad for p in graded if p.grad is not None]):
            flat = self._reduced(torch.cat([gradient.reshape(-1) for gradient in message]), "SUM")
            start = 0
            for gradient in message:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()

    def leave(self) -> None:
        """Close the connections."""
        if self.alone:
            return
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave; an error that only says that another process is gone becomes `PeerLost`."""
        if self.alone:
            return
        if kind is None:
            self.leave()
        elif error is not None and _says_that_one_is_lost(error):
            raise PeerLost(
                f"process {self.rank} of {self.size}: another process of the team ended before the work "
                "was done. What it said is above; run again to continue from the last checkpoint."
            ) from error

    def _meet(self) -> None:
        import torch
        import torch.distributed as dist

        if os.environ.get("MASTER_ADDR") in _LOOPBACK:
            # else gloo looks up the name of the machine, which need not have an address
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = "gloo"
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            backend = "cpu:gloo,cuda:nccl"
        try:
            dist.init_process_group(backend, timeout=_PATIENCE)
            self.wait()
        except (dist.DistError, RuntimeError, ValueError) as error:
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise ConfigError(
                f"{place}: process {self.rank} cannot meet the other {self.size - 1} "
                f"({_first_line(error)}). Let all of them reach this address and port."
            ) from error

    def _reduced(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        import torch.distributed as dist

        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, how))
        return tensor


def size_of_environment() -> int:
    """Return how many processes this one was started with; 1 outside torchrun."""
    return _number("WORLD_SIZE", "1")


def hush() -> None:
    """In all processes but the first, let only `[error]` lines through to standard output.

    Called as early as possible: reading and checking files says things too, and every process does it.
    """
    if _number("RANK", "0") > 0 and not isinstance(sys.stdout, _Errors):
        sys.stdout = _Errors(sys.stdout)


class _Errors:
    """Standard output that passes only whole lines that begin with `[error]`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a line, or drop it."""
        if text.startswith("[error]"):
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _number(name: str, default: str = "") -> int:
    found = os.environ.get(name, default)
    if not found.isdecimal():
        raise ConfigError(
            f"{name}: not a number (found {found!r} in the environment). "
            "Start several processes with torchrun, or one without it."
        )
    return int(found)


def _messages(gradients: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Put gradients of one number format together, up to the size of a message."""
    messages: list[list[torch.Tensor]] = []
    last: Any = None
    room = 0
    for gradient in gradients:
        if gradient.dtype != last or gradient.numel() > room:
            messages.append([])
            last, room = gradient.dtype, _MESSAGE_NUMBERS
        messages[-1].append(gradient)
        room -= gradient.numel()
    return messages


def _says_that_one_is_lost(error: BaseException) -> bool:
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _BROKEN)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
