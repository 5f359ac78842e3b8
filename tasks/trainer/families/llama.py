"""Llama and its kin: whatever the tokenizer's own chat template says.

The template is rendered by transformers with `sanitize_control_tokens`: control tokens that a person
wrote into a message are encoded as ordinary characters, those of the template stay tokens. A template
that joins parts of a message into a control token would escape that; roles are therefore checked here.
An answer ends with the token that the template itself writes after an assistant's message.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from . import Messages

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

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
    if not texts:
        return []
    plain = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    stop = stop_ids(tokenizer)[0]
    return [[*ids, stop] for ids in plain["input_ids"]]


@lru_cache(maxsize=8)
def _stops(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    opening = _render(tokenizer, turn[:1], add_generation_prompt=True)
    whole = _render(tokenizer, turn, add_generation_prompt=False)
    special = set(tokenizer.all_special_ids)
    closing = [i for i in whole[len(opening) :] if i in special][:1]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not closing + end:
        raise ConfigError(
            "tokenizer: nothing ends an answer (no eos_token, and the chat template closes an "
            "assistant's message with no special token). Set eos_token in tokenizer_config.json."
        )
    return tuple(dict.fromkeys(closing + end))


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer: the template's own, then the tokenizer's."""
    return list(_stops(tokenizer))


def _render(tokenizer: PreTrainedTokenizerFast, messages: Messages, **how: Any) -> Any:
    if tokenizer.chat_template is None:
        raise ConfigError(
            "tokenizer: it has no chat template (no chat_template.jinja, none in "
            "tokenizer_config.json). Use the chat version of the model, or add its template."
        )
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise DataError(
                f"role: unknown (found {message['role']!r}). Use system, user or assistant."
            )
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
