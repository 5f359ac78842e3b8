"""Prompts as the tokenizer's own chat template writes them: Llama, Qwen and their kin.

The template is rendered by transformers with `sanitize_control_tokens`: control tokens that a person
wrote into a message are encoded as ordinary characters, those of the template stay tokens. A template
that joins parts of a message into a control token would escape that; roles are therefore checked here.
An answer ends with the token that the template itself writes after an assistant's message.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from . import roles, written
from .errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .families import Messages

# Llama 3.2's template writes today's date where none is given: equal input would then give other ids
# tomorrow. This is the date that Llama 3.1's template writes. Qwen3's template thinks unless told not to.
_FIXED: dict[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}


def prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Return the ids up to where the answer begins."""
    ids: list[int] = _render(tokenizer, messages, add_generation_prompt=True)
    return ids


def answer(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of an answer, its stop token included."""
    return answers(tokenizer, [text])[0]


def answers(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many answers, in order."""
    return written.ended(tokenizer, texts, stop_ids(tokenizer)[0]) if texts else []


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer: the template's own, then the tokenizer's."""
    return list(_stops(tokenizer))


@lru_cache(maxsize=8)
def _stops(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    one, other = (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": c}] for c in "bc"
    )
    # a prompt may hold what a finished turn does not (an empty thought), so the two answers show where they end
    whole, another = (
        _render(tokenizer, turn, add_generation_prompt=False) for turn in (one, other)
    )
    shared = takewhile(
        lambda pair: pair[0] == pair[1], zip(whole[::-1], another[::-1], strict=False)
    )
    special = set(tokenizer.all_special_ids)
    closing = [i for i, _ in shared if i in special][-1:]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not closing + end:
        raise ConfigError(
            "tokenizer: nothing ends an answer (no eos_token, and the chat template closes an "
            "assistant's message with no special token). Set eos_token in tokenizer_config.json."
        )
    return tuple(dict.fromkeys(closing + end))


def _render(tokenizer: PreTrainedTokenizerFast, messages: Messages, **how: Any) -> Any:
    if tokenizer.chat_template is None:
        raise ConfigError(
            "tokenizer: it has no chat template (no chat_template.jinja, none in "
            "tokenizer_config.json). Use the chat version of the model, or add its template."
        )
    roles.require(messages)
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            sanitize_control_tokens=True,
            return_dict=False,
            **how,
            **_FIXED,
        )
    except TemplateError as error:
        raise DataError(f"messages: the model's chat template refuses them ({error}).") from error
