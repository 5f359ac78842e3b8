"""What a reader sees of a markdown page: rendered as CommonMark with tables, read back from the HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt

# HTML on, as in the UI: a tag that is not escaped vanishes from the text.
RENDERER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
# The UI lets data:image/ through; markdown-it on its own only some of it.
RENDERER.validateLink = lambda url: not url.startswith("javascript:")  # type: ignore[method-assign]


class Page(HTMLParser):
    """What a reader of the HTML sees: rows of tables, list items, headings, bold text, pictures."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.open: list[tuple[str, list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.tables: list[list[list[str]]] = []
        self.pictures: list[str] = []
        self.feed(RENDERER.render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
            return
        if tag in ("br", "hr", "input"):
            return
        self.open.append((tag, []))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            return
        text = re.sub("[ \t\r\n\f]+", " ", "".join(self.open.pop()[1])).strip(" ")
        self.texts.setdefault(tag, []).append(text)
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text)

    def handle_data(self, data: str) -> None:
        for _, texts in self.open:
            texts.append(data)
