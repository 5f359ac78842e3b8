"""What the rows of a dataset share: prompts, runs of characters, nearly all of it.

Fed with the rows as they are kept, dev rows before training rows, and asked once at the end. How overlaps are
found is in `overlap/`; which rows are fed, and when, is the business of `conversion.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks import overlap, splits
from tasks.formats import Message
from tasks.jsonl import Writer, whole
from tasks.ledger import Overlap

RUN = 13
"""Characters that an answer shares with another by chance only: as many as GPT-3's check has words."""

NEAR_ROWS = 500_000
"""Rows that are compared with each other; more would need more memory than all else together."""

Rows = Sequence[Sequence[Message]]


class Sharing:
    """Looks for what is shared."""

    def __init__(self) -> None:
        self._runs, self._near = overlap.Runs(RUN), overlap.Near()

    def add(self, split: str, rows: Rows, chosen: NDArray[np.bool_]) -> None:
        """Take the chosen rows of a split; every dev row comes before the first training row."""
        kept = list(itertools.compress(rows, chosen))
        if split == "dev":
            self._runs.hold([turns[-1]["content"] for turns in kept])
        else:  # every answer of a conversation is learnt
            self._runs.look(
                [turn["content"] for turns in kept for turn in turns if turn["role"] == "assistant"]
            )
        room = max(0, NEAR_ROWS - self._near.texts)
        self._near.add([whole(turns) for turns in kept[:room]])

    def found(self, dev: Writer, train: Writer) -> Overlap:
        """Say what is shared; the writers hold the rows that were taken, and are closed."""
        looked_at, sharing = self._runs.held, self._runs.shared
        asked = splits.shared(dev.prompts(), train.prompts())
        known = asked.copy()
        known[self._runs.rows] = True
        examples = [run for _, run in self._runs.examples[:3]]
        self._runs = overlap.Runs(RUN)  # lets its memory go before the next is needed
        with dev.texts() as of_dev, train.texts() as of_train:
            near = self._near.pairs(
                lambda row: of_dev(row) if row < dev.rows else of_train(row - dev.rows)
            )
        return Overlap(
            run_characters=RUN,
            dev_looked_at=looked_at,
            dev_with_shared_run=sharing,
            shared_runs=examples,
            dev_with_trained_prompt=int(asked.sum()),
            dev_known=int(known.sum()),
            near_looked_at=self._near.texts,
            near_pairs=near.pairs,
            near_rows=near.rows,
            near_complete=near.complete,
        )
