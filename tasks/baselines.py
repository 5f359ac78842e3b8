"""Answers without a model: what a fine-tuned model has to beat before it has learnt anything.

The floor of the overlap scores is far from 0: on AdvertiseGen a random training answer has
ROUGE-L 19, and the nearest training answer scores like a second human. So every report has these:

- `random`: any training answer;
- `retrieval`: the answer of the training row with the most similar prompt, by Jaccard similarity of
  their attributes (`key#value*key#value` prompts) or of their character pairs, each weighted by its
  rarity. Of equally similar rows the first one;
- `template`: the attributes written out in one fixed sentence; any other prompt is repeated.

To add one, write a function of the training rows, the prompts and a seed, and name it in
`_BASELINES`.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from tasks.errors import ConfigError, DataError
from tasks.metrics.attributes import attributes, describes_attributes


class Row(NamedTuple):
    """A training row."""

    prompt: str
    answer: str


def answer(name: str, train: Sequence[Row], prompts: Sequence[str], seed: int) -> list[str]:
    """Answer each prompt with a baseline; the same seed gives the same answers.

    Raises:
        ConfigError: There is no such baseline.
        DataError: The baseline copies training answers and there are none.
    """
    if name not in _BASELINES:
        raise ConfigError(
            f"baselines: there is no such baseline (found {name!r}). "
            f"Choose one of: {', '.join(_BASELINES)}."
        )
    if not train and name != "template":
        raise DataError(
            f"baselines: {name} copies training answers (found 0 training rows). "
            "Pass the training split, or choose template."
        )
    return _BASELINES[name](train, prompts, seed)


def _random(train: Sequence[Row], prompts: Sequence[str], seed: int) -> list[str]:
    return [row.answer for row in random.Random(seed).choices(train, k=len(prompts))]


def _retrieval(train: Sequence[Row], prompts: Sequence[str], _seed: int) -> list[str]:
    asked = [row.prompt for row in train]
    by_attributes = describes_attributes(asked)

    @cache  # each index is built when the first prompt needs it
    def index(features: Callable[[str], Collection[Hashable]]) -> _Index:
        return _Index([features(prompt) for prompt in asked])

    @cache  # many evaluation prompts are asked more than once
    def nearest(prompt: str) -> str:
        parsed = by_attributes and attributes(prompt) is not None
        features = _attributes if parsed else _pairs
        return train[index(features).nearest(features(prompt))].answer

    return [nearest(prompt) for prompt in prompts]


def _template(_train: Sequence[Row], prompts: Sequence[str], _seed: int) -> list[str]:
    return [_written_out(prompt) for prompt in prompts]


_BASELINES: dict[str, Callable[[Sequence[Row], Sequence[str], int], list[str]]] = {
    "random": _random,
    "retrieval": _retrieval,
    "template": _template,
}


def _written_out(prompt: str) -> str:
    found = attributes(prompt)
    if found is None:
        return prompt
    values: dict[str, list[str]] = {}
    for key, value in found:
        values.setdefault(key, []).append(value)
    return "这款商品的" + "，".join(f"{key}是{'、'.join(of)}" for key, of in values.items()) + "。"


def _attributes(prompt: str) -> Collection[Hashable]:
    return sorted(set(attributes(prompt) or ()))


def _pairs(prompt: str) -> Collection[Hashable]:
    return sorted({prompt[start : start + 2] for start in range(max(1, len(prompt) - 1))})


class _Index:
    """Rows by feature, to find the row most similar to a set of features.

    1,070 look-ups among 115,000 prompts take 2 s by attributes (6.5 a prompt), and 8 s by character
    pairs (32 a prompt), building included.
    """

    def __init__(self, rows: Sequence[Collection[Hashable]]) -> None:
        self._ids: dict[Hashable, int] = {}
        numbers, sizes = array("i"), array("i")
        for features in rows:
            numbers.extend(self._ids.setdefault(one, len(self._ids)) for one in features)
            sizes.append(len(features))
        of_feature = np.frombuffer(numbers, dtype=np.intc)
        of_row = np.repeat(np.arange(len(rows)), np.frombuffer(sizes, dtype=np.intc))
        frequency = np.bincount(of_feature, minlength=len(self._ids))
        self._rows = np.split(of_row[of_feature.argsort(kind="stable")], frequency.cumsum()[:-1])
        self._rarity = np.log1p(len(rows) / frequency)
        self._unseen = float(np.log1p(len(rows)))
        self._weights = np.bincount(of_row, self._rarity[of_feature], minlength=len(rows))

    def nearest(self, features: Collection[Hashable]) -> int:
        """Return the number of the first row with the largest weighted Jaccard similarity."""
        shared = np.zeros_like(self._weights)
        weight = 0.0
        for feature in features:
            known = self._ids.get(feature)
            if known is None:
                weight += self._unseen
            else:
                weight += self._rarity[known]
                shared[self._rows[known]] += self._rarity[known]
        return int((shared / (weight + self._weights - shared)).argmax())
