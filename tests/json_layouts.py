"""Renders rows in the layouts that people's files have, and breaks a row in the ways that people's files are broken."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

Value = dict[str, Any]


class Trickle(io.RawIOBase):
    """A stream that gives few bytes at a time and cannot go back."""

    def __init__(self, data: bytes, size: int):
        self._data, self._size, self._at = data, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._at : self._at + min(self._size, len(buffer))]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def compact(row: Value) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def spaced(row: Value) -> str:
    return json.dumps(row, ensure_ascii=False)


def escaped(row: Value) -> str:
    return json.dumps(row, ensure_ascii=True)


def pretty(indent: int | str) -> Callable[[Value], str]:
    return lambda row: json.dumps(row, ensure_ascii=False, indent=indent)


def commented(row: Value) -> str:
    """Pretty-printed, with a comment in every line between and a comma after every last member and item."""
    lines = json.dumps(row, ensure_ascii=False, indent=2).split("\n")
    commas = [
        "," if re.match(r"\s*[\]}]", following) and line[-1] not in ",{[" else ""
        for line, following in pairwise(lines)
    ]
    remarked = [f"{line}{comma} // {{ it" for line, comma in zip(lines, commas, strict=False)]
    return "\n".join([lines[0], *remarked[1:], lines[-1]] if remarked else lines)


def _indented(text: str, by: str) -> str:
    return "\n".join(by + line for line in text.split("\n"))


def lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def lines_without_end(texts: Iterable[str]) -> str:
    return "\n".join(texts)


def lines_with_commas(texts: Iterable[str]) -> str:
    return "".join(f"{text},\n" for text in texts)


def lines_with_gaps(texts: Iterable[str]) -> str:
    return "\n\n" + "".join(f"{text}\n \n" for text in texts)


def array_on_a_line(texts: Iterable[str]) -> str:
    return f"[{', '.join(texts)}]"


def array_of_lines(texts: Iterable[str]) -> str:
    return "[\n" + ",\n".join(texts) + "\n]\n"


def array_with_comments(texts: Iterable[str]) -> str:
    return "// {\n[\n" + ", /* and\n more } */\n".join(texts) + "// it\n]\n"


def array_indented(texts: Iterable[str]) -> str:
    return "[\n" + ",\n".join(_indented(text, "  ") for text in texts) + "\n]\n"


def array_braced(texts: Iterable[str]) -> str:
    return "[" + ", ".join(texts) + ",]"


def concatenated(texts: Iterable[str]) -> str:
    return "\n".join(texts) + "\n"


def glued(texts: Iterable[str]) -> str:
    return "".join(texts)


LAYOUTS: dict[str, tuple[Callable[[Value], str], Callable[[Iterable[str]], str]]] = {
    "lines": (spaced, lines),
    "lines, the last without end": (compact, lines_without_end),
    "lines of escapes": (escaped, lines),
    "lines with commas": (spaced, lines_with_commas),
    "lines with blank ones between": (compact, lines_with_gaps),
    "array on one line": (spaced, array_on_a_line),
    "array on one line, compact": (compact, lambda texts: f"[{','.join(texts)}]"),
    "array, a row on a line": (spaced, array_of_lines),
    "array, indented by 2": (pretty(2), array_indented),
    "array, indented by a tab": (pretty("\t"), array_indented),
    "array, braces on a line": (pretty(4), array_braced),
    "array, not indented": (pretty(0), array_of_lines),
    "concatenated, indented by 4": (pretty(4), concatenated),
    "concatenated, not indented": (pretty(0), concatenated),
    "concatenated on one line": (compact, glued),
    "comments and trailing commas": (commented, array_with_comments),
}
"""How a row is written, and how rows are put together."""


def rendered(rows: list[Value], layout: str) -> str:
    write, join = LAYOUTS[layout]
    return join([write(row) for row in rows])


def rendered_with(rows: list[Value], layout: str, number: int, broken: str) -> str:
    """Render rows, but one of them as given."""
    write, join = LAYOUTS[layout]
    return join([broken if index == number else write(row) for index, row in enumerate(rows)])


def line_of(rows: list[Value], layout: str, number: int) -> int:
    """Return the line at which a row begins, from 1."""
    mark = "\x01here"
    text = rendered_with(rows, layout, number, mark)
    return text[: text.index(mark)].count("\n") + 1


# Each takes the text of a row and a number that chooses a place, and returns what is no row any more.


def _replace(pattern: str, by: str, text: str, choice: int) -> str:
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    place = found[choice % len(found)]
    return text[: place.start()] + place.expand(by) + text[place.end() :]


BREAKS: dict[str, Callable[[str, int], str]] = {
    "cut": lambda text, n: text[: text.index('":') + 2 + n % (len(text) - text.index('":') - 2)],
    "no last brace": lambda text, n: text[:-1],
    "no first brace": lambda text, n: text[1:],
    "a brace too many": lambda text, n: text + "}",
    "a brace too many at the beginning": lambda text, n: "{" + text,
    "no opening quote": lambda text, n: _replace(r'": "(?=[^"])', r'": ', text, n),
    "no closing quote": lambda text, n: _replace(
        r'(?<!: )(?<![{\[,] )"(?=,|\s*[}\]])', "", text, n
    ),
    "no quote of a name": lambda text, n: _replace(r'":', ":", text, n),
    "no colon": lambda text, n: _replace(r'": ?', '" ', text, n),
    "no comma": lambda text, n: _replace(r'",(?=\s*["{])', '" ', text, n),
    "two commas": lambda text, n: _replace(r'",(?=\s*["{])', '",,', text, n),
    "a quote inside": lambda text, n: _replace(r'(": ?"[^"\\]+)(?=")', r'\1"x', text, n),
    "single quotes": lambda text, n: text.replace('"', "'"),
    "a word": lambda text, n: _replace(r'": ?"', '": None "', text, n),
    "NaN": lambda text, n: _replace(r'": ?"[^"\\]*"', '": NaN', text, n),
    "half a pair": lambda text, n: _replace(r'": ?"', r"\g<0>\\ud83d", text, n),
    "a tab": lambda text, n: _replace(r'": ?"', "\\g<0>\t", text, n),
    "a NUL": lambda text, n: _replace(r'": ?"', "\\g<0>\0", text, n),
    "a line end": lambda text, n: _replace(r'": ?"', "\\g<0>of\nlines", text, n),
    "a wrong escape": lambda text, n: _replace(r'": ?"', r"\g<0>\\x", text, n),
    "bytes of another encoding": lambda text, n: _replace(r'": ?"', "\\g<0>\udcff\udcfe", text, n),
}
