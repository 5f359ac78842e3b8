"""What the scores hide: how rows are spread, which slices are worst, and what no metric sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tasks.reports.html.drawings import compared, inline
from tasks.reports.html.markup import Html, foreign, listed, row, table, tag, together
from tasks.reports.html.report import Scoreboard, Slice, Slices, Spread, System
from tasks.reports.html.scores import called, cell, union
from tasks.reports.wording import FLAGS, MEANINGS, UNKNOWN, extra, percent, title

_SLICES = 60
"""Slices that are shown, the worst of them; the rest is counted."""


def spreads(given: Sequence[Spread]) -> Html:
    """Return a panel for each metric: how its row scores are spread, new beside base."""
    panels = [
        inline(compared(title(each.metric), each.new, each.base), "panel")
        for each in given
        if each.new or each.base
    ]
    return tag("div", *panels, class_="panels") if panels else Html("")


def slices(given: Slices) -> Html:
    """Return the parts of the rows, worst first; those of few rows stand behind the others."""
    if not given.parts:
        return Html("")
    names = union([[given.by], *(each.metrics for each in given.parts)])

    def place(each: Slice) -> tuple[bool, float]:
        mean = each.metrics[given.by].mean if given.by in each.metrics else math.nan
        return each.rows < given.enough, mean if math.isfinite(mean) else math.inf

    ordered = sorted(given.parts, key=place)
    lines = [_slice(each, names, each.rows < given.enough) for each in ordered[:_SLICES]]
    caption = f"The new model by slice, worst {title(given.by)} first."
    more = len(ordered) - _SLICES
    told = f"Grey and ◌: fewer than {given.enough:,} rows, which say little about the slice." + (
        f" {more:,} further slices are not shown." if more > 0 else ""
    )
    header = ["slice", "rows", *map(title, names)]
    return together(table("slices", caption, header, lines), tag("p", told, class_="note"))


def _slice(given: Slice, names: Sequence[str], few: bool) -> Html:
    cells = [cell(given.metrics[name]) if name in given.metrics else Html("–") for name in names]
    rows = together(f"{given.rows:,}", tag("small", "◌ few rows") if few else "")
    named = together(foreign(given.name), tag("small", foreign(given.kind)))
    return row(named, rows, *cells, style="few" if few else "")


def beside(given: Scoreboard) -> Html:
    """Return what the metrics do not see: a line for each measure with what it means."""
    systems = [one for one in given.systems if one.extras or one.empty is not None]
    names = union(one.extras for one in systems)
    lines = [_measure(name, systems) for name in names]
    if any(one.empty is not None for one in systems):
        lines.append(row(_meaning("empty"), *(_empty(one) for one in systems)))
    if not lines:
        return Html("")
    warned = [
        together(called(one.name), f": {MEANINGS['width_mismatch']}.")
        for one in systems
        if one.extras.get("width_mismatch")
    ]
    caption = (
        "Measures beside the protocol. Coverage alone is won by a template: read it with the rest."
    )
    header = [Html("measure"), *(called(one.name) for one in systems)]
    return together(
        tag("div", tag("strong", "Punctuation differs"), listed(warned), class_="warning")
        if warned
        else "",
        table("beside", caption, header, lines, "systems"),
    )


def _measure(name: str, systems: Sequence[System]) -> Html:
    cells = [_extra(name, one.extras[name]) if name in one.extras else "–" for one in systems]
    return row(_meaning(name), *cells)


def _extra(name: str, value: float) -> str:
    return UNKNOWN if name in FLAGS and not math.isfinite(value) else extra(name, value)


def _meaning(name: str) -> Html:
    known = MEANINGS.get(name)
    return together(title(name), tag("small", known) if known else "")


def _empty(one: System) -> str:
    if one.empty is None:
        return "–"
    return f"{one.empty:,}\u00a0({percent(one.empty / one.rows)})" if one.rows else f"{one.empty:,}"
