"""Pictures for the pages, drawn by hand as SVG: small, offline, and without a plotting library.

matplotlib takes four seconds to import and has no Chinese font; these take milliseconds and the
viewer's fonts. Each stays under 30 kB however long the run was: lines are thinned to the lowest and
highest value of each stretch, so that a spike is never lost.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tasks.reports import axes
from tasks.reports.axes import BOTTOM, LEFT, RIGHT, TOP, Scale
from tasks.reports.markdown import escape
from tasks.reports.wording import number, quantile

Pair = tuple[int, float]
"""An optimizer step and what was measured there."""

_SHOWN = 400
"""Points of a line that are drawn."""
_LARGEST = 1e30
"""A loss beyond this counts as not finite: it could not be scaled."""


@dataclass(frozen=True)
class Point:
    """What was measured at one optimizer step; None where nothing was."""

    step: int
    loss: float | None = None
    dev_loss: float | None = None


def image(svg: str, alt: str) -> str:
    """Return the markdown of a picture that carries its own bytes."""
    data = base64.b64encode(svg.encode()).decode()
    return f"![{escape(alt)}](data:image/svg+xml;base64,{data})"


def usable(value: float | None) -> bool:
    """Say whether a measured value can be drawn."""
    return value is not None and math.isfinite(value) and abs(value) < _LARGEST


def curve(points: Sequence[Point], title: str = "Loss") -> str:
    """Draw loss and dev loss over the optimizer steps.

    Values that are not finite interrupt the line and are marked at the upper edge.
    """
    ordered = sorted(points, key=lambda point: point.step)
    train = [(p.step, p.loss) for p in ordered if p.loss is not None]
    dev = [(p.step, p.dev_loss) for p in ordered if p.dev_loss is not None]
    values = [value for _, value in train + dev if usable(value)]
    if not values:
        return _empty(title, "no loss was measured")
    low, high = axes.spread(min(values), max(values))
    room = (high - low) * 0.05
    y = Scale(low - room, high + room, BOTTOM, TOP)
    first, last = axes.spread(ordered[0].step, ordered[-1].step)
    x = Scale(first, last, LEFT, RIGHT)
    parts = axes.vertical(y, axes.spacing(low, high, 5))
    parts += axes.horizontal(x, axes.spacing(first, last, 8), "optimizer step", whole=True)
    parts += _train_line(train, x, y) + _dev_line(dev, x, y)
    bad = [at for at, value in train + dev if not usable(value)]
    parts += [axes.line(x.at(at), TOP - 8, x.at(at), TOP, "bad line") for at in bad[:50]]
    return axes.card(title, [*parts, _legend(train, dev, len(bad))])


def histogram(values: Sequence[float], title: str, unit: str) -> str:
    """Draw how often which value occurs, with its median and 95th percentile.

    A long tail is gathered in the last bar when the largest value is over twice the 99th percentile.
    """
    finite = [value for value in values if usable(value)]
    if not finite:
        return _empty(title, "no values")
    edges, tail = _edges(finite)
    notes = [f"{len(finite):,} values"] + [f"last bar: up to {max(finite):,.4g}"] * tail
    notes += [f"{len(values) - len(finite):,} not finite"] * (len(finite) < len(values))
    marks = {share: quantile(finite, share) for share in (0.5, 0.95)}
    whole = all(value % 1 == 0 for value in finite)
    return _bars(edges, _counts(finite, edges), title, _Axis(unit, whole, marks, notes))


def counted(
    edges: Sequence[float],
    counts: Sequence[int],
    title: str,
    unit: str,
    marks: Mapping[float, float],
) -> str:
    """Draw whole values that were counted elsewhere.

    Args:
        edges: Borders of the bars, one more than counts, evenly apart; only the last bar may be wider.
        counts: Values in each bar.
        title: What is counted.
        unit: Unit of the values.
        marks: Quantiles to point out: the value by its share.
    """
    if not sum(counts):
        return _empty(title, "no values")
    notes = [f"{sum(counts):,} values"]
    width = edges[1] - edges[0]
    if len(edges) > 2 and edges[-1] - edges[-2] > width:
        notes.append(f"last bar: up to {edges[-1] - 1:,.4g}")
        edges = [*edges[:-1], edges[-2] + width]
    return _bars(edges, counts, title, _Axis(unit, True, marks, notes))


@dataclass(frozen=True)
class _Axis:
    """What is written around the bars."""

    unit: str
    whole: bool
    marks: Mapping[float, float]
    notes: Sequence[str]


def _bars(edges: Sequence[float], counts: Sequence[int], title: str, axis: _Axis) -> str:
    step = max(axes.spacing(0, max(counts), 4), 1.0)
    y = Scale(0, math.ceil(max(counts) / step) * step, BOTTOM, TOP)
    x = Scale(edges[0], edges[-1], LEFT, RIGHT)
    parts = axes.vertical(y, step)
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            parts.append(_bar(x.at(left), x.at(right), y.at(count)))
    parts += axes.horizontal(x, axes.spacing(x.low, x.high, 8), axis.unit, axis.whole)
    for (share, value), height in zip(axis.marks.items(), (TOP - 6, TOP + 10), strict=False):
        parts += _marker(value, share, x, height)
    return axes.card(title, [*parts, axes.text(RIGHT, 28, " · ".join(axis.notes), "end")])


def _empty(title: str, words: str) -> str:
    return axes.card(title, [axes.text((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2, words, "middle")])


def _train_line(pairs: Sequence[Pair], x: Scale, y: Scale) -> list[str]:
    if len(pairs) < 30:
        return [_path(pairs, x, y, "a line")]
    return [_path(pairs, x, y, "a line faint"), _path(_smooth(pairs), x, y, "a line")]


def _dev_line(pairs: Sequence[Pair], x: Scale, y: Scale) -> list[str]:
    drawn = [_path(pairs, x, y, "b line")]
    if len(pairs) <= 60:
        drawn += [
            f'<circle class="dot" cx="{x.at(at):.1f}" cy="{y.at(value):.1f}" r="3"/>'
            for at, value in pairs
            if usable(value)
        ]
    return drawn


def _smooth(pairs: Sequence[Pair]) -> list[Pair]:
    """Average each value with its neighbours, about a thirtieth of the line."""
    good = [(at, value) for at, value in pairs if usable(value)]
    sums = list(accumulate((value for _, value in good), initial=0.0))
    reach = len(good) // 60
    smooth = []
    for index, (at, _) in enumerate(good):
        left, right = max(0, index - reach), min(len(good), index + reach + 1)
        smooth.append((at, (sums[right] - sums[left]) / (right - left)))
    return smooth


def _path(pairs: Sequence[Pair], x: Scale, y: Scale, style: str) -> str:
    pen, steps = "M", []
    for at, value in _thin(pairs):
        if usable(value):
            steps.append(f"{pen}{x.at(at):.1f} {y.at(value):.1f}{'h0' if pen == 'M' else ''}")
        pen = "L" if usable(value) else "M"
    return f'<path class="{style}" d="{"".join(steps)}"/>' if steps else ""


def _thin(pairs: Sequence[Pair]) -> list[Pair]:
    """Keep the ends, and of each stretch its lowest and highest value in their order."""
    if len(pairs) <= _SHOWN:
        return list(pairs)
    size = math.ceil(len(pairs) / (_SHOWN / 2))
    kept = {0, len(pairs) - 1}
    for start in range(0, len(pairs), size):
        stretch = range(start, min(start + size, len(pairs)))
        good = [index for index in stretch if usable(pairs[index][1])]
        if good:
            kept |= {min(good, key=lambda i: pairs[i][1]), max(good, key=lambda i: pairs[i][1])}
        kept |= set([index for index in stretch if not usable(pairs[index][1])][:1])
    return [pairs[index] for index in sorted(kept)]


def _legend(train: Sequence[Pair], dev: Sequence[Pair], bad: int) -> str:
    entries = []
    if train:
        entries.append(("ka", "━━", f"loss {number(train[-1][1], 3)}"))
    if dev:
        entries.append(("kb", "●", f"dev loss {number(dev[-1][1], 3)}"))
    if bad:
        entries.append(("kbad", "┃", f"not finite: {bad:,}"))
    # One text, so that the viewer's font decides the distances; XML would collapse plain spaces.
    words = "\u00a0\u00a0\u00a0\u00a0".join(
        f'<tspan class="{style}">{sign}</tspan>\u00a0{shown}' for style, sign, shown in entries
    )
    return f'<text x="{RIGHT}" y="28" text-anchor="end">{words}</text>'


def _edges(finite: Sequence[float]) -> tuple[list[float], bool]:
    """Return the borders of about thirty bars, and whether the last one gathers a tail."""
    low, most = min(finite), max(finite)
    common = quantile(finite, 0.99)
    tail = low >= 0 and most > 2 * common > 0
    low, high = axes.spread(low, common if tail else most)
    width = axes.spacing(low, high, 30)
    if all(value % 1 == 0 for value in finite):
        width = max(1.0, width)
    start = math.floor(low / width + 1e-9)
    stop = math.floor(high / width + 1e-9) + 1 + tail
    return [index * width for index in range(start, stop + 1)], tail


def _counts(finite: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) - 1)
    width = edges[1] - edges[0]
    for value in finite:
        place = math.floor((value - edges[0]) / width + 1e-9)
        counts[min(max(place, 0), len(counts) - 1)] += 1
    return counts


def _bar(left: float, right: float, top: float) -> str:
    return (
        f'<rect class="bar" x="{left + 0.5:.1f}" y="{top:.1f}" '
        f'width="{max(right - left - 1, 0.5):.1f}" height="{BOTTOM - top:.1f}"/>'
    )


def _marker(value: float, share: float, x: Scale, height: float) -> list[str]:
    at = x.at(min(value, x.high))
    late = at > RIGHT - 80
    words = axes.text(
        at + (-5 if late else 5),
        height,
        f"p{share * 100:.0f} {value:,.4g}",
        "end" if late else "start",
    )
    return [axes.line(at, height - 8, at, BOTTOM, "mark"), words]
