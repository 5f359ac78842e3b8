"""HTML that foreign text cannot leave: whatever is not `Html` already is escaped on its way in.

`Html` is made here and by whoever calls it with a constant or a drawing; concatenating or formatting
one gives a plain string, which would be escaped again, so a slip shows on the page instead of opening
it. Control characters, reordering signs and half characters become visible signs, so the page can
always be written as UTF-8. Text from elsewhere is parted from ours by `bdi` or `dir=auto`: a
right-to-left name does not reorder the words around it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from tasks.reports.wording import visible

_MANY = 9
"""A table of more columns is printed smaller, and breaks its numbers rather than leave the paper."""
_VOID = {"meta", "link", "br", "input"}
_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\u1100-\u11ff\uac00-\ud7af]")),
    ("zh", re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]")),
)


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | bool) -> Html:
    """Return an element.

    Args:
        name: Of the element.
        children: `Html` as it is, anything else escaped.
        attributes: `class_` is `class`, `data_row` is `data-row`; True is bare, False left out.
    """
    opened = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{opened}>")
    return Html(f"<{name}{opened}>{together(*children)}</{name}>")


def _attribute(key: str, value: str | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    return f' {name}="{html.escape(visible(value))}"'


def together(*parts: str) -> Html:
    """Return parts side by side: `Html` as it is, anything else escaped, on one line."""
    return Html("".join(part if isinstance(part, Html) else _escaped(part) for part in parts))


def _escaped(text: str, line_end: str = "↵") -> str:
    return html.escape(visible(text, line_end), quote=False)


def foreign(text: str) -> Html:
    """Return a name, reason or the like from elsewhere, kept apart from the words around it."""
    return tag("bdi", text)


def prose(text: str, marks: Sequence[str] = (), style: str = "") -> Html:
    """Return text with its lines; the style is the class of the marked parts.

    A part is marked where it stands as a whole word; where it never does, as in Chinese prose,
    wherever it stands. Case is ignored.
    """
    shown = visible(text, "\n")
    patterns = [_where(visible(mark, "\n"), shown) for mark in _longest_first(marks)]
    if not patterns:
        return Html(html.escape(shown, quote=False))
    pieces = re.split(f"({'|'.join(patterns)})", shown, flags=re.IGNORECASE)
    escaped = [Html(html.escape(piece, quote=False)) for piece in pieces]
    return together(
        *(tag("mark", e, class_=style) if at % 2 else e for at, e in enumerate(escaped))
    )


def _longest_first(marks: Iterable[str]) -> list[str]:
    return sorted({mark for mark in marks if mark.strip()}, key=lambda mark: (-len(mark), mark))


def _where(mark: str, shown: str) -> str:
    plain = re.escape(mark)
    whole = rf"(?<!\w){plain}(?!\w)"
    return whole if re.search(whole, shown, re.IGNORECASE) else plain


def language(text: str) -> str:
    """Return the language tag that picks the right shapes for a text's characters; empty is unknown."""
    return next((name for name, letters in _SCRIPTS if letters.search(text)), "")


def row(*cells: str, style: str = "") -> Html:
    """Return a line of a table; the first cell names it."""
    first, *rest = cells
    inner = together(tag("th", first, scope="row"), *(tag("td", cell) for cell in rest))
    return tag("tr", inner, class_=style or False)


def table(
    name: str, caption: str, header: Sequence[str], rows: Iterable[Html], style: str = ""
) -> Html:
    """Return a table in a box of its own, within which it scrolls where it is too wide.

    Args:
        name: Unique on the page.
        caption: What the table shows.
        header: Titles of the columns.
        rows: Made by `row`.
        style: `words` where the cells are not numbers, `told` where the last one is not, `systems`
            where the columns are systems.
    """
    many = len(header) > _MANY
    titles = together(*(tag("th", each, scope="col") for each in header))
    whole = tag(
        "table",
        tag("caption", tag("span", caption, id=f"{name}-caption")),
        tag("thead", tag("tr", titles)),
        tag("tbody", *rows),
        class_=" ".join(filter(None, (style, "many" * many))) or False,
    )
    return box(name, whole)


def box(name: str, content: Html) -> Html:
    """Return content that may be wider than a phone, reachable by keyboard; its caption names it."""
    return tag(
        "div",
        content,
        class_="box",
        role="region",
        aria_labelledby=f"{name}-caption",
        tabindex="0",
    )


def listed(items: Iterable[str]) -> Html:
    """Return a list of points; empty without any."""
    points = [tag("li", item) for item in items]
    return tag("ul", *points) if points else Html("")
