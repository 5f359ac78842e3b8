"""The bundled model: a small GLM with its own tokenizer.

A prompt is `[gMASK]<sop>`, then `<|role|>` and a line break before each message, then `<|assistant|>`
and a line break; an answer ends with `<|endoftext|>`. This is the layout of GLM-4.
Source: https://huggingface.co/THUDM/glm-4-9b-chat-hf, chat_template of tokenizer_config.json.

Control tokens are put in by id. Texts are encoded with the tokenizer's special tokens switched off, so
`<|user|>` inside a text is just characters. Each text of a batch is encoded once, all in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from . import Messages

ARCHITECTURES = ("GlmForCausalLM",)
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")

_BEGIN = ("[gMASK]", "<sop>")
_STOP = "<|endoftext|>"


def prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Return the ids up to where the answer begins."""
    return prompts(tokenizer, [messages])[0]


def prompts(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages]
) -> list[list[int]]:
    """Return the ids of many prompts, in order."""
    every = (message["content"] for messages in conversations for message in messages)
    texts = list(dict.fromkeys(every))
    encoded = dict(zip(texts, _texts(tokenizer, texts), strict=True))
    found = []
    for messages in conversations:
        ids = [_control(tokenizer, token) for token in _BEGIN]
        for message in messages:
            ids += _opening(tokenizer, message["role"])
            ids += encoded[message["content"]]
        found.append([*ids, *_opening(tokenizer, "assistant")])
    return found


def answer(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of an answer, its stop token included."""
    return answers(tokenizer, [text])[0]


def answers(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many answers, in order."""
    stop = _control(tokenizer, _STOP)
    return [[*ids, stop] for ids in _texts(tokenizer, texts)]


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer."""
    return [_control(tokenizer, _STOP)]


@lru_cache(maxsize=64)
def _opening(tokenizer: PreTrainedTokenizerFast, role: str) -> tuple[int, ...]:
    if role not in ("system", "user", "assistant"):
        raise DataError(f"role: unknown (found {role!r}). Use system, user or assistant.")
    return (_control(tokenizer, f"<|{role}|>"), *_texts(tokenizer, ["\n"])[0])


def _texts(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    plain = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    ids: list[list[int]] = plain["input_ids"]
    return ids


@lru_cache(maxsize=64)
def _control(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = [
        i for i, t in tokenizer.added_tokens_decoder.items() if t.content == token and t.special
    ]
    if not found:
        raise ConfigError(
            f"tokenizer: {token} is not one of its special tokens "
            f"(found: {', '.join(tokenizer.all_special_tokens) or 'none'}). "
            "Choose the family that fits this base model."
        )
    return found[0]
