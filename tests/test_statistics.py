"""The bootstrap intervals against simulation and theory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tasks.errors import ConfigError, DataError
from tasks.metrics import statistics
from tasks.metrics.statistics import Floats, interval, paired_difference

STREAMS = 800

DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator], Floats], float]] = {
    "scores": (lambda generator: generator.normal(22.0, 7.0, 150), 22.0),
    "skewed scores": (lambda generator: generator.gamma(2.0, 2.0, 150), 4.0),
    "hits": (lambda generator: generator.binomial(1, 0.3, 150).astype(float), 0.3),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_an_interval_holds_the_truth_as_often_as_it_says(name: str, confidence: float) -> None:
    draw, truth = DISTRIBUTIONS[name]
    held = 0
    for stream in range(STREAMS):
        _, low, high = interval(draw(np.random.default_rng(stream)), confidence, 400, seed=stream)
        held += low <= truth <= high
    # 3 standard errors of the simulation, and the little by which percentile intervals are narrow
    tolerance = 3 * (confidence * (1 - confidence) / STREAMS) ** 0.5
    assert -tolerance - 0.015 < held / STREAMS - confidence < tolerance


def test_equal_systems_differ_in_about_5_of_100_comparisons() -> None:
    found = 0
    for stream in range(STREAMS):
        generator = np.random.default_rng(stream)
        difficulty = generator.normal(22.0, 7.0, 150)
        one, other = (difficulty + generator.normal(0, 3.0, 150) for _ in range(2))
        _, low, high = paired_difference(one, other, 0.95, 400, seed=stream)
        found += not low <= 0 <= high
    assert 0.025 < found / STREAMS < 0.085


def test_pairing_finds_a_difference_that_the_single_intervals_hide() -> None:
    generator = np.random.default_rng(1)
    difficulty = generator.normal(22.0, 7.0, 300)
    old = difficulty + generator.normal(0, 1.0, 300)
    new = difficulty + 0.5 + generator.normal(0, 1.0, 300)
    assert interval(new)[1] < interval(old)[2]
    mean, low, high = paired_difference(new, old)
    assert mean == pytest.approx(float(new.mean() - old.mean()))
    assert 0 < low < mean < high


def test_the_width_is_that_of_the_normal_approximation_for_many_rows() -> None:
    values = np.random.default_rng(3).normal(20.0, 6.0, 5000)
    mean, low, high = interval(values, 0.95, 4000)
    expected = 1.96 * values.std() / len(values) ** 0.5
    assert mean == values.mean()
    assert mean - low == pytest.approx(expected, rel=0.06)
    assert high - mean == pytest.approx(expected, rel=0.06)


def test_the_interval_is_that_of_multinomial_weights() -> None:
    values = np.random.default_rng(4).gamma(1.0, 5.0, 40)
    weights = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40), 40_000)
    expected = np.quantile(weights @ values / 40, [0.025, 0.975])
    assert interval(values, 0.95, 40_000)[1:] == pytest.approx(tuple(expected), rel=0.01)


def test_a_seed_decides_the_interval_and_only_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0]
    first = interval(values, seed=1)
    assert interval(list(values), seed=1) == first
    assert interval(values, seed=2) != first
    monkeypatch.setattr(statistics, "_DRAWS", 7)  # one resample at a time
    assert interval(values, seed=1) == first


def test_more_confidence_is_a_wider_interval() -> None:
    values = np.random.default_rng(6).normal(0, 1, 100)
    (_, low, high), (_, lower, higher) = interval(values, 0.8), interval(values, 0.99)
    assert lower < low < high < higher


def test_rows_without_spread_leave_no_doubt() -> None:
    assert interval([3.0] * 20) == (3.0, 3.0, 3.0)
    assert paired_difference([5.5], [4.0]) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "found shape \\(0,\\)"),
        (np.ones((2, 2)), "found shape \\(2, 2\\)"),
        ([1.0, float("nan")], "found nan in row 1"),
        ([float("inf"), 1.0], "found inf in row 0"),
    ],
)
def test_scores_that_are_no_list_of_numbers_are_refused(values: Floats, message: str) -> None:
    with pytest.raises(DataError, match=message):
        interval(values)
    with pytest.raises(DataError, match=message):
        paired_difference([1.0], values)


def test_systems_that_answered_different_rows_are_not_compared() -> None:
    with pytest.raises(DataError, match=r"found 2 and 3 values"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_in_percent_is_refused(confidence: float) -> None:
    with pytest.raises(ConfigError, match=r"must be above 0 and below 1"):
        interval([1.0, 2.0], confidence)


def test_an_interval_needs_resamples() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        interval([1.0, 2.0], resamples=0)
