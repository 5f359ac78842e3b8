"""Which rows are trained on, and which are held out to measure.

Two ways. *By name*: a file says it is the training or the dev file, in English or Chinese, itself or through its
folder. *By prompt*: a hash of the prompt decides, so that equal prompts never part, and two machines agree without
talking; by a fraction, added or shuffled rows move nobody, by a count they move those at the border.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError

HELD_OUT = "held-out"
"""Folder of what was fetched from an address of its own for the dev rows."""

Hashes = NDArray[np.uint64]
_CHUNK = 1 << 16

_ENDING = r"(?:s|ing|data|set|split|v?[0-9]*)?(?![a-z])"
_WORDS = {
    "train": rf"(?<![a-z])train{_ENDING}|训练|訓練",
    "dev": rf"(?<![a-z])(?:dev|development|val|valid|validate|validation|hold-?out|held-?out){_ENDING}"
    "|验证|驗證|开发|開發|留出",
    "test": rf"(?<![a-z])(?:test|eval|evaluate|evaluation){_ENDING}|测试|測試|评估|評估",
}
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PAPER = re.compile(r"(?:readme|licen[cs]e|changelog|citation|notice)\b.*", re.IGNORECASE)

_BESIDE = frozenset(
    {
        "config.json",
        "dataset_info.json",
        "dataset_infos.json",
        "metadata.json",
        "package.json",
        "state.json",
    }
)
"""Files that lie beside rows and describe them."""


@dataclass(frozen=True)
class Plan:
    """Which files are read for which split."""

    train: tuple[str, ...]
    dev: tuple[str, ...]
    """Empty: rows are held out by their prompt."""
    left_out: tuple[str, ...] = ()
    """Test files beside dev files, and files that only describe: read by nobody here."""


def by_name(names: Sequence[str]) -> Plan:
    """Sort files into splits; a file that names none is for training, one that only describes the others is left out.

    Raises:
        DataError: No file is for training, or a name speaks of two splits.
    """
    if len(names) == 1:
        return Plan(tuple(names), ())
    beside = [name for name in names if _is_beside(_inner(name).name)]
    if len(beside) == len(names):
        raise DataError(
            f"source.uri: no file with rows (found: {', '.join(names)}). Give the file itself."
        )
    plan = _sorted([name for name in names if name not in beside])
    return Plan(plan.train, plan.dev, (*plan.left_out, *beside))


def _is_beside(name: str) -> bool:
    return name.lower() in _BESIDE or _PAPER.fullmatch(name) is not None


def _sorted(names: Sequence[str]) -> Plan:
    decreed = tuple(name for name in names if name.startswith(f"{HELD_OUT}/"))
    if decreed:
        others = [name for name in names if name not in decreed]
        if len(others) == 1:
            return Plan(tuple(others), decreed)
        train = tuple(name for name in others if _split_of(name) == "train")
        return Plan(train, decreed, tuple(name for name in others if name not in train))
    found: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for name in names:
        found[_split_of(name)].append(name)
    if not found["train"]:
        raise DataError(
            f"source.uri: no training file (found: {', '.join(names)}). A name must contain train, "
            "or contain none of dev, valid, eval, test."
        )
    if found["dev"]:
        return Plan(tuple(found["train"]), tuple(found["dev"]), tuple(found["test"]))
    return Plan(tuple(found["train"]), tuple(found["test"]))


def _inner(name: str) -> PurePosixPath:
    """Return the path of a file within the archive it lies in, or its own."""
    return PurePosixPath(name.rpartition(":")[2])


def _split_of(name: str) -> str:
    """Ask the file's own name, then its folders from the nearest on, then the archive it lies in."""
    inner = _inner(name)
    parts = [*reversed(inner.parts), name.removesuffix(str(inner))]
    for part in parts:
        words = _HUMP.sub("_", part).lower()
        said = [split for split, pattern in _WORDS.items() if re.search(pattern, words)]
        if len(said) > 1:
            raise DataError(
                f"{name}: names two splits (found {' and '.join(said)}). "
                "Rename it, or give the dev rows as source.dev_uri."
            )
        if said:
            return said[0]
    return "train"


def held_out(prompts: Hashes, rows: int, fraction: float) -> NDArray[np.bool_]:
    """Say which rows are held out.

    Args:
        prompts: A hash of each row's prompt, even over all 64 bits; shape (rows,).
        rows: So many rows, rounded up to whole prompts: those with the smallest hashes. 0 lets the fraction decide.
        fraction: Share of the hashes' range. Membership then depends on the row alone.
    """
    if len(prompts) == 0:
        return np.zeros(0, dtype=bool)
    if rows:
        last = np.partition(prompts, min(rows, len(prompts)) - 1)[min(rows, len(prompts)) - 1]
        return np.asarray(prompts <= last)
    bound = np.uint64(int(fraction * 2**64))
    chosen = np.asarray(prompts < bound)
    # a small set may have no prompt in the range, and then keeps one out all the same
    return chosen if chosen.any() else np.asarray(prompts == prompts.min())


def repeated(prompts: Hashes) -> int:
    """Count the rows whose prompt an earlier row has."""
    order = np.sort(prompts)
    return int((order[1:] == order[:-1]).sum())


def shared(dev: Hashes, train: Hashes) -> NDArray[np.bool_]:
    """Say of each dev row whether its prompt is also trained on."""
    asked, which = np.unique(dev, return_inverse=True)
    found = np.zeros(len(asked), dtype=bool)
    for start in range(0, len(train) if len(asked) else 0, _CHUNK):
        part = train[start : start + _CHUNK]
        at = np.minimum(np.searchsorted(asked, part), len(asked) - 1)
        found[at[asked[at] == part]] = True
    return np.asarray(found[which])


class Seen:
    """Keys that have come by: 8 bytes each, in sorted runs that merge as they grow.

    A Python set of a million keys takes 100 MB. Keys are 64-bit digests: among a million rows two different ones
    share a key with probability 3 in 100 million.
    """

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def fresh(self, keys: Hashes) -> NDArray[np.bool_]:
        """Say which keys come for the first time, also within this batch, and remember them."""
        unique, where = np.unique(keys, return_index=True)
        new = np.ones(len(unique), dtype=bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            new &= run[at] != unique
        first = np.zeros(len(keys), dtype=bool)
        first[where[new]] = True
        self._add(unique[new])
        return first

    def _add(self, run: Hashes) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()  # in place: a million keys would else need their memory three times
        if len(run):
            self._runs.append(run)
