"""The card that a picture is drawn on: scales, ticks, frame, colours.

An SVG within a page cannot see the theme of the page, so each picture brings its own background and
follows the light or dark preference that the browser hands to images. Fonts are the viewer's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape as xml

from tasks.reports.wording import visible

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 740, 64, 272
"""Edges of the plotting area, in pixels."""

_STYLE = (
    "<style>"
    "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#5b6472}"
    ".title{font-size:14px;font-weight:600;fill:#1f2937}"
    ".card{fill:#fdfdfc;stroke:#d8dbe0}.grid{stroke:#e6e8ec}.axis{stroke:#9aa1ad}"
    ".a{stroke:#2563eb}.b{stroke:#d9580b}.bad{stroke:#c81e1e}.bar{fill:#5b8def}"
    ".ka{fill:#2563eb}.kb{fill:#d9580b}.kbad{fill:#c81e1e}"
    ".dot{fill:#d9580b}.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}"
    ".faint{opacity:.35;stroke-width:1.2}.mark{stroke:#9a3412;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#a9b1bf}.title{fill:#eceff4}"
    ".card{fill:#191d24;stroke:#343b47}.grid{stroke:#2a303a}.axis{stroke:#6b7380}"
    ".a{stroke:#6ea0ff}.b{stroke:#fb923c}.dot{fill:#fb923c}.bad{stroke:#f87171}"
    ".ka{fill:#6ea0ff}.kb{fill:#fb923c}.kbad{fill:#f87171}"
    ".bar{fill:#4f7fdc}.mark{stroke:#fdba74}}"
    "</style>"
)


@dataclass(frozen=True)
class Scale:
    """A range of values laid along a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def spacing(low: float, high: float, about: int) -> float:
    """Return the round step, 1, 2 or 5 times a power of ten, that cuts a range about so often."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def spread(low: float, high: float) -> tuple[float, float]:
    """Return the range, widened when it holds a single value."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        return low, high
    room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, step: float) -> list[float]:
    """Return the multiples of a step within a range."""
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [index * step for index in range(first, last + 1)]


def label(value: float, step: float) -> str:
    """Return a tick's number, with as many decimals as the step has."""
    if value and not 1e-4 <= max(abs(value), step) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    """Return a line of text; characters that XML forbids are shown as signs."""
    kind = f' class="{style}"' if style else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{xml(visible(words))}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a straight line."""
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def horizontal(scale: Scale, step: float, unit: str, whole: bool) -> list[str]:
    """Draw the lower axis with its ticks and unit."""
    shown = [value for value in ticks(scale.low, scale.high, step) if not whole or value % 1 == 0]
    parts = [line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")]
    for value in shown:
        x = scale.at(value)
        parts += [line(x, BOTTOM, x, BOTTOM + 4, "axis")]
        parts += [text(x, BOTTOM + 18, label(value, step), "middle")]
    return [*parts, text(RIGHT, BOTTOM + 36, unit, "end")]


def vertical(scale: Scale, step: float) -> list[str]:
    """Draw the grid with the numbers of the left axis."""
    parts = []
    for value in ticks(scale.low, scale.high, step):
        y = scale.at(value)
        parts += [line(LEFT, y, RIGHT, y, "grid"), text(LEFT - 8, y + 4, label(value, step), "end")]
    return parts


def card(title: str, parts: list[str]) -> str:
    """Return the finished SVG."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    )
    frame = f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8"/>'
    named = f"<title>{xml(visible(title))}</title>"
    return "".join(
        [head, named, _STYLE, frame, text(20, 28, title, style="title"), *parts, "</svg>"]
    )
