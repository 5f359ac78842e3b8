"""Scores of English text, and of text that mixes Chinese and English.

|         | english                                  | mixed                                             |
| ------- | ---------------------------------------- | ------------------------------------------------- |
| words   | runs of a-z and 0-9 in lower case        | also each Chinese character, and any other letters |
| ROUGE   | Google's rouge_score, without stemming   | its formulas over these words                     |
| BLEU-4  | sacrebleu of a sentence, tokenizer `13a` | the same, tokenizer `zh`                          |

Other than ROUGE for Chinese, n-grams count as often as they occur. BLEU stops at the longest n-gram
that the answer has (sacrebleu's `effective_order`), so a short exact copy scores 100. Both are in
percent and not rounded. `english` does not see a Chinese character, so it refuses Chinese texts.

ROUGE is computed here, with the longest common subsequence of rapidfuzz: rouge_score itself fills a
table of n x m lists, 2 GB for 16,000 words. BLEU comes from sacrebleu, an optional package.

Source: https://github.com/google-research/google-research, rouge/, as rouge_score 0.1.2.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

from rapidfuzz.distance import LCSseq

from tasks.errors import DataError
from tasks.metrics.optional import load
from tasks.metrics.scripts import HAN, chinese_share

_ENGLISH = re.compile("[a-z0-9]+")
_MIXED = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")

UNSEEN_SHARE = 0.1
"""Share of Chinese in the references, 0 to 1, above which `english` is the wrong protocol."""


class Text(NamedTuple):
    """What these protocols need to know of one text."""

    raw: str
    words: list[str]
    unigrams: Counter[str]
    bigrams: Counter[tuple[str, str]]


def english_words(text: str) -> Text:
    """Analyse a text for `english`."""
    return _text(_ENGLISH, text)


def mixed_words(text: str) -> Text:
    """Analyse a text for `mixed`."""
    return _text(_MIXED, text)


def _text(pattern: re.Pattern[str], text: str) -> Text:
    words = pattern.findall(text.lower())
    return Text(text, words, Counter(words), Counter(pairwise(words)))


def _scores(tokenizer: str, prediction: Text, reference: Text) -> tuple[float, ...]:
    lengths = len(prediction.words), len(reference.words)
    shared = (prediction.unigrams & reference.unigrams).total()
    pairs = (prediction.bigrams & reference.bigrams).total()
    common = LCSseq.similarity(prediction.words, reference.words)
    bleu = _bleu(tokenizer).sentence_score(prediction.raw, [reference.raw])
    return (
        100 * _f(shared, *lengths),
        100 * _f(pairs, *(length - 1 for length in lengths)),
        100 * _f(common, *lengths),
        float(bleu.score),
    )


english: Callable[[Text, Text], tuple[float, ...]] = partial(_scores, "13a")
mixed: Callable[[Text, Text], tuple[float, ...]] = partial(_scores, "zh")


def signature(tokenizer: str) -> str:
    """Return what sacrebleu says of itself, versions included.

    Raises:
        ConfigError: sacrebleu is not installed.
    """
    metric = _bleu(tokenizer)
    metric.sentence_score("a", ["a"])  # it counts the references of a sentence before it tells
    return str(metric.get_signature())


def refuse_chinese(references: Iterable[str]) -> None:
    """Refuse references of which `english` would not see more than a tenth.

    Raises:
        DataError: They are Chinese, or mixed.
    """
    share = chinese_share(references)
    if share > UNSEEN_SHARE:
        raise DataError(
            "metrics.protocol english: it does not see Chinese characters (found "
            f"{share:.0%} of the references' words). Choose mixed, chatglm2 or chatglm3."
        )


@cache
def _bleu(tokenizer: str) -> Any:
    module = load("sacrebleu.metrics.bleu", "metrics.protocol english and mixed")
    return module.BLEU(tokenize=tokenizer, effective_order=True)


def _f(overlap: int, predicted: int, referred: int) -> float:
    precision = overlap / max(predicted, 1)
    recall = overlap / max(referred, 1)
    return 2 * precision * recall / (precision + recall) if overlap else 0.0
