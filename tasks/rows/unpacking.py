"""Packed bytes as a stream: gzip, bzip2 and xz, with a limit to what they may unfold to.

Nothing is held but a few pieces of 16 KiB, whatever a header promises, and every checksum of the formats is
checked. What is broken is said as `Broken`, to which `archives.py` adds the file it is in.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_PIECE = (
    16 << 10
)  # small: a file of a million tiny gzip members copies the rest of its piece for each
_XZ_MEMORY = 256 << 20  # xz -9 needs 65 MiB
_FREE = 64 << 20

MAGIC = {b"\x1f\x8b\x08": "gzip", b"\xfd7zXZ\0": "xz"} | {
    b"BZh%d%b" % (level, block): "bzip2"
    for level in range(1, 10)
    for block in (b"1AY&SY", b"\x17rE8P\x90")  # a block, or the end of an empty stream
}


class Broken(Exception):
    """What is wrong (what was found). What to do; without the file."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold, against bombs."""

    members: int = 10_000
    """Entries of an archive, of any kind."""
    bytes: int = 64 * 2**30
    """Bytes of all that is read of it, unpacked."""
    ratio: int = 200
    """Unpacked bytes for each packed one, looked at beyond the first 64 MiB unpacked."""


class Meter:
    """Counts what one archive unfolds to, and what it promises to.

    Raises:
        Broken: It is more than the limits allow.
    """

    def __init__(self, packed: int, limits: Limits):
        self._packed, self._limits = packed, limits
        self._unpacked = self._promised = 0

    def add(self, size: int) -> None:
        """Count bytes that were unpacked."""
        self._unpacked += size
        if self._unpacked > _FREE:
            self._refuse(self._unpacked)

    def promise(self, size: int) -> None:
        """Count bytes that a header says will come: a bomb is refused before it is unpacked."""
        self._promised += size
        self._refuse(self._promised)

    def _refuse(self, size: int) -> None:
        if size > self._limits.bytes:
            raise Broken(
                f"it unpacks to more than {self._limits.bytes:,} bytes (found: {size:,} or more). "
                "Unpack it yourself if this is right, and give what you need of it."
            )
        if size > _FREE and size > self._limits.ratio * self._packed:
            raise Broken(
                f"it unpacks to more than {self._limits.ratio} times its size "
                f"(found: {size:,} bytes or more from {self._packed:,}). "
                "Unpack it yourself if this is right, and give what is inside."
            )


class Source(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, and none only at the end."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive."""

    name: str
    size: int
    """As its header says."""
    is_file: bool
    """Not a folder, link or device."""
    trouble: str
    """Why it cannot be read, or nothing: *what is wrong (what was found). What to do.*"""
    open: Callable[[], Source]


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's gzip decoder with the manners of those of bz2 and lzma."""

    needs_input = True

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        unpacked = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail
        return unpacked


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": _Gzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}


class Unpacked:
    """What a gzip, bzip2 or xz stream unfolds to; several of them in a row read as one."""

    def __init__(self, packed: Source, kind: str, meter: Meter):
        self._packed, self._meter, self._kind = packed, meter, kind
        self._decoder = _DECODERS[kind]()
        self._ready = b""
        self._size = 0

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, and none only at the end.

        Raises:
            Broken: The stream is damaged, cut off or followed by something else, or unfolds to too much.
        """
        while not self._decoder.eof or self._another():
            dry = False
            if self._decoder.needs_input and not self._ready:
                self._ready = self._packed.read(_PIECE)
                dry = not self._ready
            unpacked = self._decode(size)
            if unpacked:
                self._size += len(unpacked)
                self._meter.add(len(unpacked))
                return unpacked
            if dry and not self._decoder.eof:
                raise Broken(
                    f"the {self._kind} data is cut off (found: its end after {self._size:,} bytes "
                    "unpacked). Fetch it again."
                )
        return b""

    def _decode(self, size: int) -> bytes:
        data, self._ready = self._ready, b""
        try:
            return self._decoder.decompress(data, size)
        except (zlib.error, lzma.LZMAError, OSError) as reason:
            raise Broken(
                f"the {self._kind} data is damaged after {self._size:,} bytes unpacked "
                f"(found: {reason}). Fetch it again."
            ) from reason

    def _another(self) -> bool:
        """Begin the stream that follows the one at its end; say whether there is one."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while len(rest) < max(map(len, MAGIC)) and (piece := self._packed.read(_PIECE)):
            rest = (rest + piece).lstrip(b"\0")
        if not rest:
            return False
        if magic(rest) != self._kind:
            raise Broken(
                f"something else follows the {self._kind} data (found: {rest[:16]!r}). "
                "Fetch it again, or cut it off."
            )
        self._decoder, self._ready = _DECODERS[self._kind](), rest
        return True


def magic(head: bytes) -> str:
    """Return how bytes that begin so are packed: gzip, bzip2, xz, or nothing."""
    return next((kind for mark, kind in MAGIC.items() if head.startswith(mark)), "")


def decoded(name: bytes, otherwise: str = "") -> str:
    """Return a name as text: UTF-8, else GB18030 as Windows writes it in China, else `otherwise`."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return name.decode(encoding)
        except UnicodeDecodeError:
            continue
    return otherwise or name.decode("utf-8", "replace")


def exactly(source: Source, size: int) -> bytes:
    """Return the next `size` bytes, or fewer at the end."""
    pieces = []
    while size and (piece := source.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
