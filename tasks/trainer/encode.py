"""From a row of a dataset to token ids, in training and in prediction alike.

Decisions:

* Only answers are learnt. A row with several assistant messages gives an example for each, its prompt
  being all that came before: exactly what the model sees when it is asked, whatever a chat template
  does to older messages.
* A prompt that is too long is made to fit (`fitting.py`).
* An answer that is too long is cut and then has no stop token: nobody learns to stop in mid-sentence.
  An answer of which that leaves nothing to read is an error: it would teach silence.
* Rows are encoded many at a time, because tokenizers are faster so, even on one core: 4,000 rows of
  AdvertiseGen at 3,700 rows/s one by one, 4,900 together. The ids are the same (a test says so).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import families, records
from .errors import DataError
from .families import Family, Messages
from .fitting import fit_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .job import TrainSpec

IGNORED = -100
"""Label of a token that is not learnt."""

_TOGETHER = 256
_CHARACTERS_TOGETHER = 2**20
_FEW = 16
_HALF = "\N{REPLACEMENT CHARACTER}"
"""What a character that was cut in half decodes to."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with its answer: ids and labels of equal length."""

    input_ids: list[int]
    labels: list[int]
    """The ids of the answer, `IGNORED` over the prompt. The model shifts."""
    prompt_tokens: int = 0
    """Length of the prompt before it was cut."""
    answer_tokens: int = 0
    """Length of the answer before it was cut, its stop token included."""
    prompt_cut: bool = False
    answer_cut: bool = False
    emptied: bool = False
    """What is left of the answer is nothing to read."""


@dataclass(frozen=True)
class Encoded:
    """The examples of a split."""

    examples: list[Example]
    rows: int

    @property
    def prompts_cut(self) -> int:
        """Count the examples whose prompt was too long."""
        return sum(example.prompt_cut for example in self.examples)

    @property
    def answers_cut(self) -> int:
        """Count the examples whose answer was too long."""
        return sum(example.answer_cut for example in self.examples)


class Emptied:
    """Counts the answers of a split of which nothing is left."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""
        """`path:line` of the first."""

    def look(self, where: str, example: Example) -> None:
        """Count an example, if its answer is one."""
        if example.emptied:
            self.count += 1
            self.first = self.first or where

    def refuse(self, spec: TrainSpec) -> None:
        """Raise if there is any.

        Raises:
            DataError: There is.
        """
        if self.count:
            raise DataError(
                f"{self.first}: nothing is left of the answer within {spec.max_answer_tokens} tokens "
                f"(found {self.count:,} such answers in this file). "
                "Raise train.max_answer_tokens, or leave these rows out."
            )


class _Pair(NamedTuple):
    where: str
    prompt: Messages
    answer: str


def examples(
    messages: list[dict[str, str]],
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    spec: TrainSpec,
) -> Iterator[Example]:
    """Yield the examples of one row: one for each assistant message that has something before it."""
    for _, example in _encoded([("", messages)], family, tokenizer, spec):
        yield example


def stream(
    path: Path,
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    spec: TrainSpec,
    rows: int | None = None,
) -> Iterator[tuple[str, Example]]:
    """Yield the examples of a split, or of its first rows, with `path:line` before them.

    Raises:
        ConfigError: The file is missing.
        DataError: A line is malformed; the message begins with `path:line`.
    """
    return _encoded(islice(records.read(path), rows), family, tokenizer, spec)


def split(
    path: Path,
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    spec: TrainSpec,
    rows: int | None = None,
) -> Encoded:
    """Encode a split, or its first rows.

    Raises:
        ConfigError: The file is missing.
        DataError: A line is malformed, or nothing is left of an answer; the message begins with `path:line`.
    """
    found: list[Example] = []
    emptied = Emptied()
    count, last = 0, ""
    for where, example in stream(path, family, tokenizer, spec, rows):
        found.append(example)
        emptied.look(where, example)
        count, last = count + (where != last), where
    emptied.refuse(spec)
    return Encoded(found, count)


def _encoded(
    rows: Iterable[tuple[str, list[dict[str, str]]]],
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    spec: TrainSpec,
) -> Iterator[tuple[str, Example]]:
    for batch in _batches(_pairs(rows)):
        prompts = _prompts(batch, family, tokenizer)
        answers = families.answers(family, tokenizer, [pair.answer for pair in batch])
        for pair, prompt, answer in zip(batch, prompts, answers, strict=True):
            yield pair.where, _example(pair, prompt, answer, family, tokenizer, spec)


def _pairs(rows: Iterable[tuple[str, list[dict[str, str]]]]) -> Iterator[_Pair]:
    for where, messages in rows:
        for index, message in enumerate(messages):
            if message["role"] == "assistant" and index > 0:
                yield _Pair(where, messages[:index], message["content"])


def _batches(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    """Put together what fits into the memory, however long the rows are."""
    batch: list[_Pair] = []
    characters = 0
    for pair in pairs:
        batch.append(pair)
        characters += len(pair.answer) + sum(len(message["content"]) for message in pair.prompt)
        if len(batch) == _TOGETHER or characters >= _CHARACTERS_TOGETHER:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _prompts(
    batch: Sequence[_Pair], family: Family, tokenizer: PreTrainedTokenizerFast
) -> list[list[int]]:
    try:
        return families.prompts(family, tokenizer, [pair.prompt for pair in batch])
    except DataError:
        for pair in batch:
            with _named(pair.where):
                family.prompt(tokenizer, pair.prompt)
        raise


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Put `path:line` before what a family has against a conversation."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}" if where else str(error)) from error


def _example(
    pair: _Pair,
    prompt: list[int],
    answer: list[int],
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    spec: TrainSpec,
) -> Example:
    with _named(pair.where):
        fitted, cut = fit_prompt(family, tokenizer, pair.prompt, spec.max_prompt_tokens, prompt)
    kept = answer[: spec.max_answer_tokens]
    short = len(kept) < len(answer)
    return Example(
        fitted + kept,
        [IGNORED] * len(fitted) + kept,
        prompt_tokens=len(prompt),
        answer_tokens=len(answer),
        prompt_cut=cut,
        answer_cut=short,
        emptied=_is_blank(kept if short else answer[:-1], tokenizer),
    )


def _is_blank(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> bool:
    """Say whether ids are nothing to read; the first few tell it of almost every answer."""
    for part in (ids[:_FEW], ids):
        text = tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if str(text).replace(_HALF, "").strip():
            return False
    return True
