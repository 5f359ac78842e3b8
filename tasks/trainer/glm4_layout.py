"""The layout of GLM-4's conversations, which the bundled model shares.

`[gMASK]<sop>`, then every message after `<|role|>` and a line break; a prompt ends with `<|assistant|>` and a line
break, an answer with `<|endoftext|>`.
Source: https://huggingface.co/THUDM/glm-4-9b-chat-hf, chat_template of tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import roles, written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from .families import Messages

END = "<|endoftext|>"
_BEGIN = ("[gMASK]", "<sop>")


def prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Return the ids up to where the answer begins."""
    return prompts(tokenizer, [messages])[0]


def prompts(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages]
) -> list[list[int]]:
    """Return the ids of many prompts, in order."""
    return roles.prompts(tokenizer, _BEGIN, conversations)


def answer(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of an answer, its stop token included."""
    return answers(tokenizer, [text])[0]


def answers(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many answers, in order."""
    return written.ended(tokenizer, texts, written.control(tokenizer, END))
