"""How much memory a device can still give, and how much this process took at most."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_V2 = ("memory.max", "memory.current", "")
_KIB = 1024


def free(device: torch.device, sharers: int = 1) -> int:
    """Return the bytes that a process can still take; on the CPU so many share what there is."""
    if device.type != "cuda":
        return host() // sharers
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def host(root: Path = Path("/")) -> int:
    """Return the bytes that the machine can still give within the limits of all containers.

    Where the system does not say, all its memory is taken to be free: a guess must not refuse a job.
    """
    return max(0, min([_available(root), *_left(root)]))


def peak() -> int:
    """Return the most bytes that this process held in the memory of the machine.

    `ru_maxrss` alone would not do: Linux counts into it what the process held that started this one. A child
    of 14 MB whose parent had 600 MB is said to have taken 585 MB.
    """
    told = _fields(Path("/proc/self/status"))
    if "VmHWM:" in told:
        return told["VmHWM:"] * _KIB
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken if sys.platform == "darwin" else taken * _KIB


def _available(root: Path) -> int:
    """Return what the kernel says; swap is not counted, a training in it would not end."""
    told = _fields(root / "proc/meminfo")
    if "MemAvailable:" in told:
        return told["MemAvailable:"] * _KIB
    if "MemFree:" not in told:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # kernels before 3.14, and sandboxes that imitate one
    return sum(told.get(name, 0) for name in ("MemFree:", "Buffers:", "Cached:")) * _KIB


def _left(root: Path) -> Iterator[int]:
    """Yield what each limit leaves."""
    for folder, (limit, taken, prefix) in _groups(root):
        try:
            most = int((folder / limit).read_text(encoding="ascii"))
            now = int((folder / taken).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue  # the outermost group has no limit, others say "max"
        told = _fields(folder / "memory.stat")
        # Pages of files are given back when memory runs short. Files that were read twice, hashed and then
        # loaded as models are, count as active.
        files = sum(told.get(f"{prefix}{name}_file", 0) for name in ("active", "inactive"))
        yield most - now + files


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the control groups that this process is in, innermost first, with the names of their files."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        mounted = root / "sys/fs/cgroup"
        if "memory" in controllers.split(","):
            mounted, names = mounted / "memory", _V1
        elif not controllers:
            names = _V2
        else:
            continue
        inner = mounted / path.lstrip("/")
        yield inner, names
        for outer in inner.relative_to(mounted).parents:
            yield mounted / outer, names


def _fields(path: Path) -> dict[str, int]:
    """Read a file of names and numbers; empty where there is none."""
    parts = [line.split() for line in _lines(path)]
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdecimal()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
