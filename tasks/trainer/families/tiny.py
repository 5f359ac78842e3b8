"""The bundled model: a small GLM with its own tokenizer, prompted like GLM-4.

It knows one way to end an answer, `<|endoftext|>`, and learns at rates that would wreck a model of billions.
Source: https://huggingface.co/THUDM/glm-4-9b-chat-hf, chat_template of tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import roles, written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from . import Messages

ARCHITECTURES = ("GlmForCausalLM",)
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
RATES = {"lora": 5e-3, "qlora": 5e-3, "prefix": 1e-1, "full": 1e-3}

_BEGIN = ("[gMASK]", "<sop>")
_STOP = "<|endoftext|>"


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
    return written.ended(tokenizer, texts, stop_ids(tokenizer)[0])


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer."""
    return [written.control(tokenizer, _STOP)]
