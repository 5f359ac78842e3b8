"""Who scored what: systems by metrics with their intervals, and the differences to each rival.

Ordered for a reader who doubts it: the rivals stand in the same table, the protocol below it, and a
score that could not be computed says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tasks.reports.html.drawings import inline, whiskers
from tasks.reports.html.markup import Html, foreign, listed, row, table, tag, together
from tasks.reports.html.report import (
    NEW,
    TITLES,
    Difference,
    Published,
    Scoreboard,
    System,
)
from tasks.reports.wording import (
    UNKNOWN,
    difference,
    number,
    reading,
    title,
)

if TYPE_CHECKING:
    from tasks.artifacts import Interval

_SIGNS = {"better": "▲", "worse": "▼", "no clear difference": "≈"}


def called(name: str) -> Html:
    """Return what a system is called before a person."""
    return Html(TITLES[name]) if name in TITLES else foreign(name)


def board(given: Scoreboard) -> Html:
    """Return the table of scores, what it was made with, and the differences to each rival."""
    systems = given.systems
    names = union(one.metrics for one in systems)
    best = {name: _best(systems, name) for name in names}
    lines = [_scored(one, names, best) for one in systems]
    caption = (
        f"Scores in percent; below each mean its bootstrap interval at {given.confidence * 100:g}% "
        "confidence, resampled by row."
    )
    header = ["system", "rows", *map(title, names)]
    parts = [*_warnings(given.warnings), *_mixed(systems)]
    parts += [table("scores", caption, header, lines), _protocol(given)]
    parts += [_differences(given.differences)] if given.differences else []
    parts += [_published(given.published)] if given.published else []
    return together(*parts)


def _best(systems: Sequence[System], name: str) -> float | None:
    """Return the highest mean; None where there is nothing to compare."""
    means = [one.metrics[name].mean for one in systems if name in one.metrics]
    return max((mean for mean in means if math.isfinite(mean)), default=None) if means[1:] else None


def _scored(one: System, names: Sequence[str], best: dict[str, float | None]) -> Html:
    note = tag("small", one.note) if one.note else ""
    cells = [
        cell(one.metrics[name], one.metrics[name].mean == best[name])
        if name in one.metrics
        else Html("–")
        for name in names
    ]
    named = together(called(one.name), note)
    return row(named, f"{one.rows:,}", *cells, style="new" if one.name == NEW else "")


def cell(value: Interval, leads: bool = False) -> Html:
    """Return a mean over its interval; the one that leads its column is marked by sign and word."""
    mean: str = number(value.mean)
    bounds: str = ""
    if math.isfinite(value.low) and math.isfinite(value.high):
        bounds = tag("small", f"{number(value.low)}–{number(value.high)}")
    elif math.isfinite(value.mean):
        bounds = tag("small", "no interval")
    if leads:
        return together(
            tag("strong", f"★\u00a0{mean}", tag("span", " best", class_="aside")), bounds
        )
    return together(mean, bounds)


def _warnings(given: Sequence[str]) -> list[Html]:
    return [tag("div", listed(map(foreign, given)), class_="warning")] if given else []


def _mixed(systems: Sequence[System]) -> list[Html]:
    found = sorted({one.protocol for one in systems if one.protocol})
    if len(found) < 2:
        return []
    named = [part for each in found for part in (foreign(each), ", ")][:-1]
    words = together("Not comparable: several protocols (", *named, ").")
    return [tag("p", tag("strong", words), class_="warning")]


def _protocol(given: Scoreboard) -> Html:
    found = sorted({one.protocol for one in given.systems if one.protocol})
    ids = [part for each in found for part in (tag("code", each), ", ")][:-1]
    settings = [
        together("; ", foreign(what), " ", foreign(told)) for what, told in given.settings.items()
    ]
    words = together("Protocol ", *(ids or ["unknown"]), *settings, ". ★ is the best of a column.")
    note = (
        " Figures that others published are comparable only with their own settings: another "
        "segmenter, another cut of the references or BLEU over words moves a score by more than "
        "models differ."
    )
    return tag("p", words, note, class_="note")


def _differences(given: Sequence[Difference]) -> Html:
    lines = []
    for one in given:
        known = difference(one.points) != UNKNOWN
        said = reading(one.points) if known else "not known"
        kind = said if said in ("better", "worse") else False
        meaning = tag("span", f"{_SIGNS.get(said, '–')} {said}", class_=kind)
        cells = [title(one.metric), difference(one.points), chance(one.p), meaning]
        lines.append(row(called(one.rival), *cells))
    header = ["rival", "score", "new minus rival, points", "p", "the new model is"]
    caption = "Differences of the new model to each rival, paired by row."
    return table("differences", caption, header, lines, "told")


def chance(p: float | None) -> str:
    """Return a p-value as it is read."""
    if p is None:
        return "–"
    if not math.isfinite(p):
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _published(given: Sequence[Published]) -> Html:
    names = union(one.metrics for one in given)
    lines = []
    for one in given:
        cells = [number(one.metrics[name], 2) if name in one.metrics else "–" for name in names]
        lines.append(row(foreign(one.name), *cells, foreign(one.settings)))
    caption = (
        "Published figures. Not this protocol: each is worth something under its settings only."
    )
    header = ["published", *map(title, names), "their settings"]
    return table("published", caption, header, lines, "told")


def intervals(given: Scoreboard) -> Html:
    """Return a panel for each metric: every system as a dot with its whisker."""
    panels = []
    for name in union(one.metrics for one in given.systems):
        shown = [
            (TITLES.get(one.name, one.name), one.metrics[name], one.name == NEW)
            for one in given.systems
            if name in one.metrics
        ]
        panels.append(inline(whiskers(title(name), shown), "panel"))
    if not panels:
        return Html("")
    told = (
        f"Dots are means, whiskers their {given.confidence * 100:g}% intervals; the diamond and the "
        "dashed line are the new model. Overlapping whiskers do not mean equal: see the paired "
        "differences."
    )
    return tag(
        "figure", tag("div", *panels, class_="panels"), tag("figcaption", told, class_="note")
    )


def union(keys: Iterable[Iterable[str]]) -> list[str]:
    """Return every name once, in the order of the first time it comes."""
    return list(dict.fromkeys(name for some in keys for name in some))
