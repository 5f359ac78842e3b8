"""Entries of a zip archive, by the directory at its end.

`zipfile` of the standard library reads, with what it leaves open closed here: the size of the directory, the size of
each file against what its header says, names in GBK, and every exception that damage makes it raise.
"""

from __future__ import annotations

import contextlib
import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from tasks.rows.unpacking import Broken, Limits, Member, Meter, decoded

MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")

_END, _LOCATOR, _COMMENT = 22, 20, 1 << 16
_ENTRY = 512  # bytes of the directory for one entry: 46, and its name
_ENCRYPTED, _UTF8 = 0x1, 0x800
_OFFICE = ("[Content_Types].xml", "META-INF/manifest.xml")
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(ValueError, RuntimeError, EOFError, OverflowError, OSError),
)


def members(file: BinaryIO, meter: Meter, limits: Limits) -> Iterator[Member]:
    """Yield every entry of the directory; what is opened of it can be read until the next.

    Raises:
        Broken: The archive is damaged, cut off, has too large a directory, or is an Office document.
    """
    _bound(file, limits)
    with _translated():
        archive = zipfile.ZipFile(file)
    with archive:
        found = {info.filename for info in archive.infolist()}
        if office := found.intersection(_OFFICE):
            raise Broken(
                f"this is a document, not an archive (found: {min(office)}). "
                "Save a spreadsheet as CSV UTF-8 and give that."
            )
        for info in archive.infolist():
            yield _member(archive, info, meter)


def _bound(file: BinaryIO, limits: Limits) -> None:
    """Refuse a directory that is too large before it is read."""
    end = file.seek(0, 2)
    start = file.seek(max(0, end - _END - _LOCATOR - _COMMENT))
    tail = file.read()
    at = len(tail) - _END
    if tail[at : at + 4] != MAGIC[1] or tail[-2:] != b"\0\0":
        at = tail.rfind(MAGIC[1])
    if at < 0 or len(tail) - at < _END:
        raise Broken(
            f"the zip archive is cut off (found: no directory at the end of {end:,} bytes). Fetch it again."
        )
    size = int.from_bytes(tail[at + 12 : at + 16], "little") % 0xFFFFFFFF
    locator = tail[max(0, at - _LOCATOR) : at]
    if locator.startswith(b"PK\x06\x07"):
        place = int.from_bytes(locator[8:16], "little")
        file.seek(min(place, start + at))
        size = max(size, int.from_bytes(file.read(48)[40:48], "little"))
    if size > max(1 << 20, _ENTRY * limits.members):
        raise Broken(
            f"the zip archive has too many entries (found: a directory of {size:,} bytes, "
            f"at most {limits.members:,} entries are read). Pack only what is needed."
        )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> Member:
    # the upper half holds the mode of the file where it was packed on Unix
    mode = stat.S_IFMT(info.external_attr >> 16)
    return Member(
        name=_name(info),
        size=info.file_size,
        is_file=not info.filename.endswith("/") and mode in (0, stat.S_IFREG),
        trouble=_trouble(info),
        open=lambda: _Entry(archive, info, meter),
    )


def _trouble(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _ENCRYPTED:
        return "it is encrypted (found: the mark of a password). Pack it without one."
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return (
            f"its compression is not read (found: method {info.compress_type}). "
            "Pack it with deflate, the usual method."
        )
    return ""


def _name(info: zipfile.ZipInfo) -> str:
    name = info.orig_filename
    if info.flag_bits & _UTF8 or name.isascii():
        return name
    return decoded(name.encode("cp437"), otherwise=name)


class _Entry:
    """The bytes of one entry, unpacked."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter):
        with _translated():
            self._file = cast(zipfile.ZipExtFile, archive.open(info))
        self._left, self._meter = info.file_size, meter

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, and none only at the end.

        Raises:
            Broken: The entry is damaged or cut off, or its header lies.
        """
        with _translated():
            data = self._file.read1(size)
        self._meter.add(len(data))
        self._left -= len(data)
        if not data and self._left:
            raise Broken(
                f"its header lies about its size (found: {self._left:,} bytes less). Pack it again."
            )
        return data


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _BROKEN as reason:
        if isinstance(reason, OSError) and reason.errno not in (None, errno.EINVAL):
            raise  # the disk, not the archive
        found = str(reason) or type(reason).__name__
        raise Broken(f"the zip archive is damaged (found: {found}). Fetch it again.") from reason
