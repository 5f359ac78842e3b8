"""How sure a mean is: bootstrap intervals of one score and of a difference, tests, and minimum n.

Method: the multinomial bootstrap. As many rows as there are get drawn anew, with replacement and
equal chances, so the weights of the rows are multinomial; the mean of each such resample is kept.
The interval is the middle part of these means (percentile interval): for 95 %, from their 2.5 % to
their 97.5 % quantile. Rows are taken to be independent of each other.

Two systems are compared row by row: resampling the differences leaves out how hard the rows are. An
interval that does not hold 0 is a difference at the level 1 - confidence.

The same seed and number of rows give the same resamples, so the intervals of several metrics are of
the same drawn rows. `tests/test_statistics.py` simulates how often the intervals are right.

`sign_flip` asks the same question without resampling: were the two systems equal, each row's
difference could as well have the other sign. It is exact for few rows, where bootstrap intervals are
too narrow. `holm` is for several such questions at once, `detectable` for how many rows are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tasks.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
Values = Sequence[float] | Floats

_DRAWS = 4_000_000
"""Row numbers drawn at once: 64 MB with the values behind them, whatever the number of rows."""

_TIE = 1e-12
"""Sums closer than this part of all absolute differences are equal: they differ by rounding alone."""


def interval(
    values: Values, confidence: float = 0.95, resamples: int = 1000, seed: int = 17
) -> tuple[float, float, float]:
    """Return the mean of `values: (rows,)` and the bounds of its bootstrap interval.

    Raises:
        ConfigError: The confidence is not between 0 and 1, or there are no resamples.
        DataError: The values are not a non-empty list of finite numbers.
    """
    rows = _checked("interval", values)
    _check_share("confidence", confidence, 0.95)
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
    return interval(_paired("paired_difference", a, b), confidence, resamples, seed)


def sign_flip(
    a: Values, b: Values, margin: float = 0.0, flips: int = 10_000, seed: int = 17
) -> float:
    """Return how likely `a - b`, paired by row, is as far from `-margin` as here when nothing is there.

    The two-sided p-value of the permutation test: the share of sign patterns of `a - b + margin`
    with a mean as far from 0 as the observed one. All `2 ** rows` of them when there are not more
    than `flips` (rows without a difference do not count), else `flips` drawn ones and the observed
    one itself, so that it is never 0. It assumes differences spread alike to both sides.

    Args:
        a: Scores of one system, `(rows,)`.
        b: Scores of the other one for the same rows.
        margin: By how much `a` may be worse: a small p-value and a mean above `-margin` is no worse.
        flips: Patterns to draw, at least 1.
        seed: Of the drawing.

    Raises:
        ConfigError: There are no flips.
        DataError: As for `paired_difference`.
    """
    if flips < 1:
        raise ConfigError(f"metrics.flips: must be at least 1 (found {flips!r}). Take 10000.")
    moved = _paired("sign_flip", a, b) + margin
    rows = moved[moved != 0]
    exact = 2**rows.size <= flips
    patterns = _all_signs(rows.size) if exact else _drawn_signs(rows.size, flips, seed)
    needed = abs(rows.sum()) - _TIE * np.abs(rows).sum()
    extreme = sum(int((np.abs(signs @ rows) >= needed).sum()) for signs in patterns)
    return extreme / 2**rows.size if exact else (extreme + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of several comparisons for their number, in the same order (Holm 1979).

    Rejecting those below 1 - confidence rejects any true hypothesis at all with at most that
    chance, however the comparisons depend on each other.

    Raises:
        DataError: A value is not from 0 to 1.
    """
    broken = [value for value in p_values if not 0 <= value <= 1]
    if broken:
        raise DataError(
            f"holm: each p-value must be from 0 to 1 (found {broken[0]!r}). Pass p-values."
        )
    corrected = [0.0] * len(p_values)
    least = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = least
    return corrected


def detectable(values: Values, n: int, confidence: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest true mean of `values: (rows,)` that `n` such rows decide not to be 0.

    By the normal approximation. Pass paired differences for what a comparison can find, and scores
    for what an interval can tell apart from a given number.

    Args:
        values: Rows whose spread is that of the rows to come; two at least.
        n: Number of rows to come.
        confidence: Of the interval that must not hold 0.
        power: How often it must find the difference; 0.5 is a coin's chance at half the width of
            the interval.

    Raises:
        ConfigError: `n` is less than 1, or confidence or power are not between 0 and 1.
        DataError: As for `interval`, or there is only one value.
    """
    if n < 1:
        raise ConfigError(f"metrics.n: must be at least 1 (found {n!r}). Pass a number of rows.")
    return float(_reach(values, confidence, power) / n**0.5)


def rows_needed(
    values: Values, difference: float, confidence: float = 0.95, power: float = 0.8
) -> int:
    """Return how many rows decide that a true mean of this size is not 0: `detectable` reversed.

    Raises:
        ConfigError: The difference is not above 0, or confidence or power not between 0 and 1.
        DataError: As for `detectable`.
    """
    if not difference > 0:
        raise ConfigError(
            f"metrics.difference: must be above 0 (found {difference!r}). Pass its size."
        )
    return max(1, ceil((_reach(values, confidence, power) / difference) ** 2))


def _reach(values: Values, confidence: float, power: float) -> float:
    rows = _checked("detectable", values)
    _check_share("confidence", confidence, 0.95)
    _check_share("power", power, 0.8)
    if rows.size < 2:
        raise DataError(
            "detectable: needs two values to see a spread (found 1). Pass one score a row."
        )
    normal = NormalDist()
    factor = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return max(0.0, factor) * float(rows.std(ddof=1))


def _all_signs(rows: int) -> Iterator[Floats]:
    places = np.arange(rows)
    at_once = max(1, _DRAWS // max(1, rows))
    for start in range(0, 2**rows, at_once):
        numbers = np.arange(start, min(start + at_once, 2**rows))[:, None]
        yield np.where(numbers >> places & 1, -1.0, 1.0)


def _drawn_signs(rows: int, flips: int, seed: int) -> Iterator[Floats]:
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS // rows)
    for start in range(0, flips, at_once):
        yield np.where(generator.random((min(at_once, flips - start), rows)) < 0.5, -1.0, 1.0)


def _paired(where: str, a: Values, b: Values) -> Floats:
    new, old = _checked(where, a), _checked(where, b)
    if new.size != old.size:
        raise DataError(
            f"{where}: both systems must have answered the same rows (found {new.size} "
            f"and {old.size} values). Score both on the same split."
        )
    return new - old


def _check_share(name: str, value: float, usual: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(
            f"metrics.{name}: must be above 0 and below 1 (found {value!r}). Take {usual}."
        )


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
