"""Entries of a tar archive, read as a stream: ustar, GNU and pax headers.

Not `tarfile`: it reads a pax header or a long name into memory at whatever size the header claims, and takes
quadratic time for some of them (CVE-2024-6232, mended only in later patch releases of Python). Here a header holds
at most HEADER bytes, and nothing is done with links, devices and owners but to pass over them.

Source: POSIX.1-2017, pax interchange format; GNU tar 1.35 manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

from tasks.rows.unpacking import Broken, Member, Source, decoded, exactly

HEADER = 1 << 20
"""Bytes of one extended header or long name."""

_BLOCK = 512
_OCTAL = re.compile(rb" *([0-7]*) *")
_FILES, _SPARSE, _EMPTY = b"0\x007", b"S", b"123456"
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL = b"L", b"K", b"xX", b"g"


def is_tar(head: bytes) -> bool:
    """Say whether a file that begins so is a tar archive; an empty one, all zeros, is none."""
    return len(head) >= _BLOCK and _valid(head[:_BLOCK])


def _valid(block: bytes) -> bool:
    wanted = _octal(block[148:156])
    rest = block[:148] + b" " * 8 + block[156:]
    if not wanted:
        return False
    # very old archives summed signed bytes
    return wanted in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest))


def _octal(field: bytes) -> int | None:
    digits = _OCTAL.fullmatch(field.partition(b"\0")[0])
    return int(digits[1] or b"0", 8) if digits else None


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


class Tar:
    """A tar archive that is read once, from its beginning to its end."""

    def __init__(self, source: Source, packed: bool):
        """Begin to read.

        Args:
            source: The archive, unpacked.
            packed: Whether the source itself knows its end; else the archive must have its end mark.
        """
        self._source, self._packed = source, packed
        self._offset = 0
        self._left = 0
        """Bytes of the entry that are not read yet."""

    def read(self, size: int, /) -> bytes:
        """Return bytes of the entry that was yielded last.

        Raises:
            Broken: The archive ends before the entry does.
        """
        if not self._left:
            return b""
        data = self._source.read(min(size, self._left))
        if not data:
            raise Broken(
                f"the archive is cut off (found: its end {self._left:,} bytes before that of the entry). "
                "Fetch it again."
            )
        self._left -= len(data)
        self._offset += len(data)
        return data

    def members(self) -> Iterator[Member]:
        """Yield every entry; its bytes can be read, once, until the next.

        Raises:
            Broken: A header is damaged or too large, or the archive is cut off.
        """
        extended: dict[str, bytes] = {}
        while block := self._header():
            kind, size = block[156:157], self._size(block[124:136])
            if kind in _LONG_NAME:
                extended["path"] = _text(self._whole(size))
            elif kind in _PAX:
                extended |= _pax(self._whole(size))
            elif kind in _LONG_LINK or kind in _GLOBAL:
                self._whole(size)
            else:
                yield self._member(block, kind, size, extended)
                extended = {}

    def _member(self, block: bytes, kind: bytes, size: int, extended: dict[str, bytes]) -> Member:
        prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else b""
        name = extended.get("path") or (prefix and prefix + b"/") + _text(block[:100])
        if "size" in extended:
            size = _decimal(extended["size"])
        more = block[482] if kind in _SPARSE else 0
        while more:  # the map of a sparse file goes on before its data
            more = self._block()[504]
        sparse = kind in _SPARSE or any(key.startswith("GNU.sparse.") for key in extended)
        trouble = "a sparse file is not read (found: its map of holes). Pack it without --sparse."
        self._left = 0 if kind in _EMPTY else size
        return Member(
            name=decoded(extended.get("GNU.sparse.name", name)),
            size=self._left,
            is_file=sparse or (kind in _FILES and not name.endswith(b"/")),
            trouble=trouble if sparse else "",
            open=lambda: self,
        )

    def _header(self) -> bytes:
        """Return the next header; nothing at the end of the archive."""
        self._pass()
        ended = False
        while True:
            block = exactly(self._source, _BLOCK)
            if not block:
                return self._end(ended)
            self._offset += len(block)
            if block.strip(b"\0"):
                if len(block) == _BLOCK and _valid(block):
                    return block  # also after an end mark: archives can be joined
                if ended:
                    continue  # what fills the last record up
                self._damaged(block)
            ended = True

    def _block(self) -> bytes:
        block = exactly(self._source, _BLOCK)
        self._offset += len(block)
        if len(block) < _BLOCK:
            self._damaged(block)
        return block

    def _end(self, ended: bool) -> bytes:
        if not ended and not self._packed:
            raise Broken(
                f"the archive is cut off (found: {self._offset:,} bytes without its end mark). Fetch it again."
            )
        return b""

    def _damaged(self, block: bytes) -> NoReturn:
        if len(block) < _BLOCK:
            raise Broken(
                f"the archive is cut off (found: its end after {self._offset:,} bytes, in a header). "
                "Fetch it again."
            )
        raise Broken(
            f"the archive is damaged (found: no header at byte {self._offset - _BLOCK:,}). Fetch it again."
        )

    def _pass(self) -> None:
        """Pass over the rest of the entry, and what fills its last block."""
        while self._left:
            self.read(1 << 16)
        filling = -self._offset % _BLOCK
        self._offset += len(exactly(self._source, filling))

    def _whole(self, size: int) -> bytes:
        """Return all bytes of an entry that belongs to the next one."""
        if size > HEADER:
            raise Broken(
                f"an extended header is too large (found: {size:,} bytes, at most {HEADER:,}). "
                "Pack the files again."
            )
        self._left = size
        data = exactly(self, size)
        self._pass()
        return data

    def _size(self, field: bytes) -> int:
        size = int.from_bytes(field[1:], "big") if field[:1] == b"\x80" else _octal(field)
        if size is None:
            raise Broken(
                f"the archive is damaged (found: the size {field!r} at byte {self._offset - _BLOCK:,}). "
                "Fetch it again."
            )
        return size


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise Broken(
            f"a pax header is damaged (found: the size {value[:40]!r}). Pack the files again."
        )
    return int(value)


def _pax(data: bytes) -> dict[str, bytes]:
    """Return the records `length key=value` of a pax header."""
    found, start = {}, 0
    while start < len(data) and data[start]:
        length, space, _ = data[start : start + 21].partition(b" ")
        end = start + (int(length) if space and length.isdigit() else 0)
        key, equals, value = data[start + len(length) + 1 : end].partition(b"=")
        if not equals or end > len(data) or not value.endswith(b"\n"):
            raise Broken(
                f"a pax header is damaged (found: {data[start : start + 40]!r}). Pack the files again."
            )
        found[key.decode("utf-8", "replace")] = value[:-1]
        start = end
    return found
