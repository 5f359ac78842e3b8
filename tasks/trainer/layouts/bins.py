"""Reads the tensors of a PyTorch `.bin` without unpickling it.

Such a file is a zip: a pickle that describes the tensors (read by `pickled.py`), and beside it each
storage, uncompressed. The table of contents is checked once, the file is mapped into memory, and a tensor
is a view of it: naming all tensors of a model of 12 GB reads some hundred kilobytes. Checksums of the zip
are not compared, for that would read everything twice; `verification.py` hashes what comes from a store.

What is not exactly that is refused: compressed or overlapping entries, a big-endian file, the format from
before PyTorch 1.6, anything in the pickle but tensors under names.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NoReturn

import torch

from ..errors import ConfigError
from . import pickled

_LARGEST_PICKLE = 16 * 2**20  # a tensor takes some 300 bytes, so 50,000 of them in one file
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_OLD_FORMAT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_POINTER = b"version https://git-lfs"


class Bin(Mapping[str, torch.Tensor]):
    """The tensors of one file by name, in the order of the file.

    Raises:
        ConfigError: The file is damaged, or holds anything but tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.table, self._starts = _contents(file)
        except pickled.Refused as error:
            _refuse(path, str(error))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error}).") from error
        except (
            zipfile.BadZipFile,
            ValueError,
            NotImplementedError,
            OverflowError,
            struct.error,
        ) as error:
            _refuse(path, f"its zip is damaged ({error})")
        self._mapped: torch.UntypedStorage | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self.table[name]
        start, dtype = self._starts[found.storage.key], getattr(torch, found.dtype)
        part = self._file()[start : start + found.storage.nbytes]
        if start % pickled.ITEM_BYTES[found.dtype]:
            # PyTorch aligns storages; others need not, and processors may insist
            part = part.clone()
        empty = torch.empty(0, dtype=dtype)
        return empty.set_(part, found.offset, found.shape, found.stride)

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def _file(self) -> torch.UntypedStorage:
        """Map the file: private, so that nothing a caller does to a tensor reaches the disk."""
        if self._mapped is None:
            size = self.path.stat().st_size
            self._mapped = torch.UntypedStorage.from_file(str(self.path), False, size)
        return self._mapped


def _contents(file: IO[bytes]) -> tuple[dict[str, pickled.Described], dict[str, int]]:
    """Return the tensors of an open file, and where each storage begins, by its key."""
    _refuse_other_formats(file.read(len(_POINTER)))
    with zipfile.ZipFile(file) as archive:
        entries = _entries(archive, file)
    tops = {name.partition("/")[0] for name in entries if re.fullmatch("[^/]+/data.pkl", name)}
    if len(tops) != 1:
        raise pickled.Refused(f"it holds {len(tops)} descriptions of tensors, not one")
    top = tops.pop()
    if f"{top}/byteorder" in entries:
        order = _bytes(file, *entries[f"{top}/byteorder"])
        if order != b"little":
            raise pickled.Refused(f"its numbers are not little-endian (found {order[:16]!r})")
    start, size = entries[f"{top}/data.pkl"]
    if size > _LARGEST_PICKLE:
        raise pickled.Refused(f"its description of tensors has {size:,} bytes")
    table = pickled.tensors(_bytes(file, start, size))
    starts = {}
    for found in table.values():
        key, promised = found.storage.key, found.storage.nbytes
        place, there = entries.get(f"{top}/data/{key}", (0, -1))
        if there != promised:
            raise pickled.Refused(
                f"storage {key[:40]!r} should have {promised:,} bytes (found "
                f"{f'{there:,}' if there >= 0 else 'none'})"
            )
        starts[key] = place
    return table, starts


def _entries(archive: zipfile.ZipFile, file: IO[bytes]) -> dict[str, tuple[int, int]]:
    """Return where the bytes of each entry are: offset and size, by name."""
    listed = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    ends = [entry.header_offset for entry in listed[1:]] + [archive.start_dir]
    found: dict[str, tuple[int, int]] = {}
    for entry, end in zip(listed, ends, strict=True):
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise pickled.Refused(f"its entry {name[:80]!r} is compressed or encrypted")
        header = _LOCAL_HEADER.unpack(_bytes(file, entry.header_offset, _LOCAL_HEADER.size))
        start = entry.header_offset + _LOCAL_HEADER.size + header[-2] + header[-1]
        if header[0] != b"PK\x03\x04" or start + entry.file_size > end or name in found:
            raise pickled.Refused(
                f"its entry {name[:80]!r} is not where its table of contents says"
            )
        if entry.file_size != entry.compress_size:
            raise pickled.Refused(f"its entry {name[:80]!r} has two sizes")
        found[name] = (start, entry.file_size)
    return found


def _bytes(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it ends too early")
    return data


def _refuse_other_formats(beginning: bytes) -> None:
    if beginning.startswith(_POINTER):
        raise pickled.Refused("it is a pointer of Git LFS, not the file itself")
    if beginning.startswith(_OLD_FORMAT):
        raise pickled.Refused("it is in PyTorch's format from before version 1.6")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise ConfigError(
        f"{path}: not a file of tensors that can be read without running it: {reason}. "
        "Fetch it again, or take the model's safetensors."
    )
