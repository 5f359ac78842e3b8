"""Named, versioned protocols: what exactly a score in percent means.

Four widespread programs compute "ROUGE and BLEU" of the same answers and differ by a factor of two,
so a score can only be compared with one of the same `Measure`. Its `id` is stored with every score
and must be equal on both sides. A protocol never changes; another behaviour is another id.

| protocol | of                                                         | in                     |
| -------- | ---------------------------------------------------------- | ---------------------- |
| chatglm2 | ChatGLM-6B and ChatGLM2-6B's scripts: BLEU over characters | `chatglm.py`           |
| chatglm3 | ChatGLM3's script: BLEU over words                         | `chatglm.py`           |
| english  | rouge_score and sacrebleu, for English text                | `english.py`           |
| mixed    | their formulas over Chinese characters and words           | `english.py`           |

Each gives `METRICS` a row, in percent; rows do not depend on each other. A blank text on either side
scores 0 and is counted by the caller. Published means of chatglm2 are against references cut to 64
tokens, and not comparable with scores against whole references.

A pair of texts of n and m characters takes memory that grows with n + m, at most 1 KB a character,
and time that grows with n x m / 64: 5 s for 100,000 against 100,000.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from tasks.errors import ConfigError, DataError
from tasks.metrics import chatglm, english, segment
from tasks.metrics.optional import version_of

METRICS = ("rouge_1", "rouge_2", "rouge_l", "bleu_4")
"""The scores of a row, in percent."""

NORMALISATIONS = ("none", "nfkc")
"""What is done to both sides beforehand. NFKC makes `，` and `,` one, and `Ａ` and `A`."""

KEPT_CHARACTERS = 200_000
"""Characters of analysed texts that are kept because a later row has them again: at most 150 MB."""


class Protocol(NamedTuple):
    """What a name of the configuration stands for."""

    version: str
    reproduces: tuple[str, ...]
    """The programs whose numbers it gives."""
    analyse: Callable[[segment.Cut, str], Any]
    """From a text to all that a score needs to know of it."""
    score: Callable[[Any, Any], tuple[float, ...]]
    """From a prediction and its reference to the values of `METRICS`, in percent."""
    remark: str = ""
    tokenizer: str = ""
    """Tokenizer of sacrebleu; empty for the protocols that cut words with a segmenter instead."""


_CHATGLM = ("rouge_chinese-1.0.3", "nltk-3.10.4")

_PROTOCOLS = {
    "chatglm2": Protocol("chatglm2-v1", _CHATGLM, chatglm.of_characters, chatglm.chatglm2),
    "chatglm3": Protocol(
        "chatglm3-v1",
        _CHATGLM,
        chatglm.of_words,
        chatglm.chatglm3,
        remark="BLEU over words, published from 0 to 1, here in percent",
    ),
    "english": Protocol(
        "english-v1",
        ("rouge_score-0.1.2",),
        lambda _, text: english.english_words(text),
        english.english,
        remark="no stemming",
        tokenizer="13a",
    ),
    "mixed": Protocol(
        "mixed-v1",
        ("rouge_score-0.1.2",),
        lambda _, text: english.mixed_words(text),
        english.mixed,
        remark="ROUGE over Chinese characters and words",
        tokenizer="zh",
    ),
}

PROTOCOLS = tuple(_PROTOCOLS)
"""The protocols to choose from."""


@dataclass(frozen=True)
class Measure:
    """All that a score means.

    Raises:
        ConfigError: There is no such choice, or two of them do not go together.
    """

    protocol: str = "chatglm2"
    """One of `PROTOCOLS`."""
    segmenter: str = "jieba"
    """What cuts Chinese words, one of `segment.SEGMENTERS`; english and mixed need none."""
    normalise: str = "none"
    """One of `NORMALISATIONS`, done to both sides."""
    reference_characters: int = 0
    """References are cut to so many characters, after normalising; 0 leaves them whole."""

    def __post_init__(self) -> None:
        _check("protocol", self.protocol, PROTOCOLS)
        _check("segmenter", self.segmenter, segment.SEGMENTERS)
        _check("normalise", self.normalise, NORMALISATIONS)
        if self.reference_characters < 0:
            raise ConfigError(
                "metrics.reference_characters: must not be negative "
                f"(found {self.reference_characters}). Take 0 for whole references."
            )
        if self._stands_for.tokenizer and self.segmenter != "jieba":
            raise ConfigError(
                f"metrics.segmenter: {self.protocol} cuts no Chinese words (found "
                f"{self.segmenter!r}). Leave it at jieba, or choose chatglm2 or chatglm3."
            )

    @property
    def id(self) -> str:
        """What must be equal of two scores to compare them, in one line.

        Raises:
            ConfigError: A package that this measure needs is not installed.
        """
        protocol, choices = self._stands_for, []
        if protocol.remark:
            choices.append(protocol.remark)
        if self.normalise != "none":
            choices.append(f"{self._normalisation} on both sides")
        if self.reference_characters:
            choices.append(f"references cut to {self.reference_characters} characters")
        parts = [", ".join((*self._cuts_with, *protocol.reproduces)), *choices]
        return f"{protocol.version} ({'; '.join(parts)})"

    def facts(self) -> dict[str, Any]:
        """Return the same part by part, and the versions of the libraries at work: for JSON.

        Raises:
            ConfigError: A package that this measure needs is not installed.
        """
        protocol = self._stands_for
        used = ("rapidfuzz", "sacrebleu" if protocol.tokenizer else self.segmenter)
        return {
            "id": self.id,
            "protocol": self.protocol,
            "version": protocol.version,
            "segmenter": None if protocol.tokenizer else segment.identify(self.segmenter),
            "normalise": self._normalisation,
            "reference_characters": self.reference_characters,
            "reproduces": list(protocol.reproduces),
            "libraries": {name: version_of(name, f"metrics.{name}") for name in used},
        }

    @property
    def _stands_for(self) -> Protocol:
        return _PROTOCOLS[self.protocol]

    @property
    def _normalisation(self) -> str:
        if self.normalise == "none":
            return "none"
        return f"{self.normalise}-{unicodedata.unidata_version}"

    @property
    def _cuts_with(self) -> tuple[str, ...]:
        tokenizer = self._stands_for.tokenizer
        if tokenizer:
            return (f"sacrebleu {english.signature(tokenizer)}",)
        return (segment.identify(self.segmenter),)


def check(measure: Measure, references: Sequence[str]) -> None:
    """Refuse a measure that cannot score against these references, before anything is spent.

    Raises:
        ConfigError: A package that it needs is not installed.
        DataError: The protocol does not see the script that the references are written in.
    """
    measure.facts()
    if measure.protocol == "english":
        english.refuse_chinese(references)


def score_rows(
    measure: Measure | str, predictions: Sequence[str], references: Sequence[str]
) -> list[dict[str, float]]:
    """Score each prediction against its reference: a dictionary of `METRICS` a row, in percent.

    Args:
        measure: What the scores mean; a name alone is that protocol with all else as usual.
        predictions: What was answered.
        references: What was expected, in the same order.

    Raises:
        ConfigError: There is no such protocol, or a package that it needs is not installed.
        DataError: There are not as many predictions as references, or the protocol does not see
            the script that they are written in.
    """
    chosen = Measure(measure) if isinstance(measure, str) else measure
    if len(predictions) != len(references):
        raise DataError(
            "score_rows: each prediction needs its reference (found "
            f"{len(predictions)} and {len(references)}). Pass two lists of the same rows."
        )
    check(chosen, references)
    answered, expected = _prepared(chosen, predictions, references)
    protocol = _PROTOCOLS[chosen.protocol]
    text = _analyser(protocol, segment.cutter(chosen.segmenter), chain(answered, expected))
    rows = zip(answered, expected, strict=True)
    scores = (protocol.score(text(prediction), text(reference)) for prediction, reference in rows)
    return [dict(zip(METRICS, row, strict=True)) for row in scores]


def describe(protocol: str) -> str:
    """Return the id of a protocol with all else as usual.

    Raises:
        ConfigError: There is no such protocol, or a package that it needs is not installed.
    """
    return Measure(protocol).id


def _prepared(
    measure: Measure, predictions: Sequence[str], references: Sequence[str]
) -> tuple[Sequence[str], Sequence[str]]:
    if measure.normalise == "nfkc":
        predictions = [unicodedata.normalize("NFKC", text) for text in predictions]
        references = [unicodedata.normalize("NFKC", text) for text in references]
    limit = measure.reference_characters
    return predictions, [text[:limit] for text in references] if limit else references


def _analyser(protocol: Protocol, cut: segment.Cut, texts: Iterable[str]) -> Callable[[str], Any]:
    """Return a function that analyses a text once, and forgets it after its last use."""
    uses = Counter(texts)
    kept: dict[str, Any] = {}
    room = KEPT_CHARACTERS

    def analyse(text: str) -> Any:
        nonlocal room
        uses[text] -= 1
        if text in kept:
            if uses[text]:
                return kept[text]
            room += len(text)
            return kept.pop(text)
        found = protocol.analyse(cut, text)
        if uses[text] and len(text) <= room:
            kept[text] = found
            room -= len(text)
        return found

    return analyse


def _check(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(
            f"metrics.{name}: there is no such choice (found {value!r}). "
            f"Choose one of: {', '.join(choices)}."
        )
