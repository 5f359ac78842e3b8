"""From a line of a dataset to token ids, in training and in prediction alike.

Decisions:

* Only answers are learnt. A row with several assistant messages gives an example for each, its prompt
  being all that came before: exactly what the model sees when it is asked, whatever a chat template
  does to older messages.
* A prompt that is too long loses its oldest messages first, then the middle of its last message. The
  tokens with which a prompt begins and the marker of the answer always stay.
* An answer that is too long is cut and then has no stop token: nobody learns to stop in mid-sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, DataError
from .families import Family, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .job import TrainSpec

ROLES = ("system", "user", "assistant")
IGNORED = -100
"""Label of a token that is not learnt."""


@dataclass(frozen=True)
class Example:
    """One prompt with its answer: ids and labels of equal length."""

    input_ids: list[int]
    labels: list[int]
    """The ids of the answer, `IGNORED` over the prompt. The model shifts."""
    prompt_cut: bool = False
    answer_cut: bool = False


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


def records(path: Path) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield the messages of each line, with `path:line` before them.

    Raises:
        ConfigError: There is no such file.
        DataError: A line is not a conversation that ends with an answer.
    """
    try:
        lines = path.open("rb")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path.parent}: no {path.name} here. Name a dataset with train.jsonl and dev.jsonl."
        ) from error
    with lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            yield where, _messages(line, where)


def _messages(line: bytes, where: str) -> list[dict[str, str]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not a JSON object in UTF-8 ({error}).") from error
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{where}: no list "messages" (found {_short(row)}).')
    found = [_message(m, f"{where}: messages[{i}]") for i, m in enumerate(messages)]
    if found[-1]["role"] != "assistant" or len(found) < 2:
        roles = ", ".join(m["role"] for m in found)
        raise DataError(f"{where}: must end with an answer to something (found the roles {roles}).")
    if not all(m["content"].strip() for m in found if m["role"] == "assistant"):
        raise DataError(f"{where}: an answer is empty. Leave the row out.")
    return found


def _message(message: Any, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise DataError(f"{where}: not an object (found {_short(message)}).")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise DataError(f"{where}: role must be system, user or assistant (found {role!r}).")
    if not isinstance(content, str):
        raise DataError(f"{where}: content must be a text (found {_short(content)}).")
    if any("\ud800" <= c <= "\udfff" for c in content):
        raise DataError(f"{where}: content holds half a character (a lone surrogate). Repair it.")
    return {"role": role, "content": content}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fit_prompt(
    family: Family, tokenizer: PreTrainedTokenizerFast, messages: Messages, limit: int
) -> tuple[list[int], bool]:
    """Return the ids of a prompt, at most `limit`, and whether something was cut.

    Raises:
        ConfigError: The limit does not even hold what surrounds the messages.
    """
    ids = family.prompt(tokenizer, messages)
    if len(ids) <= limit:
        return ids, False
    while len(ids) > limit and len(messages) > 1:
        messages = _without_oldest(messages)
        ids = family.prompt(tokenizer, messages)
    if len(ids) > limit:
        ids = _without_middle(family, tokenizer, messages[-1], ids, limit)
    return ids, True


def _without_oldest(messages: Messages) -> Messages:
    """Drop the oldest exchange; the system's message is the last to go."""
    first = 1 if messages[0]["role"] == "system" and len(messages) > 2 else 0
    users = (i for i in range(first + 1, len(messages)) if messages[i]["role"] == "user")
    return [*messages[:first], *messages[next(users, len(messages) - 1) :]]


def _without_middle(
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    message: Any,
    ids: list[int],
    limit: int,
) -> list[int]:
    frame = family.prompt(tokenizer, [{**message, "content": ""}])
    if len(frame) >= limit:
        raise ConfigError(
            f"max_prompt_tokens: the prompt around an empty message takes {len(frame)} tokens "
            f"(found {limit}). Raise it."
        )
    begin = _shared(frame, ids)
    end = _shared(frame[begin:][::-1], ids[::-1])
    keep = limit - begin - end
    head = begin + keep - keep // 2
    return ids[:head] + ids[len(ids) - end - keep // 2 :]


def _shared(left: list[int], right: list[int]) -> int:
    """Count the leading ids that two lists share."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def examples(
    messages: list[dict[str, str]],
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    spec: TrainSpec,
) -> Iterator[Example]:
    """Yield the examples of one row: one for each assistant message that has something before it."""
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or index == 0:
            continue
        prompt, cut = fit_prompt(family, tokenizer, messages[:index], spec.max_prompt_tokens)
        whole = family.answer(tokenizer, message["content"])
        answer = whole[: spec.max_answer_tokens]
        labels = [IGNORED] * len(prompt) + answer
        yield Example(prompt + answer, labels, cut, len(answer) < len(whole))


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
        DataError: A line is malformed; the message begins with `path:line`.
    """
    found: list[Example] = []
    count = 0
    for where, messages in islice(records(path), rows):
        try:
            found += examples(messages, family, tokenizer, spec)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        count += 1
    return Encoded(found, count)
