"""MPT: a question as it is, or a conversation between `<|im_start|>` and `<|im_end|>`.

The base model knows no roles: a single question is given to it as plain text, and what stands around it is the
business of `data.template`. A conversation, and every prompt of a tokenizer that has the two markers as tokens (MPT
chat), is written in ChatML, the layout that MPT's own training code falls back to; without such tokens the
markers are ordinary characters. A tokenizer that has a chat template is asked to write the prompt itself.
Source: https://github.com/mosaicml/llm-foundry, the tokenizer's default chat template.

An answer ends with the token that closes a turn where there is one, else with `<|endoftext|>`. Positions are ALiBi's:
the implementation of attention that takes its biases is `eager`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import chat_template, roles, written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from . import Messages

ARCHITECTURES = ("MptForCausalLM", "MPTForCausalLM")
LORA_TARGETS = ("Wqkv", "out_proj", "up_proj", "down_proj")
ATTENTION_TARGETS = ("Wqkv",)
ATTENTION = "eager"

_OPEN, _CLOSE, _STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Return the ids up to where the answer begins."""
    return prompts(tokenizer, [messages])[0]


def prompts(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages]
) -> list[list[int]]:
    """Return the ids of many prompts, in order."""
    if tokenizer.chat_template is not None:
        return [chat_template.prompt(tokenizer, messages) for messages in conversations]
    marked = _marked(tokenizer)
    rendered = [_parts(messages, marked) for messages in conversations]
    if not marked:
        return written.ids(tokenizer, ["".join(text for text, _ in parts) for parts in rendered])
    texts = list(dict.fromkeys(text for parts in rendered for text, marker in parts if not marker))
    encoded = {
        (text, False): ids for text, ids in zip(texts, written.ids(tokenizer, texts), strict=True)
    }
    encoded |= {(token, True): [written.control(tokenizer, token)] for token in (_OPEN, _CLOSE)}
    return [[number for part in parts for number in encoded[part]] for parts in rendered]


def answer(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of an answer, its stop token included."""
    return answers(tokenizer, [text])[0]


def answers(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many answers, in order."""
    return written.ended(tokenizer, texts, stop_ids(tokenizer)[0])


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer."""
    if tokenizer.chat_template is not None:
        return chat_template.stop_ids(tokenizer)
    stops = [_CLOSE, _STOP] if _marked(tokenizer) else [_STOP]
    return [written.control(tokenizer, token) for token in stops]


def _marked(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Say whether the markers of a conversation are tokens."""
    return written.known(tokenizer).keys() >= {_OPEN, _CLOSE}


def _parts(messages: Messages, marked: bool) -> list[tuple[str, bool]]:
    """Return what a prompt consists of: texts, and between them the markers, told apart by the flag."""
    roles.require(messages)
    if not marked and [message["role"] for message in messages] == ["user"]:
        return [(messages[0]["content"], False)]
    parts = []
    for message in messages:
        said = f"{message['role']}\n{message['content']}"
        parts += [(_OPEN, True), (said, False), (_CLOSE, True), ("\n", False)]
    return [*parts, (_OPEN, True), ("assistant\n", False)]
