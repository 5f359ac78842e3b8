"""Compare two scored systems row by row, outside any verdict."""

from __future__ import annotations

import numpy as np

from tasks import judging
from tasks.artifacts import Scores, read
from tasks.config import MetricsConfig
from tasks.errors import DataError


def by_row(scores: Scores) -> judging.Scored:
    """Return the scores of each row, `(rows,)`, by metric."""
    rows = read(scores, "scores.jsonl")
    return {metric: np.array([row[metric] for row in rows]) for metric in scores.metrics}


def compare(mine: Scores, theirs: Scores, config: MetricsConfig) -> list[judging.Difference]:
    """Return the paired difference of two systems on each metric, `mine` minus `theirs`.

    Raises:
        DataError: They did not answer the same rows, or were not scored alike.
    """
    if mine.dataset != theirs.dataset or mine.rows != theirs.rows:
        raise DataError(
            f"compare: the two answered other rows (found {mine.rows:,} of dataset "
            f"{mine.dataset[:8]} and {theirs.rows:,} of {theirs.dataset[:8]}). "
            "Let both answer the same dataset: run the flow with each, on the same rows."
        )
    if mine.protocol != theirs.protocol:
        raise DataError(
            f"compare: the two were scored by other protocols (found {mine.protocol} and "
            f"{theirs.protocol}). Score both alike."
        )
    rules = judging.Rules(
        beats=("other",),
        metrics=tuple(mine.metrics),
        floors={},
        champion_margin=0.0,
        slice_margin=-1.0,
        min_rows=1,
        max_empty=1.0,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=config.seed,
    )
    return judging.differences({"tuned": by_row(mine), "other": by_row(theirs)}, rules)
