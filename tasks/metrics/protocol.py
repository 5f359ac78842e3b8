"""Named, versioned protocols: what exactly a score in percent means.

Four widespread programs compute "ROUGE and BLEU" of the same answers and differ by a factor of two,
so a score can only be compared with one of the same protocol. `describe` gives its full id, which
is stored with every score and must be equal on both sides. A protocol never changes; another
behaviour is another id.

`chatglm2` is the evaluation that ChatGLM-6B and ChatGLM2-6B publish for AdvertiseGen: ROUGE-1/2/L
over jieba words, BLEU-4 over characters, each row in percent, rounded to 4 digits. It differs in
one point: the published script stops with an error at a blank text; here that row scores 0.

Source: https://github.com/THUDM/ChatGLM2-6B, ptuning/main.py (`compute_metrics`) at commit
3be48aa44a023b622b3e9fefa3df3494acc99761. That script cuts the references to 64 tokens beforehand,
so its published means are not comparable with scores against whole references.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

from tasks.errors import ConfigError, DataError
from tasks.metrics.bleu import Characters, bleu_4, characters_of
from tasks.metrics.rouge import Words, rouge, words_of
from tasks.metrics.segment import SEGMENTER

METRICS = ("rouge_1", "rouge_2", "rouge_l", "bleu_4")
"""The scores of a row, in percent."""


class Text(NamedTuple):
    """What a protocol needs to know of one text."""

    words: Words
    characters: Characters


class Protocol(NamedTuple):
    """What a name of the configuration stands for."""

    id: str
    score: Callable[[Text, Text], tuple[float, ...]]
    """From a prediction and its reference to the values of `METRICS`, in percent."""


def score_rows(
    protocol: str, predictions: Sequence[str], references: Sequence[str]
) -> list[dict[str, float]]:
    """Score each prediction against its reference: a dictionary of `METRICS` a row, in percent.

    Raises:
        ConfigError: There is no such protocol.
        DataError: There are not as many predictions as references.
    """
    chosen = _protocol(protocol)
    if len(predictions) != len(references):
        raise DataError(
            "score_rows: each prediction needs its reference (found "
            f"{len(predictions)} and {len(references)}). Pass two lists of the same rows."
        )
    text = _analyser(predictions, references)
    rows = zip(predictions, references, strict=True)
    scores = (chosen.score(text(prediction), text(reference)) for prediction, reference in rows)
    return [dict(zip(METRICS, row, strict=True)) for row in scores]


def describe(protocol: str) -> str:
    """Return the full id of a protocol: version, segmenter, and whose numbers it reproduces.

    Raises:
        ConfigError: There is no such protocol.
    """
    return _protocol(protocol).id


def _chatglm2(prediction: Text, reference: Text) -> tuple[float, ...]:
    if not prediction.words.sequence or not reference.words.sequence:
        return (0.0,) * len(METRICS)
    overlaps = rouge(prediction.words, reference.words)
    bleu = bleu_4(prediction.characters, reference.characters)
    return tuple(round(score * 100, 4) for score in (*overlaps, bleu))


PROTOCOLS = {
    "chatglm2": Protocol(f"chatglm2-v1 ({SEGMENTER}, rouge_chinese-1.0.3, nltk-3.10.4)", _chatglm2)
}


def _protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ConfigError(
            f"metrics.protocol: there is no such protocol (found {name!r}). "
            f"Choose one of: {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[name]


def _analyser(predictions: Sequence[str], references: Sequence[str]) -> Callable[[str], Text]:
    """Return a function that analyses a text once, and forgets it after its last use."""
    uses = Counter(chain(predictions, references))
    kept: dict[str, Text] = {}

    def analyse(text: str) -> Text:
        uses[text] -= 1
        found = kept.pop(text, None) or Text(words_of(text), characters_of(text))
        if uses[text]:
            kept[text] = found
        return found

    return analyse
