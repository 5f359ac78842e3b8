"""BLEU-4 of one sentence over characters or words, number by number as nltk 3.10.4 gives it.

Every character counts, whitespace too. An order without a match takes half, a quarter, … of a match
instead (nltk's `method3`), which is generous to short texts: an exact copy of two characters scores
0.59, not 1. No character in common, or no text at all, is 0. The same holds of words.

Time and memory grow with the length of a text: at most 0.4 KB a character.

Source: nltk.translate.bleu_score (`sentence_bleu`, `SmoothingFunction.method3`), release 3.10.4.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from operator import add
from typing import Any, NamedTuple

ORDERS = 4


class Grams(NamedTuple):
    """How often each run of one to four pieces occurs in a text."""

    length: int
    counts: tuple[Counter[Any], ...]


def characters_of(text: str) -> Grams:
    """Count the character n-grams of a text."""
    grams = list(text)
    counts = [Counter(grams)]
    for order in range(1, ORDERS):
        grams = list(map(add, grams, text[order:]))
        counts.append(Counter(grams))
    return Grams(len(text), tuple(counts))


def words_of(words: Sequence[str]) -> Grams:
    """Count the n-grams of words; whitespace is a word like any other."""
    counts = [Counter[Any](words)]
    for order in range(2, ORDERS + 1):
        counts.append(Counter(zip(*(words[start:] for start in range(order)), strict=False)))
    return Grams(len(words), tuple(counts))


def bleu_4(prediction: Grams, reference: Grams) -> float:
    """Score a prediction against its one reference, from 0 to 1."""
    logarithms = []
    missed = 0
    for order in range(ORDERS):
        matches = _clipped(prediction.counts[order], reference.counts[order])
        possible = max(1, prediction.length - order)
        if matches:
            precision = matches / possible
        elif order == 0:
            return 0.0
        else:
            missed += 1
            precision = 1 / (2**missed * possible)
        logarithms.append(math.log(precision) / ORDERS)
    return _brevity(prediction.length, reference.length) * math.exp(math.fsum(logarithms))


def _clipped(prediction: Counter[Any], reference: Counter[Any]) -> int:
    shared = prediction.keys() & reference.keys()
    return sum(min(prediction[gram], reference[gram]) for gram in shared)


def _brevity(length: int, reference: int) -> float:
    return 1.0 if length > reference else math.exp(1 - reference / length)
