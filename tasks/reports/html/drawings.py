"""Pictures of this page: dots with whiskers, compared histograms, and any other drawing made to fit in.

A panel is 360 wide, so that a phone shows it without shrinking its letters; a wide page shows several
beside each other. Drawings of `pictures.py` bring a style of their own, whose rules would hold for the
whole page once the drawing is part of it: `inline` takes it out, and `STYLE` has the same rules once,
for drawings alone, and dark on a screen only, since paper is white.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape as xml

from tasks.reports import axes
from tasks.reports.axes import Scale, line, text
from tasks.reports.html.markup import Html, tag
from tasks.reports.pictures import usable
from tasks.reports.wording import interval, number, quantile, visible

if TYPE_CHECKING:
    from tasks.artifacts import Interval

WIDTH = 360
_LEFT, _RIGHT, _TOP = 16, 344, 42
_STEP = 38
"""Height of one system among the whiskers."""
_FLOOR = 190
"""Lower edge of the bars of a histogram."""

_OWN_STYLE = re.compile("<style>(.*?)</style>", re.DOTALL)
_RULE = re.compile(r"([^{}]+)(\{[^{}]*\})")


def _scoped(css: str) -> str:
    """Return rules that hold for drawings alone."""
    on_screen = css.replace("@media(", "@media screen and (")
    return _RULE.sub(
        lambda rule: ",".join(f".drawing {one}" for one in rule[1].split(",")) + rule[2],
        on_screen,
    )


def _own_style() -> str:
    found = _OWN_STYLE.search(axes.card("", []))
    return _scoped(found[1]) if found else ""


STYLE = _own_style()
"""The rules of `axes.py`, for a page that holds many drawings."""


def inline(svg: str, style: str = "wide") -> Html:
    """Return a drawing as a part of the page.

    Args:
        svg: As `pictures.py` or this file made it.
        style: `wide` scrolls on a phone, `panel` fits it.
    """
    plain = _OWN_STYLE.sub("", svg).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)
    return tag("div", Html(plain), class_=f"drawing {style}")


def whiskers(title: str, systems: Sequence[tuple[str, Interval, bool]]) -> str:
    """Draw means as dots and their intervals as whiskers, one below the other.

    Args:
        title: What was measured.
        systems: What to call it, its interval, and whether it is the new model.
    """
    drawn = [each for each in systems if usable(each[1].mean)]
    ends = [end for _, value, _ in drawn for end in _ends(value)]
    if not ends:
        return _panel(title, _TOP + 60, [text(_LEFT, _TOP + 24, "no finite score")])
    low, high = axes.spread(min(ends), max(ends))
    x = Scale(low, high, _LEFT + 8, _RIGHT - 8)
    floor = _TOP + _STEP * len(systems)
    parts = _ruler(x, axes.spacing(low, high, 5), floor, "percent")
    new = next((value.mean for _, value, mine in drawn if mine), None)
    for index, (name, value, mine) in enumerate(systems):
        top = _TOP + _STEP * index
        # not through the words above each whisker
        if new is not None:
            parts.append(line(x.at(new), top + 18, x.at(new), top + 33, "mark"))
        parts += _whisker(name, value, mine, x, top)
    return _panel(title, floor + 40, parts)


def _ends(value: Interval) -> list[float]:
    return [end for end in (value.low, value.mean, value.high) if usable(end)]


def _whisker(name: str, value: Interval, mine: bool, x: Scale, top: float) -> list[str]:
    words = interval(value)
    style = "title" if mine else ""
    parts = [text(_LEFT, top + 14, _fitted(name, 42 - len(words)), style=style)]
    parts.append(text(_RIGHT, top + 14, words, "end", style))
    if not usable(value.mean):
        return parts
    at, y, colour = x.at(value.mean), top + 25, "a" if mine else "axis"
    if usable(value.low) and usable(value.high):
        left, right = x.at(value.low), x.at(value.high)
        parts.append(line(left, y, right, y, f"{colour} line"))
        parts += [line(end, y - 4, end, y + 4, f"{colour} line") for end in (left, right)]
    # the shape tells them apart as well: colours do not reach every eye, nor every printer
    if mine:
        return [*parts, f'<path class="ka" d="M{at:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>']
    return [*parts, f'<circle class="hollow" cx="{at:.1f}" cy="{y:.1f}" r="4"/>']


def _fitted(name: str, columns: int) -> str:
    """Return a name, or the beginning that fits; a Chinese character takes two columns."""
    widths = [2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in name[:columns]]
    kept = len(name)
    if sum(widths) > columns or len(name) > columns:
        kept = next(n for n in range(len(widths), -1, -1) if sum(widths[:n]) < columns)
    return name if kept == len(name) else f"{name[:kept]}…"


def compared(title: str, new: Sequence[float], base: Sequence[float] = ()) -> str:
    """Draw how the row scores of the new model are spread, and those of the base model as an outline.

    Both are shares of their own rows, in the same bars.
    """
    kinds = [[value for value in values if usable(value)] for values in (new, base)]
    every = [value for values in kinds for value in values]
    if not every:
        return _panel(title, _TOP + 60, [text(_LEFT, _TOP + 24, "no finite score")])
    edges = _edges(min(every), max(every))
    shares = [_shares(values, edges) for values in kinds]
    highest = max(share for some in shares for share in some)
    step = axes.spacing(0, highest, 4)
    left = _LEFT + 28
    x = Scale(edges[0], edges[-1], left, _RIGHT)
    y = Scale(0, math.ceil(highest / step - 1e-9) * step, _FLOOR, _TOP + 24)
    parts = []
    for value in axes.ticks(y.low, y.high, step):
        parts.append(line(left, y.at(value), _RIGHT, y.at(value), "grid"))
        parts.append(text(left - 6, y.at(value) + 4, axes.label(value, step), "end"))
    parts += [_bar(x, y, *each) for each in zip(edges, edges[1:], shares[0], strict=False)]
    parts += _ruler(x, axes.spacing(x.low, x.high, 5), _FLOOR, "score of a row")
    parts += [_outline(x, y, edges, shares[1])] if kinds[1] else []
    return _panel(title, _FLOOR + 40, [*parts, _key(kinds), text(_LEFT, _FLOOR + 32, "% of rows")])


def _edges(low: float, high: float) -> list[float]:
    low, high = axes.spread(low, high)
    width = axes.spacing(low, high, 24)
    start, stop = math.floor(low / width + 1e-9), math.floor(high / width + 1e-9) + 1
    return [index * width for index in range(start, stop + 1)]


def _shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    counts = [0] * (len(edges) - 1)
    width = edges[1] - edges[0]
    for value in values:
        place = math.floor((value - edges[0]) / width + 1e-9)
        counts[min(max(place, 0), len(counts) - 1)] += 1
    return [100 * count / max(1, len(values)) for count in counts]


def _bar(x: Scale, y: Scale, left: float, right: float, share: float) -> str:
    width = max(x.at(right) - x.at(left) - 1, 0.5)
    return (
        f'<rect class="bar" x="{x.at(left) + 0.5:.1f}" y="{y.at(share):.1f}" '
        f'width="{width:.1f}" height="{_FLOOR - y.at(share):.1f}"/>'
    )


def _outline(x: Scale, y: Scale, edges: Sequence[float], shares: Sequence[float]) -> str:
    steps = [f"M{x.at(edges[0]):.1f} {_FLOOR}"]
    for right, share in zip(edges[1:], shares, strict=True):
        steps.append(f"V{y.at(share):.1f}H{x.at(right):.1f}")
    return f'<path class="b line" d="{"".join(steps)}V{_FLOOR}"/>'


def _key(kinds: Sequence[Sequence[float]]) -> str:
    entries = (("ka", "■", "new"), ("kb", "━", "base"))
    words = "\u00a0\u00a0\u00a0".join(
        f'<tspan class="{style}">{sign}</tspan>\u00a0{name}, median {number(quantile(values, 0.5))}'
        for (style, sign, name), values in zip(entries, kinds, strict=True)
        if values
    )
    return f'<text x="{_LEFT}" y="{_TOP + 4}">{words}</text>'


def _ruler(x: Scale, step: float, y: float, unit: str) -> list[str]:
    parts = [line(x.start, y, x.end, y, "axis")]
    for value in axes.ticks(x.low, x.high, step):
        parts.append(line(x.at(value), y, x.at(value), y + 4, "axis"))
        parts.append(text(x.at(value), y + 17, axes.label(value, step), "middle"))
    return [*parts, text(_RIGHT, y + 32, unit, "end")]


def _panel(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"<title>{xml(visible(title))}</title>"
    )
    frame = (
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8"/>'
    )
    named = text(_LEFT, 26, _fitted(title, 40), style="title")
    return "".join([head, frame, named, *parts, "</svg>"])
