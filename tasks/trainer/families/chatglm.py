r"""ChatGLM-6B, ChatGLM2-6B and ChatGLM3-6B, told apart by the control tokens of the tokenizer.

A prompt is, with `…` for what was said, rounds counted as each generation counts them:

    1   `…` alone for a first question; with earlier rounds `[Round 0]\n问：…\n答：…\n[Round 1]\n问：…\n答：`;
        then `[gMASK] <sop>`. An answer ends with `<eop>`.
    2   `[gMASK] sop`, then `[Round 1]\n\n问：…\n\n答：…\n\n[Round 2]\n\n问：…\n\n答：`, also for a first
        question. An answer ends with `</s>`.
    3   `[gMASK] sop`, then for each message its role's token, a line break, and `…`; then `<|assistant|>` and a line
        break. An answer ends with `</s>`; a model also ends it with `<|user|>` or `<|observation|>`.

Sources: tokenization_chatglm.py and modeling_chatglm.py of https://huggingface.co/THUDM/chatglm-6b, chatglm2-6b
and chatglm3-6b.

Decisions where the published training differs from this or from itself:

* What is learnt is the answer and its end. The originals also learn `<sop>` (1), the line break after
  `<|assistant|>` and the token that opens the next turn (3): the first two are the same in every row.
* ChatGLM-6B was tuned with `[Round 0]` around a first question where rows have an empty history, and is asked
  without. Here it is tuned as it is asked: without.
* 1 and 2 have no role for a system: its message stands at the very beginning, before the first round, with the line
  breaks of that generation after it.
* A prompt that is too long keeps its end. In 2 the original cuts it there, so that the model never sees `答：`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .. import roles, written
from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from . import Messages

ARCHITECTURES = (
    "ChatGLMModel",
    "ChatGLMForConditionalGeneration",
    "ChatGlmForCausalLM",
    "GlmForCausalLM",
)
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "up_proj", "down_proj")

_AROUND = {1: ("[gMASK]", "<sop>"), 2: ("[gMASK]", "sop"), 3: ("[gMASK]", "sop")}
"""After what is asked in 1, before it in 2 and 3."""
_STOPS = {1: ("<eop>",), 2: ("</s>",), 3: ("</s>", "<|user|>", "<|observation|>")}


def prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Return the ids up to where the answer begins."""
    return prompts(tokenizer, [messages])[0]


def prompts(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages]
) -> list[list[int]]:
    """Return the ids of many prompts, in order."""
    generation = generation_of(tokenizer)
    around = [written.control(tokenizer, token) for token in _AROUND[generation]]
    if generation == 3:
        return roles.prompts(tokenizer, _AROUND[3], conversations)
    if generation == 2:
        texts = written.ids(tokenizer, [_second(messages) for messages in conversations])
        return [[*around, *text] for text in texts]
    texts = written.ids(tokenizer, [_first(messages) for messages in conversations])
    return [[*text, *around] for text in texts]


def answer(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the ids of an answer, its stop token included."""
    return answers(tokenizer, [text])[0]


def answers(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of many answers, in order."""
    return written.ended(tokenizer, texts, stop_ids(tokenizer)[0])


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer."""
    return [written.control(tokenizer, token) for token in _STOPS[generation_of(tokenizer)]]


@lru_cache(maxsize=8)
def generation_of(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the generation of a tokenizer: 1, 2 or 3.

    Raises:
        ConfigError: It is of none of them.
    """
    known = written.known(tokenizer).keys()
    roles = "<|assistant|>" in known
    if known >= {"[gMASK]", "<sop>", "<eop>"} and not roles:
        return 1
    if known >= {"[gMASK]", "sop", "</s>"}:
        return 3 if roles else 2
    raise ConfigError(
        "tokenizer: not one of ChatGLM-6B, ChatGLM2-6B or ChatGLM3-6B "
        f"(its special tokens: {', '.join(tokenizer.all_special_tokens) or 'none'}). "
        "Choose the family that fits this base model; GLM-4 has its own, glm4."
    )


def _first(messages: Messages) -> str:
    system, rounds, question = _dialogue(messages)
    before = [f"{system}\n"] if system else []
    if not rounds:
        return "".join([*before, question])
    turns = [f"[Round {i}]\n问：{asked}\n答：{said}\n" for i, (asked, said) in enumerate(rounds)]
    return "".join([*before, *turns, f"[Round {len(rounds)}]\n问：{question}\n答："])


def _second(messages: Messages) -> str:
    system, rounds, question = _dialogue(messages)
    before = [f"{system}\n\n"] if system else []
    turns = [
        f"[Round {i}]\n\n问：{asked}\n\n答：{said}\n\n" for i, (asked, said) in enumerate(rounds, 1)
    ]
    return "".join([*before, *turns, f"[Round {len(rounds) + 1}]\n\n问：{question}\n\n答："])


def _dialogue(messages: Messages) -> tuple[str, list[tuple[str, str]], str]:
    """Return the system's message, the earlier questions with their answers, and the question."""
    spoke = [message["role"] for message in messages]
    said = [message["content"] for message in messages]
    first = 1 if spoke[:1] == ["system"] else 0
    turns = len(spoke) - first
    if turns % 2 == 0 or spoke[first:] != (["user", "assistant"] * turns)[:turns]:
        raise DataError(
            "messages: this model knows rounds of user and assistant, that end with the user, and a system's "
            f"message before them (found {', '.join(spoke) or 'none'}). Give it such rows."
        )
    rounds = list(zip(said[first:-1:2], said[first + 1 :: 2], strict=True))
    return (said[0] if first else ""), rounds, said[-1]
