"""Tensors in pieces: what of a sharded tensor a process holds, and tensors put together from files.

A tensor in a checkpoint is one block or several, each in a file of its own with the place of its first
number in the whole. Whoever reads fills the block that it holds from whatever blocks overlap it, so that the
number of processes that wrote does not matter to the number that reads. Files are mapped: what is not
asked for is not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from .errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Block:
    """A rectangular part of a tensor."""

    at: tuple[int, ...]
    """Place of its first number in the whole tensor."""
    shape: tuple[int, ...]

    def common(self, other: Block) -> Block | None:
        """Return what two blocks of one tensor have in common, None where they do not meet."""
        starts = tuple(map(max, self.at, other.at))
        ends = tuple(map(min, self.ends, other.ends))
        if any(end <= start for start, end in zip(starts, ends, strict=True)):
            return None
        return Block(starts, tuple(e - s for s, e in zip(starts, ends, strict=True)))

    def slices(self, inside: Block) -> tuple[slice, ...]:
        """Return where it lies within a block that contains it."""
        starts = (own - other for own, other in zip(self.at, inside.at, strict=True))
        return tuple(slice(s, s + n) for s, n in zip(starts, self.shape, strict=True))

    @property
    def ends(self) -> tuple[int, ...]:
        """The place after its last number, in each direction."""
        return tuple(a + n for a, n in zip(self.at, self.shape, strict=True))


def sharded(tensor: Tensor) -> bool:
    """Say whether a tensor is spread over the processes."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor  # costs half a second, and only teams have such

    return isinstance(tensor, DTensor)


def held(tensor: Tensor) -> tuple[Tensor, Block]:
    """Return what this process holds of a tensor, sharing its memory, and where that lies."""
    if not sharded(tensor):
        return tensor.detach(), Block((0,) * tensor.ndim, tuple(tensor.shape))
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    spread: Any = tensor
    local = spread.detach().to_local()
    shape, at = compute_local_shape_and_global_offset(
        spread.shape, spread.device_mesh, spread.placements
    )
    return local, Block(tuple(at), tuple(shape))


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor whole. Every process calls it, on the same tensors in the same order."""
    if not sharded(tensor):
        return tensor.detach()
    spread: Any = tensor
    return spread.detach().full_tensor()


@dataclass
class Found:
    """A checkpoint that was found whole, to be read tensor by tensor."""

    path: Path
    step: int
    values: dict[str, Any]
    random: dict[str, Tensor] | None
    """This process's random streams; None where another number of processes wrote the checkpoint."""
    _files: dict[str, Any] = field(default_factory=dict)
    _pieces: dict[tuple[str, str], list[tuple[str, tuple[int, ...]]]] = field(default_factory=dict)

    def add(self, group: str, file: str, places: dict[str, list[int]]) -> None:
        """Note what a file holds: tensors that are not in `places` are whole."""
        self._files[file] = safe_open(self.path / file, "pt")
        for name in self._files[file].keys():  # noqa: SIM118  it is not a mapping
            self._pieces.setdefault((group, name), []).append((file, tuple(places.get(name, ()))))

    def names(self, group: str) -> list[str]:
        """Return the names of the tensors of a group, sorted."""
        return sorted(name for of, name in self._pieces if of == group)

    def read(self, group: str, name: str, into: Tensor) -> None:
        """Fill a tensor, or what this process holds of it, with what was saved.

        Raises:
            ConfigError: It was not saved, or had another shape.
        """
        local, wanted = held(into)
        filled = 0
        for stored, block in self._stored(group, name):
            common = wanted.common(block) if len(block.at) == local.ndim else None
            if common is not None:
                local[common.slices(wanted)].copy_(_cut(stored, common.slices(block)))
                filled += math.prod(common.shape)
        if filled != local.numel() or self._shape(group, name) != tuple(into.shape):
            raise ConfigError(
                f"{self.path}: {group} of {name}: does not fit (found {self._shape(group, name)}, the model "
                f"has {tuple(into.shape)}). Clear the work directory to begin anew."
            )

    def whole(self, group: str, name: str) -> Tensor:
        """Return a tensor as it was saved, on the CPU."""
        stored = [_cut(piece, ...) for piece, _ in self._stored(group, name)]
        if len(stored) == 1:
            return stored[0]
        tensor = torch.empty(self._shape(group, name) or (), dtype=stored[0].dtype)
        self.read(group, name, tensor)
        return tensor

    def _shape(self, group: str, name: str) -> tuple[int, ...] | None:
        ends = [block.ends for _, block in self._stored(group, name)]
        return tuple(map(max, zip(*ends, strict=True))) if ends else None

    def _stored(self, group: str, name: str) -> Iterator[tuple[Any, Block]]:
        """Return what the files hold of a tensor, unread, with its place."""
        for file, at in self._pieces.get((group, name), []):
            stored = self._files[file].get_slice(name)
            shape = tuple(stored.get_shape())
            yield stored, Block(at or (0,) * len(shape), shape)


def _cut(stored: Any, where: Any) -> Tensor:
    return stored[...] if where == () else stored[where]
