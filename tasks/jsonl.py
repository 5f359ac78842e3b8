"""The lines of a dataset: written with a hash of each prompt, and read back one by one or all in order.

Kept for each row: 8 bytes of its prompt's hash and 8 of its place.
"""

from __future__ import annotations

import contextlib
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from tasks.formats import Message
from tasks.splits import Hashes

BATCH = 512
"""Rows that pass together: more do not stay in the processor's cache, and took a fifth longer."""

_BUFFER = 1 << 18


class Writer:
    """Writes one split."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._file = path.open("wb", buffering=_BUFFER)
        self._prompts, self._sizes = array("Q"), array("Q")

    def add(self, lines: Sequence[bytes], prompts: Hashes, chosen: NDArray[np.bool_]) -> None:
        """Write the chosen lines, each with the hash of its prompt."""
        kept = lines if chosen.all() else list(itertools.compress(lines, chosen))
        self._file.write(b"".join(kept))
        self._sizes.extend(map(len, kept))
        self._prompts.frombytes(prompts[chosen].tobytes())
        self.rows = len(self._prompts)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def prompts(self) -> Hashes:
        """Return the hashes of the prompts, in the order of the rows."""
        return np.frombuffer(self._prompts, dtype=np.uint64)

    @contextlib.contextmanager
    def texts(self) -> Iterator[Callable[[int], str]]:
        """Yield a function that returns all that a row says, by its number."""
        sizes = np.frombuffer(self._sizes, dtype=np.uint64)
        ends = np.cumsum(sizes)
        with self.path.open("rb") as file:

            def text(row: int) -> str:
                file.seek(int(ends[row] - sizes[row]))
                return whole(orjson.loads(file.readline())["messages"])

            yield text


def batches(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a file, some at a time."""
    with path.open("rb") as file:
        while lines := list(itertools.islice(file, BATCH)):
            yield lines


def messages(line: bytes) -> list[Message]:
    """Return the messages of a line."""
    turns: list[Message] = orjson.loads(line)["messages"]
    return turns


def whole(turns: Sequence[Message]) -> str:
    """Return all that a row asks and answers, as one text; a system text is often the same in every row."""
    return "\n".join([turn["content"] for turn in turns if turn["role"] != "system"])
