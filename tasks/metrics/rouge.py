"""ROUGE-1, ROUGE-2 and ROUGE-L over words, number by number as rouge_chinese 1.0.3 gives them.

Its peculiarities are part of every published score of this protocol, and are kept:

- n-grams are sets: a word said twice counts once, so ROUGE-1 does not see repetition;
- F carries 1e-8 in its denominator; a perfect match is 0.999999995;
- ROUGE-L is one longest common subsequence over all words of the text, not one a sentence;
- a blank line counts as one word, and a word breaks after six dots.

The subsequence comes from rapidfuzz, bit-parallel: 4.7 ms for 1,070 pairs instead of 2,450 ms, and
no table of n x m entries, which takes 0.5 GB at 2,000 words. Memory grows with the number of words,
time with n x m / 64: 2.4 s for 100,000 words against 100,000, never more than that a pair.

Source: https://github.com/Isaac-JL-Chen/rouge_chinese, release 1.0.3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from itertools import pairwise
from typing import NamedTuple

from rapidfuzz.distance import LCSseq

_BLANK_LINE = "\n"
"""Stands for the word that a blank line counts as; no other word can contain it."""

# rouge_chinese has further rules, for quotes after a mark and for `……`; between the spaces that part
# jieba's words they never apply.
_SENTENCE_END = re.compile("([。！？?]|[.]{6})(.)", re.DOTALL)


class Words(NamedTuple):
    """The words of one text, with their sets of n-grams."""

    sequence: list[str]
    unigrams: set[str]
    bigrams: set[tuple[str, str]]


class Rouge(NamedTuple):
    """F scores from 0 to 1."""

    one: float
    two: float
    longest: float


def words_of(cut: Sequence[str]) -> Words:
    """Take what a segmenter cut. Whitespace is no word, so a blank text has none."""
    joined = " ".join(cut)
    # Breaking lines after marks changes nothing else: only dots stand within a word, and only a line
    # break of the text itself can leave a blank line, because every added one follows a mark.
    by_line = "\n" in joined or "......" in joined
    sequence = _words_by_line(joined) if by_line else joined.split()
    return Words(sequence, set(sequence), set(pairwise(sequence)))


def rouge(prediction: Words, reference: Words) -> Rouge:
    """Compare two texts that both have words."""
    common = LCSseq.similarity(prediction.sequence, reference.sequence)
    return Rouge(
        _f(len(prediction.unigrams & reference.unigrams), prediction.unigrams, reference.unigrams),
        _f(len(prediction.bigrams & reference.bigrams), prediction.bigrams, reference.bigrams),
        _f(common, prediction.sequence, reference.sequence),
    )


def _words_by_line(joined: str) -> list[str]:
    found: list[str] = []
    for line in _SENTENCE_END.sub(r"\1\n\2", joined).rstrip().split("\n"):
        if line:
            found.extend(line.split() or [_BLANK_LINE])
    return found


def _f(overlap: int, predicted: Sized, referred: Sized) -> float:
    precision = overlap / len(predicted) if predicted else 0.0
    recall = overlap / len(referred) if referred else 0.0
    return 2.0 * ((precision * recall) / (precision + recall + 1e-8))
