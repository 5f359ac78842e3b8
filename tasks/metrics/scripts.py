"""Which script a text is written in: Chinese characters, Latin letters, or both.

A Chinese character counts as much as a whole word in letters, so a brand name does not make a
Chinese text a mixed one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Script = Literal["Chinese", "Latin", "mixed", "other"]

HAN = "々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, to stand between the brackets of a regular expression."""

MAIN_SHARE = 0.9
"""Share of the words, 0 to 1, that a script must have to be that of the text."""

_HAN = re.compile(f"[{HAN}]")
_LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_LATIN_WORD = re.compile(f"[{_LATIN}]+")
_OTHER_WORD = re.compile(rf"[^\W\d_{HAN}{_LATIN}]+")


class Counted(NamedTuple):
    """How many words of each script a text has, a Chinese character being one."""

    chinese: int
    latin: int
    other: int


def count(text: str) -> Counted:
    """Count the words of a text by their script; digits and marks have none."""
    return Counted(*(len(one.findall(text)) for one in (_HAN, _LATIN_WORD, _OTHER_WORD)))


def script_of(text: str) -> Script:
    """Name the script of at least nine tenths of the words; `mixed` is Chinese and Latin together."""
    found = count(text)
    least = MAIN_SHARE * sum(found)
    if not least or found.chinese + found.latin < least:
        return "other"
    if found.chinese >= least:
        return "Chinese"
    return "Latin" if found.latin >= least else "mixed"


def chinese_share(texts: Iterable[str]) -> float:
    """Return the share of Chinese characters among the words of all texts; 0 without any."""
    counted = [count(text) for text in texts]
    total = sum(map(sum, counted))
    return sum(found.chinese for found in counted) / total if total else 0.0
