"""Foreign text and tables in markdown that shows what was meant.

Prompts are full of `#`, `*` and `<UNK>`, which markdown reads as headings, emphasis and a tag that
vanishes. The two UIs of Prefect read different dialects (react-markdown with GFM and raw HTML; marked,
which knows five entities only). A backslash before ASCII punctuation is what both take literally.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tasks.reports.wording import visible

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_OUTER_SPACE = re.compile(r"^\s+|\s+$")
_SPACES = re.compile(" {2,}")
_RULES = {"l": ":--", "r": "--:", "c": ":-:"}


def escape(text: str) -> str:
    """Return markdown that shows the text as it is, in a paragraph and in a table cell.

    On one line: line ends show as `↵`, other control characters as their pictures, outer white space
    as `␣`, for a renderer drops it. Inner runs of spaces keep their width by no-break spaces.
    """
    return _literal(_shaped(text))


def emphasise(text: str, parts: Iterable[str]) -> str:
    """Return `escape(text)` with the parts in bold, wherever they stand in it as whole words.

    A part that no word boundary surrounds anywhere, as in Chinese prose, is bold wherever it stands.
    """
    shaped = _shaped(text)
    # Emphasis only holds when letters are at its ends; longer parts win over their beginnings.
    usable = {part for part in parts if part[:1].isalnum() and part[-1:].isalnum()}
    patterns = [_where(part, shaped) for part in sorted(usable, key=len, reverse=True)]
    if not patterns:
        return _literal(shaped)
    pieces = re.split(f"({'|'.join(patterns)})", shaped)
    return "".join(
        f"**{_literal(piece)}**" if index % 2 else _literal(piece)
        for index, piece in enumerate(pieces)
    )


def _where(part: str, shaped: str) -> str:
    plain = re.escape(visible(part))
    whole = rf"(?<!\w){plain}(?!\w)"
    return whole if re.search(whole, shaped) else plain


def _shaped(text: str) -> str:
    return _OUTER_SPACE.sub(lambda found: "␣" * len(found[0]), visible(text))


def _literal(text: str) -> str:
    wide = _SPACES.sub(lambda found: " " + "\u00a0" * (len(found[0]) - 1), text)
    return _PUNCTUATION.sub(r"\\\1", wide)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Return a table of cells that are markdown already.

    Args:
        header: Titles of the columns.
        rows: As many cells each as there are titles.
        align: `l`, `r` or `c` for each column; the last letter repeats, and none is `l`.
    """
    letters = (align or "l").ljust(len(header), align[-1:] or "l")
    rules = [_RULES[letter] for letter in letters[: len(header)]]
    body = [_line([cell for _, cell in zip(header, row, strict=True)]) for row in rows]
    return "\n".join([_line(header), _line(rules), *body])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.splitlines()) for cell in cells) + " |"
