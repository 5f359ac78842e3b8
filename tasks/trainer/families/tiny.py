"""The bundled model: a small GLM with its own tokenizer.

A prompt is `[gMASK]<sop>`, then `<|role|>` and a line break before each message, then `<|assistant|>`
and a line break; an answer ends with `<|endoftext|>`. This is the layout of GLM-4.
Source: https://huggingface.co/THUDM/glm-4-9b-chat-hf, chat_template of tokenizer_config.json.

Control tokens are put in by id. Texts are encoded with the tokenizer's special tokens switched off, so
`<|user|>` inside a text is just characters.
"""

from __future__ import annotations

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
    ids = [_control(tokenizer, token) for token in _BEGIN]
    for message in messages:
        ids += _opening(tokenizer, message["role"])
        ids += _text(tokenizer, message["content"])
    return ids + _opening(tokenizer, "assistant")


def answer(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of an answer, its stop token included."""
    return [*_text(tokenizer, text), _control(tokenizer, _STOP)]


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer."""
    return [_control(tokenizer, _STOP)]


def _opening(tokenizer: PreTrainedTokenizerFast, role: str) -> list[int]:
    if role not in ("system", "user", "assistant"):
        raise DataError(f"role: unknown (found {role!r}). Use system, user or assistant.")
    return [_control(tokenizer, f"<|{role}|>"), *_text(tokenizer, "\n")]


def _text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
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
