"""Prompts in which every message stands after a token for its role and a line break: GLM-4, ChatGLM3.

A prompt ends with the token of the assistant and a line break. Each text of a batch is encoded once, all in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from . import written
from .errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .families import Messages

ROLES = ("system", "user", "assistant")


def require(messages: Messages) -> None:
    """Raise unless all roles are known.

    Raises:
        DataError: One is not.
    """
    for message in messages:
        if message["role"] not in ROLES:
            raise DataError(
                f"role: unknown (found {message['role']!r}). Use system, user or assistant."
            )


def prompts(
    tokenizer: PreTrainedTokenizerFast, begin: Sequence[str], conversations: Sequence[Messages]
) -> list[list[int]]:
    """Return the ids of many prompts, in order; `begin` are the control tokens they begin with."""
    every = (message["content"] for messages in conversations for message in messages)
    texts = list(dict.fromkeys(every))
    encoded = dict(zip(texts, written.ids(tokenizer, texts), strict=True))
    found = []
    for messages in conversations:
        require(messages)
        ids = [written.control(tokenizer, token) for token in begin]
        for message in messages:
            ids += _opening(tokenizer, message["role"])
            ids += encoded[message["content"]]
        found.append([*ids, *_opening(tokenizer, "assistant")])
    return found


@lru_cache(maxsize=64)
def _opening(tokenizer: PreTrainedTokenizerFast, role: str) -> tuple[int, ...]:
    return (written.control(tokenizer, f"<|{role}|>"), *written.ids(tokenizer, ["\n"])[0])
