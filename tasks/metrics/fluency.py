"""Variety, repetition, length and width of answers: what the overlap scores are blind to.

ROUGE-1 counts a word once however often it is said, so an answer given twice over keeps its score.
A tokenizer that turns `，` into `,` costs a quarter of ROUGE-L, and nothing else is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ORDER = 4
"""Length of the character n-grams in which variety and repetition are counted."""

MARKS = {"，": ",", "！": "!", "：": ":", "；": ";", "？": "?", "（": "(", "）": ")"}
"""Marks of both widths, full to half; the first five are what the ChatGLM tokenizers turn to half."""

MARKS_PER_ROW = 0.02
"""A mark tells of the width when both sides write it at least once in 50 rows, …"""
WIDTH_RATIO = 10.0
"""… when their shares of one width differ by more than this factor, …"""
WIDTH_DIFFERENCE = 0.1
"""… and by more than this share, so that a few stray marks are no difference."""


def distinct(texts: Sequence[str], order: int = ORDER) -> float:
    """Return the share of different character n-grams among those of all texts; 0 without any.

    It falls with the number of texts: compare only systems that answered the same rows.
    """
    different: set[str] = set()
    total = 0
    for text in texts:
        grams = _grams(text, order)
        different.update(grams)
        total += len(grams)
    return len(different) / total if total else 0.0


def repetition(texts: Sequence[str]) -> float:
    """Return the share of character 4-grams that came before in the same text; 0 without any."""
    total = again = 0
    for text in texts:
        grams = _grams(text, ORDER)
        total += len(grams)
        again += len(grams) - len(set(grams))
    return again / total if total else 0.0


def length_ratio(predictions: Sequence[str], references: Sequence[str]) -> float | None:
    """Return the characters of all predictions for each character of all references."""
    expected = sum(map(len, references))
    return sum(map(len, predictions)) / expected if expected else None


def duplicates(texts: Sequence[str]) -> float:
    """Return the share of texts that came before; there must be a text."""
    return (len(texts) - len(set(texts))) / len(texts)


class Width(NamedTuple):
    """A mark that answers and references write in different widths."""

    full: str
    half: str
    answered: int
    """How often the answers write the mark, in either width."""
    answered_half: int
    """How often of these in half width."""
    expected: int
    """The same of the references."""
    expected_half: int

    def told(self) -> str:
        """Say so in a few words."""
        return (
            f"answers write {self.half} rather than {self.full} in {self.answered_half:,} of "
            f"{self.answered:,} places, references in {self.expected_half:,} of {self.expected:,}"
        )


def widths(predictions: Sequence[str], references: Sequence[str]) -> list[Width]:
    """Return the marks that one side writes in full width (`，`) and the other in half (`,`)."""
    rows = max(len(predictions), len(references))
    found = []
    for full, half in MARKS.items():
        answered, answered_half = _counted(predictions, full, half)
        expected, expected_half = _counted(references, full, half)
        seen = min(answered, expected)
        if seen and seen >= MARKS_PER_ROW * rows:
            shares = answered_half / answered, expected_half / expected
            if _far_apart(*shares) or _far_apart(*(1 - share for share in shares)):
                found.append(Width(full, half, answered, answered_half, expected, expected_half))
    return found


def width_warning(
    predictions: Sequence[str], references: Sequence[str], normalised: bool = False
) -> str:
    """Say for a report that the sides write marks of different width; empty when they do not.

    Args:
        predictions: What was answered.
        references: What was expected.
        normalised: Whether the scores compare both sides after NFKC.
    """
    found = widths(predictions, references)
    if not found:
        return ""
    cost = (
        "The scores do not suffer, both sides were normalised."
        if normalised
        else "Equal texts lose points by this alone; metrics.normalise nfkc compares both sides alike."
    )
    told = "; ".join(width.told() for width in found)
    return f"Punctuation of different width: {told}. {cost}"


def _counted(texts: Sequence[str], full: str, half: str) -> tuple[int, int]:
    in_half = sum(text.count(half) for text in texts)
    return in_half + sum(text.count(full) for text in texts), in_half


def _far_apart(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return high > WIDTH_RATIO * low and high - low > WIDTH_DIFFERENCE


def _grams(text: str, order: int) -> list[str]:
    return [text[start : start + order] for start in range(len(text) - order + 1)]
