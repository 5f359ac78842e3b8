"""The pictures, proved by reading the values back from the drawing."""

from __future__ import annotations

import base64
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rendered import Page

from tasks.reports.axes import label, spacing, ticks
from tasks.reports.pictures import Point, counted, curve, histogram, image
from tasks.reports.wording import quantile

unhurried = settings(deadline=None)  # a busy machine is no failure
lengths = st.lists(st.integers(0, 5000), min_size=1, max_size=80)
losses = st.one_of(st.none(), st.floats(width=32), st.just(math.nan), st.just(math.inf))


def svg(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def paths(picture: str) -> list[list[tuple[float, float]]]:
    found = [node.get("d", "") for node in svg(picture).iter() if node.tag.endswith("path")]
    pairs = [re.findall(r"[ML]([\d.-]+) ([\d.-]+)", each) for each in found]
    return [[(float(x), float(y)) for x, y in pair] for pair in pairs]


def texts(picture: str) -> list[str]:
    return ["".join(node.itertext()) for node in svg(picture).iter() if node.tag.endswith("text")]


def test_the_curve_goes_through_the_points() -> None:
    picture = curve([Point(0, 4.0, 4.5), Point(10, 3.0), Point(20, 2.5, 2.0), Point(40, 2.0, 3.0)])
    loss, dev = paths(picture)
    assert np.allclose(
        np.diff([x for x, _ in loss]) / (loss[1][0] - loss[0][0]), [1, 1, 2], atol=0.01
    )
    heights = {4.0: loss[0][1], 3.0: loss[1][1], 2.5: loss[2][1], 2.0: loss[3][1]}
    heights |= {4.5: dev[0][1]}
    per_unit = heights[2.0] - heights[3.0]
    assert per_unit > 20
    for value, y in heights.items():
        assert y == pytest.approx(heights[2.0] - (value - 2.0) * per_unit, abs=0.2)
    ticked = {
        "".join(node.itertext()): float(node.get("y", "nan")) - 4
        for node in svg(picture).iter()
        if node.tag.endswith("text") and node.get("text-anchor") == "end"
    }
    assert ticked["3.0"] == pytest.approx(heights[3.0], abs=0.2)
    assert "dev loss 3.000" in " ".join(texts(picture))


def test_a_spike_survives_thinning_and_the_picture_stays_small() -> None:
    points = [
        Point(step, 2 + math.sin(step), 2.0 if step % 9 == 0 else None) for step in range(50_000)
    ]
    points[31_234] = Point(31_234, 99.0)
    picture = curve(points)
    assert len(image(picture, "loss")) < 30_000
    highest = min(paths(picture)[0], key=lambda pair: pair[1])
    assert highest[0] == pytest.approx(64 + 31_234 / 49_999 * 676, abs=1)


def test_a_loss_that_is_not_finite_breaks_the_line_and_is_counted() -> None:
    points = [Point(0, 3.0), Point(1, math.nan), Point(2, math.inf), Point(3, 2.0), Point(4, 1.9)]
    picture = curve(points)
    line = next(node.get("d", "") for node in svg(picture).iter() if node.tag.endswith("path"))
    assert line.count("M") == 2
    assert "not finite: 2" in " ".join(texts(picture))


@unhurried
@given(st.lists(st.tuples(st.integers(0, 10**6), losses, losses), max_size=30))
def test_any_measurement_gives_a_picture_that_a_page_can_hold(
    rows: list[tuple[int, float | None, float | None]],
) -> None:
    drawn = curve([Point(*row) for row in rows])
    (source,) = Page(image(drawn, "loss [0] | <UNK>")).pictures
    assert base64.b64decode(source.partition("base64,")[2]).decode() == drawn
    assert svg(drawn).get("viewBox") == "0 0 760 320"
    assert "nan" not in re.sub("<text.*?</text>", "", drawn)


@unhurried
@given(lengths)
def test_the_bars_of_a_histogram_hold_every_value(values: list[int]) -> None:
    picture = svg(histogram(values, "Länge <&> 长度", "characters"))
    bars = [float(n.get("height", "0")) for n in picture.iter() if n.get("class") == "bar"]
    # Heights are whole multiples of the height of one value, up to a tenth of a pixel.
    counts = np.array(bars) / (sum(bars) / len(values))
    assert counts == pytest.approx(np.round(counts), abs=0.05 * max(counts))
    assert round(sum(counts)) == len(values)


def test_a_histogram_marks_median_and_tail() -> None:
    values = [*range(1, 101)] * 3 + [9000]
    picture = histogram(values, "Length", "characters")
    bars = [node for node in svg(picture).iter() if node.get("class") == "bar"]
    right = float(bars[-1].get("x", "0")) + float(bars[-1].get("width", "0"))
    assert right == pytest.approx(740, abs=1)
    words = texts(picture)
    assert "p50 51" in words
    assert "p95 96" in words
    assert "301 values · last bar: up to 9,000" in words


def test_values_counted_elsewhere_are_drawn_like_those_counted_here() -> None:
    values = [n for n in range(30) for _ in range(n % 5 + 1)]
    edges = [float(n) for n in range(31)]
    there = [values.count(n) for n in range(30)]
    marks = {0.5: quantile(values, 0.5), 0.95: quantile(values, 0.95)}
    assert counted(edges, there, "t", "u", marks) == histogram(values, "t", "u")
    assert "no values" in texts(counted([0, 1], [0], "t", "u", {}))


@pytest.mark.parametrize(
    "values",
    [[], [math.nan], [5.0], [0.0, 0.0], [1e-9, 2e-9], [-3.0, 3.0], [1e29, -1e29, math.inf]],
)
def test_a_histogram_of_strange_values_is_well_formed(values: list[float]) -> None:
    assert svg(histogram(values, "x\x00\ud800", "y")).tag.endswith("svg")
    assert svg(curve([Point(i, value) for i, value in enumerate(values)])).tag.endswith("svg")


@unhurried
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 30))
def test_ticks_are_round_within_the_range_and_named_apart(
    low: float, width: float, about: int
) -> None:
    step = spacing(low, low + width, about)
    marks = ticks(low, low + width, step)
    assert len(marks) <= about + 1
    assert len({label(mark, step) for mark in marks}) == len(marks)
    assert float(f"{step:e}".partition("e")[0]) in (1, 2, 5)
