"""Makes a prompt that is too long fit, without losing what must stay.

It loses its oldest messages first, then the middle of its last message. The tokens with which a prompt begins
and the marker of the answer always stay. So does a prompt template: of a message in a template only what the
person wrote is cut, as text, and the message is rendered anew.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from . import template
from .errors import ConfigError
from .families import Family, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def fit_prompt(
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    messages: Messages,
    limit: int,
    ids: list[int] | None = None,
) -> tuple[list[int], bool]:
    """Return the ids of a prompt, at most `limit`, and whether something was cut.

    Args:
        family: How prompts are written.
        tokenizer: The tokenizer of the model.
        messages: The conversation up to the answer.
        limit: Most tokens of the prompt.
        ids: The ids of the whole prompt, where they are known already.

    Raises:
        ConfigError: The limit does not even hold what surrounds the messages.
    """
    whole = family.prompt(tokenizer, messages) if ids is None else ids
    if len(whole) <= limit:
        return whole, False
    if len(messages) > 1:
        messages = _newest(family, tokenizer, messages, limit)
        whole = family.prompt(tokenizer, messages)
    if len(whole) <= limit:
        return whole, True
    if template.of(family):
        return _with_shorter_text(family, tokenizer, messages[-1], limit), True
    return _without_middle(family, tokenizer, messages[-1], whole, limit), True


def _newest(
    family: Family, tokenizer: PreTrainedTokenizerFast, messages: Messages, limit: int
) -> Messages:
    """Drop the oldest exchanges, as few as suffice; the system's message is the last to go.

    By bisection: one by one, a row of 100 turns would be rendered thousands of times.
    """
    first = 1 if messages[0]["role"] == "system" and len(messages) > 2 else 0
    last = len(messages) - 1
    begins = [i for i in range(first + 1, last) if messages[i]["role"] == "user"] + [last]

    def fits(begin: int) -> bool:
        return len(family.prompt(tokenizer, [*messages[:first], *messages[begin:]])) <= limit

    found = bisect_left(begins, True, key=fits)
    if found == len(begins):
        return messages[last:]
    return [*messages[:first], *messages[begins[found] :]]


def _with_shorter_text(
    family: Family, tokenizer: PreTrainedTokenizerFast, message: Any, limit: int
) -> list[int]:
    """Keep as much of the beginning and of the end of a person's text as fits, in equal parts."""
    text = message["content"]

    def keeping(characters: int) -> list[int]:
        end = characters // 2
        short = text[: characters - end] + text[len(text) - end :]
        return family.prompt(tokenizer, [{**message, "content": short}])

    kept = bisect_left(range(len(text)), True, key=lambda n: len(keeping(n)) > limit) - 1
    if kept < 1:
        raise _no_room(len(keeping(0)), limit)
    return keeping(kept)


def _without_middle(
    family: Family,
    tokenizer: PreTrainedTokenizerFast,
    message: Any,
    ids: list[int],
    limit: int,
) -> list[int]:
    frame = family.prompt(tokenizer, [{**message, "content": ""}])
    if len(frame) >= limit:
        raise _no_room(len(frame), limit)
    begin = _shared(frame, ids)
    end = _shared(frame[begin:][::-1], ids[::-1])
    keep = limit - begin - end
    head = begin + keep - keep // 2
    return ids[:head] + ids[len(ids) - end - keep // 2 :]


def _no_room(frame: int, limit: int) -> ConfigError:
    return ConfigError(
        f"max_prompt_tokens: what surrounds an empty prompt, its template included, takes {frame} tokens "
        f"(found {limit}). Raise train.max_prompt_tokens, or shorten data.template."
    )


def _shared(left: list[int], right: list[int]) -> int:
    """Count the leading ids that two lists share."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
