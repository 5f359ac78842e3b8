"""Whether answers say what their prompts ask for, and what else the protocol's scores do not see.

Overlap scores barely tell a faithful answer from a fluent one: the nearest training answer scores
like a second human, and says half of what was asked. Measured on 535 dev rows of AdvertiseGen:

|               | references | nearest training answer | random training answer |
| ------------- | ---------- | ----------------------- | ---------------------- |
| coverage      | 0.86       | 0.52                    | 0.11                   |
| contradiction | 0.14       | 0.64                    | 0.89                   |

Both exist only for prompts of `attributes.py`. People do not write every value out (97 % of the
colours, but 61 % of 类型 and half of 裙型), so coverage is also told key by key and in relation to the
references'. Coverage alone is won by writing the attributes out, so `extras` puts the measures of
`fluency.py` beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tasks.errors import DataError
from tasks.metrics.attributes import attributes, describes_attributes
from tasks.metrics.fluency import (
    ORDER,
    distinct,
    duplicates,
    length_ratio,
    repetition,
    width_warning,
    widths,
)

EXCLUSIVE = ("颜色", "材质", "领型", "长", "图案")
"""Endings of the keys whose values exclude each other: colour, fabric, collar, length, pattern.

Further keys, such as style, are open: an answer may add to them without contradicting anything.
"""


def extras(
    prompts: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    finishes: Sequence[str],
) -> dict[str, float]:
    """Measure answers beside the protocol: shares from 0 to 1, but for the two ratios.

    | key                  | meaning                                                              |
    | -------------------- | -------------------------------------------------------------------- |
    | `attribute_coverage` | of the attribute values asked for, those that their answer says      |
    | `relative_coverage`  | that over the same of the references: 1 says as much as people do    |
    | `contradiction`      | answers that name a colour, fabric, … which their prompt does not    |
    | `distinct_4`         | different character 4-grams of all answers, of all their 4-grams     |
    | `repetition`         | character 4-grams that the same answer said before, of all 4-grams   |
    | `length_ratio`       | characters of all answers over those of all references               |
    | `duplicates`         | answers that an earlier row got as well                              |
    | `cut`                | answers that ended at the token limit: their finish is `length`      |
    | `width_mismatch`     | 1 when answers and references write marks of another width, else 0   |

    The first three are absent when fewer than 95 % of the prompts are attributes, the relation also
    when the references say none of them, contradiction also without any exclusive attribute; the
    length ratio is absent when every reference is empty. For what people reach, pass the references
    as the predictions.

    Raises:
        DataError: There are no rows, or not as many of one list as of another.
    """
    _check(prompts, predictions, references, finishes)
    said, by_people = coverage(prompts, predictions), coverage(prompts, references)
    measured = {
        "attribute_coverage": said,
        "relative_coverage": said / by_people if said is not None and by_people else None,
        "contradiction": contradiction(prompts, predictions),
        "distinct_4": distinct(predictions),
        "repetition": repetition(predictions),
        "length_ratio": length_ratio(predictions, references),
        "duplicates": duplicates(predictions),
        "cut": sum(finish == "length" for finish in finishes) / len(finishes),
        "width_mismatch": float(bool(widths(predictions, references))),
    }
    return {key: value for key, value in measured.items() if value is not None}


def details(
    prompts: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str],
    normalised: bool = False,
) -> dict[str, Any]:
    """Return what `extras` sums up, for JSON.

    | key               | meaning                                                                 |
    | ----------------- | ----------------------------------------------------------------------- |
    | `distinct`        | by length of the character n-grams, 1 to 4, the share of different ones |
    | `coverage_by_key` | by key the fields of `KeyCoverage` and `relative`; empty without any    |
    | `width_warning`   | a sentence, or empty: see `fluency.width_warning`                       |

    Args:
        prompts: What was asked.
        predictions: What was answered.
        references: What was expected.
        normalised: Whether the scores compare both sides after NFKC.

    Raises:
        DataError: There are no rows, or not as many of one list as of another.
    """
    _check(prompts, predictions, references)
    by_key = coverage_by_key(prompts, predictions, references)
    return {
        "distinct": {str(order): distinct(predictions, order) for order in range(1, ORDER + 1)},
        "coverage_by_key": {
            key: {**one._asdict(), "relative": one.relative} for key, one in by_key.items()
        },
        "width_warning": width_warning(predictions, references, normalised),
    }


def coverage(prompts: Sequence[str], answers: Sequence[str]) -> float | None:
    """Return the share of all attribute values that their answers say; case is ignored."""
    if not describes_attributes(prompts):
        return None
    said = asked = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        text, values = answer.casefold(), {value for _, value in _folded(prompt)}
        said += sum(value in text for value in values)
        asked += len(values)
    return said / asked


class KeyCoverage(NamedTuple):
    """How the values of one key are said; a value counts once for each row that asks for it."""

    asked: int
    answers: int
    """How many of these the answers say."""
    references: int
    """How many the references say."""

    @property
    def relative(self) -> float | None:
        """Answers for each that the references say; 1 is as much as people do, None is of nothing."""
        return self.answers / self.references if self.references else None


def coverage_by_key(
    prompts: Sequence[str], predictions: Sequence[str], references: Sequence[str]
) -> dict[str, KeyCoverage]:
    """Count by key how often its values are said, the most frequent key first.

    Empty when fewer than 95 % of the prompts are attributes.
    """
    if not describes_attributes(prompts):
        return {}
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for prompt, prediction, reference in zip(prompts, predictions, references, strict=True):
        text, told = prediction.casefold(), reference.casefold()
        for key, value in dict.fromkeys(_folded(prompt)):
            asked[key] += 1
            answered[key] += value in text
            expected[key] += value in told
    ordered = sorted(asked, key=lambda key: (-asked[key], key))
    return {key: KeyCoverage(asked[key], answered[key], expected[key]) for key in ordered}


def contradiction(prompts: Sequence[str], answers: Sequence[str]) -> float | None:
    """Return the share of answers that name an exclusive value which their prompt does not hold.

    The exclusive values are those of all prompts together. A value within a longer one does not
    count: who writes 深蓝色 has not written 蓝色, and a prompt with 深蓝色 allows to write 蓝色.
    """
    found = contradicted(prompts, answers)
    if found is None:
        return None
    judged = [values for values in found if values is not None]
    return sum(map(bool, judged)) / len(judged)


def contradicted(prompts: Sequence[str], answers: Sequence[str]) -> list[list[str] | None] | None:
    """Return by row the exclusive values that the answer names and its prompt does not hold.

    A row whose prompt holds no attributes has None; so has the whole where no prompt names an exclusive value.
    """
    exclusive = _any_exclusive(prompts) if describes_attributes(prompts) else None
    if exclusive is None:
        return None
    found: list[list[str] | None] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        held = [value for _, value in _folded(prompt)]
        named = dict.fromkeys(exclusive.findall(answer.casefold()))
        strange = [one for one in named if not any(one in value for value in held)]
        found.append(strange if held else None)
    return found


def _folded(prompt: str) -> list[tuple[str, str]]:
    return [(key, value.casefold()) for key, value in attributes(prompt) or ()]


def _any_exclusive(prompts: Iterable[str]) -> re.Pattern[str] | None:
    values = {
        value for prompt in prompts for key, value in _folded(prompt) if key.endswith(EXCLUSIVE)
    }
    longest_first = sorted(values, key=lambda value: (-len(value), value))
    return re.compile("|".join(map(re.escape, longest_first))) if values else None


def _check(*lists: Sequence[str]) -> None:
    sizes = [len(one) for one in lists]
    if len(set(sizes)) > 1:
        raise DataError(
            "faithfulness: each row needs a prompt, a prediction, a reference and a finish "
            f"(found {', '.join(map(str, sizes))} of them). Pass lists of the same rows."
        )
    if not sizes[0]:
        raise DataError(
            "faithfulness: there is nothing to measure (found 0 rows). Answer a row first."
        )
