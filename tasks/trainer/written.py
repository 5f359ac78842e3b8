"""What a person wrote, as token ids that are never control tokens.

Families put control tokens in by id, and encode texts here: with the special tokens of the tokenizer switched off,
`<|user|>` inside a text is just characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts, in order; many together are faster than one by one."""
    if not texts:
        return []
    plain = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    found: list[list[int]] = plain["input_ids"]
    return found


def ended(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], stop: int) -> list[list[int]]:
    """Return the ids of answers: texts, each with the token that ends it."""
    return [[*text, stop] for text in ids(tokenizer, texts)]


@lru_cache(maxsize=64)
def control(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of a control token.

    Raises:
        ConfigError: The tokenizer has no such control token.
    """
    if (found := known(tokenizer).get(token)) is None:
        raise ConfigError(
            f"tokenizer: {token} is not one of its special tokens "
            f"(found: {', '.join(tokenizer.all_special_tokens) or 'none'}). "
            "Choose the family that fits this base model."
        )
    return found


@lru_cache(maxsize=8)
def known(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Return the control tokens of a tokenizer with their ids."""
    every = tokenizer.added_tokens_decoder.items()
    return {token.content: number for number, token in every if token.special}
