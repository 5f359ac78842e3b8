"""How much memory a device can still give: of the GPU, or of the machine and the containers around this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def free(device: torch.device, sharers: int = 1) -> int:
    """Return the bytes that a process can still take; on the CPU so many share what there is."""
    if device.type != "cuda":
        return host() // sharers
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def host(root: Path = Path("/")) -> int:
    """Return the bytes that the machine can still give within the limits of all containers."""
    meminfo = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    return min([_field(meminfo, "MemAvailable:") * 1024, *_left(root)])


def _left(root: Path) -> Iterator[int]:
    """Yield what each limit leaves."""
    for folder, (limit, taken, files) in _groups(root):
        try:
            most = (folder / limit).read_text(encoding="ascii").strip()
            now = int((folder / taken).read_text(encoding="ascii"))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except OSError:
            continue  # the outermost group has no limit
        if most != "max":
            # pages of files are given back when memory runs short
            yield int(most) - now + _field(statistics, files)


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the control groups that this process is in, innermost first, with the names of their files."""
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        mounted = root / "sys/fs/cgroup"
        if controllers == "memory":
            mounted, names = mounted / "memory", _V1
        elif not controllers:
            names = _V2
        else:
            continue
        inner = mounted / path.lstrip("/")
        yield inner, names
        for outer in inner.relative_to(mounted).parents:
            yield mounted / outer, names


def _field(lines: list[str], name: str) -> int:
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)
