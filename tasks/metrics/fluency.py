"""Variety, repetition, length and width of answers: what the overlap scores are blind to.

ROUGE-1 counts a word once however often it is said, so an answer given twice over keeps its score.
A tokenizer that turns `，` into `,` costs a quarter of ROUGE-L, and nothing else is said.
"""

from __future__ import annotations

from collections.abc import Sequence

ORDER = 4
"""Length of the character n-grams in which variety and repetition are counted."""

WIDTH_RATIO = 10.0
"""Two sides differ in width when their shares of one comma differ by more than this factor, …"""
WIDTH_DIFFERENCE = 0.1
"""… and by more than this share, so that a few stray commas are no difference."""


def distinct(texts: Sequence[str]) -> float:
    """Return the share of different character 4-grams among those of all texts; 0 without any.

    It falls with the number of texts: compare only systems that answered the same rows.
    """
    grams = [gram for text in texts for gram in _grams(text)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str]) -> float:
    """Return the share of character 4-grams that came before in the same text; 0 without any."""
    total = again = 0
    for text in texts:
        grams = _grams(text)
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


def widths_differ(predictions: Sequence[str], references: Sequence[str]) -> bool:
    """Say whether one side writes `,` where the other writes `，`; not without commas on both."""
    answered, expected = _half_width(predictions), _half_width(references)
    if answered is None or expected is None:
        return False
    return _far_apart(answered, expected) or _far_apart(1 - answered, 1 - expected)


def _half_width(texts: Sequence[str]) -> float | None:
    half = sum(text.count(",") for text in texts)
    full = sum(text.count("，") for text in texts)
    return half / (half + full) if half + full else None


def _far_apart(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return high > WIDTH_RATIO * low and high - low > WIDTH_DIFFERENCE


def _grams(text: str) -> list[str]:
    return [text[start : start + ORDER] for start in range(len(text) - ORDER + 1)]
