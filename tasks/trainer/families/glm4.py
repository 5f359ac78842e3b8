"""GLM-4: conversations in its own layout; a model may also end its answer by opening the turn of somebody else.

Source: https://huggingface.co/THUDM/glm-4-9b-chat-hf, generation_config.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import written
from ..glm4_layout import END, answer, answers, prompt, prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["ARCHITECTURES", "LORA_TARGETS", "answer", "answers", "prompt", "prompts"]

ARCHITECTURES = ("GlmForCausalLM", "Glm4ForCausalLM")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")

_TURNS = ("<|user|>", "<|observation|>")


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer."""
    known = written.known(tokenizer)
    return [written.control(tokenizer, END), *(known[turn] for turn in _TURNS if turn in known)]
