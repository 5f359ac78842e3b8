"""Files inside archives, as streams: tar (also gzip, bzip2, xz), zip, and single files packed with one of them.

What a file is, its first bytes say, never its name. Nothing is extracted: a name inside an archive is a label, and
no path is made of it. Read are regular files whose ending can hold rows, not hidden ones and not papers such as
README.txt; a `.gz` among them is unpacked on the way. An archive in an archive, two files of one name, an encrypted
or sparse file, damage, a missing end, and more than `Limits` allow are errors: nothing is read by half.

`names` reads a packed tar archive to its end; of a zip and of a single packed file only beginnings.
"""

from __future__ import annotations

import contextlib
import io
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from tasks.errors import DataError
from tasks.rows import zipped
from tasks.rows.tar import Tar, is_tar
from tasks.rows.unpacking import Broken, Limits, Member, Meter, Source, Unpacked, exactly, magic

__all__ = ["LIMITS", "Limits", "names", "parts"]

LIMITS = Limits()

_ROWS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
_ARCHIVES = (
    *(".zip", ".tar", ".tgz", ".tar.gz", ".tbz2", ".txz", ".bz2", ".xz"),
    *(".7z", ".rar", ".zst", ".lz4"),
)
_PAPERS = frozenset(
    {"readme", "license", "licence", "copying", "notice", "authors", "changelog", "changes"}
    | {"citation", "requirements", "说明", "使用说明"}
)
_FOREIGN = {
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_PACKED = re.compile(r"\.(gz|bz2|xz)$", re.IGNORECASE)
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_HEAD = 512  # a header of tar
_READ = 1 << 16
_LABEL = 200
_TOLD = 10


def names(path: Path, limits: Limits = LIMITS) -> list[str]:
    """Return the names that `parts` gives.

    Raises:
        DataError: As `parts` does, but not for damage behind the beginning of a file that is not in a tar archive.
    """
    return [name for name, _ in parts(path, lambda _: True, limits)]


def parts(
    path: Path, wanted: Callable[[str], bool], limits: Limits = LIMITS
) -> Iterator[tuple[str, BinaryIO]]:
    """Yield name and bytes of each file that can hold rows, in the order of the archive.

    A plain file is its own only part. A part of an archive is named `data.tar.gz:inside/train.json`; a single
    packed file, here or inside, is named without its `.gz`.

    Args:
        path: A file or an archive.
        wanted: Asked with each name; what is not wanted is passed over.
        limits: Against bombs.

    Yields:
        The name, and a stream that is open until the next. Reading it raises DataError where it is broken.

    Raises:
        DataError: The archive is damaged, encrypted or beyond the limits, holds an archive, two files of one
            name, or none that can hold rows.
    """
    with path.open("rb") as file, _named(path.name):
        meter = Meter(path.stat().st_size, limits)
        source = _Ahead(file)
        kind = _kind(source.head)
        found: Iterator[Member] = iter(())
        if not kind:
            file.seek(0)
            yield from [(path.name, file)] if wanted(path.name) else []
            return
        if kind in _FOREIGN.values():
            raise Broken(
                f"{kind} archives are not read (found: {source.head[:6]!r}). Pack it as .zip or .tar.gz."
            )
        if kind == "zip":
            found = zipped.members(file, meter, limits)
        elif kind == "tar":
            found = Tar(source, packed=False).members()
        else:
            inside = _Ahead(Unpacked(source, kind, meter))
            if _kind(inside.head) != "tar":
                yield from _single(path.name, inside, wanted)
                return
            found = Tar(inside, packed=True).members()
        yield from _chosen(path.name, found, wanted, meter, limits)


def _single(
    name: str, inside: _Ahead, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the one file that was packed."""
    if kind := _kind(inside.head):
        raise _nested(kind)
    label = _PACKED.sub("", name) or name
    if wanted(label):
        with _stream(label, inside) as stream:
            yield label, stream


def _chosen(
    archive: str,
    members: Iterator[Member],
    wanted: Callable[[str], bool],
    meter: Meter,
    limits: Limits,
) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the wanted files among the members of an archive."""
    seen: set[str] = set()
    others: list[str] = []
    for count, member in enumerate(members, start=1):
        if count > limits.members:
            raise Broken(
                f"more than {limits.members:,} entries (found: {count:,} or more). Pack only what is needed."
            )
        name = _inside(member.name)
        if not member.is_file or not _can_hold_rows(name):
            others.append(name)
            continue
        label = f"{archive}:{_PACKED.sub('', name)}"
        if label in seen:
            raise Broken(f"two files of one name (found: {name}, twice). Pack each file once.")
        seen.add(label)
        meter.promise(member.size)
        with _named(label):
            if member.trouble:
                raise Broken(member.trouble)
            if not wanted(label):
                continue
            source = _plain(member.open(), meter)
        with _stream(label, source) as stream:
            yield label, stream
    if not seen:
        raise Broken(_nothing(others))


def _nothing(others: list[str]) -> str:
    told = ", ".join(others[:_TOLD]) or "nothing"
    more = f" and {len(others) - _TOLD:,} more" if len(others) > _TOLD else ""
    return (
        f"no file in it can hold rows (found: {told}{more}). "
        f"Rows are read from files that end in {', '.join(_ROWS)}, or in .gz after that."
    )


def _plain(source: Source, meter: Meter) -> Source:
    """Return the bytes of a member, unpacked where it is a single packed file."""
    ahead = _Ahead(source)
    if _kind(ahead.head) == "gzip":
        ahead = _Ahead(Unpacked(ahead, "gzip", meter))
    if kind := _kind(ahead.head):
        raise _nested(kind)
    return ahead


def _nested(kind: str) -> Broken:
    return Broken(
        f"an archive in an archive is not read (found: {kind}). Unpack it, and give what is inside."
    )


def _kind(head: bytes) -> str:
    """Return what a file that begins so is packed as; empty for what is not packed."""
    if head.startswith(zipped.MAGIC):
        return "zip"
    foreign = (kind for mark, kind in _FOREIGN.items() if head.startswith(mark))
    return magic(head) or next(foreign, "") or ("tar" if is_tar(head) else "")


def _inside(name: str) -> str:
    """Return the name of a member as a label: no way up, no root, nothing that a terminal would obey."""
    steps = [step for step in name.replace("\\", "/").split("/") if step not in ("", ".", "..")]
    label = "".join(
        "?" if unicodedata.category(each) in _UNSHOWN else each for each in "/".join(steps)
    )
    return label if len(label) <= _LABEL else f"…{label[-_LABEL:]}"


def _can_hold_rows(name: str) -> bool:
    """Say so by the ending of a name.

    Raises:
        Broken: It is an archive.
    """
    steps = name.lower().split("/")
    if any(step.startswith(".") or step == "__macosx" for step in steps):
        return False
    if name.lower().endswith(_ARCHIVES):
        raise _nested(name)
    plain = _PACKED.sub("", steps[-1])
    stem, dot, _ = plain.rpartition(".")
    if not dot:
        return plain != steps[-1]  # nothing but .gz
    return plain.endswith(_ROWS) and not (plain.endswith(".txt") and stem in _PAPERS)


@contextlib.contextmanager
def _named(label: str) -> Iterator[None]:
    """Say in which file something is broken."""
    try:
        yield
    except Broken as reason:
        raise DataError(f"{label}: {reason}") from reason


def _stream(label: str, source: Source) -> closing[io.BufferedReader]:
    return closing(io.BufferedReader(_Part(label, source), _READ))


class _Ahead:
    """A source whose beginning has been looked at."""

    def __init__(self, source: Source):
        self._source = source
        self.head = self._ready = exactly(source, _HEAD)

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, and none only at the end."""
        if not self._ready:
            return self._source.read(size)
        data, self._ready = self._ready[:size], self._ready[size:]
        return data


class _Part(io.RawIOBase):
    """A source as a stream of Python, with its name in what it raises."""

    def __init__(self, label: str, source: Source):
        self._label, self._source = label, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _named(self._label):
            data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
