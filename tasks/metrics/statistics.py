"""How sure a mean is: bootstrap intervals of one score, and of the difference between two systems.

Method: the multinomial bootstrap. As many rows as there are get drawn anew, with replacement and
equal chances, so the weights of the rows are multinomial; the mean of each such resample is kept.
The interval is the middle part of these means (percentile interval): for 95 %, from their 2.5 % to
their 97.5 % quantile. Rows are taken to be independent of each other.

Two systems are compared row by row: resampling the differences leaves out how hard the rows are. An
interval that does not hold 0 is a difference at the level 1 - confidence.

The same seed and number of rows give the same resamples, so the intervals of several metrics are of
the same drawn rows. `tests/test_statistics.py` simulates how often the intervals are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tasks.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
Values = Sequence[float] | Floats

_DRAWS = 4_000_000
"""Row numbers drawn at once: 64 MB with the values behind them, whatever the number of rows."""


def interval(
    values: Values, confidence: float = 0.95, resamples: int = 1000, seed: int = 17
) -> tuple[float, float, float]:
    """Return the mean of `values: (rows,)` and the bounds of its bootstrap interval.

    Raises:
        ConfigError: The confidence is not between 0 and 1, or there are no resamples.
        DataError: The values are not a non-empty list of finite numbers.
    """
    rows = _checked("interval", values)
    if not 0 < confidence < 1:
        raise ConfigError(
            f"metrics.confidence: must be above 0 and below 1 (found {confidence!r}). Take 0.95."
        )
    if resamples < 1:
        raise ConfigError(
            f"metrics.resamples: must be at least 1 (found {resamples!r}). Take 1000."
        )
    means = np.concatenate(list(_resampled_means(rows, resamples, seed)))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(rows.mean()), float(low), float(high)


def paired_difference(
    a: Values, b: Values, confidence: float = 0.95, resamples: int = 1000, seed: int = 17
) -> tuple[float, float, float]:
    """Return the mean of `a - b`, both `(rows,)` of the same rows, and the bounds of its interval.

    Raises:
        ConfigError: As for `interval`.
        DataError: As for `interval`, or there are not as many of `a` as of `b`.
    """
    new, old = _checked("paired_difference", a), _checked("paired_difference", b)
    if new.size != old.size:
        raise DataError(
            f"paired_difference: both systems must have answered the same rows (found {new.size} "
            f"and {old.size} values). Score both on the same split."
        )
    return interval(new - old, confidence, resamples, seed)


def _resampled_means(rows: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS // rows.size)
    for start in range(0, resamples, at_once):
        drawn = generator.integers(rows.size, size=(min(at_once, resamples - start), rows.size))
        yield rows[drawn].mean(axis=1)


def _checked(where: str, values: Values) -> Floats:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 1 or not rows.size:
        raise DataError(
            f"{where}: needs a list of at least one number (found shape {rows.shape}). "
            "Pass one score a row."
        )
    if not np.isfinite(rows).all():
        broken = int(np.flatnonzero(~np.isfinite(rows))[0])
        raise DataError(
            f"{where}: every score must be a finite number (found {rows[broken]} in row {broken}). "
            "Score that row again."
        )
    return rows
