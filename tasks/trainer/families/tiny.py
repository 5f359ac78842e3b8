"""The bundled model: a small GLM with its own tokenizer, prompted like GLM-4.

It knows one way to end an answer, and learns at rates that would wreck a model of billions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import written
from ..glm4_layout import END, answer, answers, prompt, prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["ARCHITECTURES", "LORA_TARGETS", "RATES", "answer", "answers", "prompt", "prompts"]

ARCHITECTURES = ("GlmForCausalLM",)
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
RATES = {"lora": 5e-3, "qlora": 5e-3, "prefix": 1e-1, "full": 1e-3}


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of which any one ends an answer."""
    return [written.control(tokenizer, END)]
