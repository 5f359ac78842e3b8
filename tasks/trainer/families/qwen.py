"""Qwen2, Qwen2.5 and Qwen3: prompts as the tokenizer's own chat template writes them, without thinking aloud.

Qwen3's template puts an empty thought before the answer when it is told not to think. Models are tuned and asked
that way here: a dataset has answers, not the thoughts that led to them.
"""

from __future__ import annotations

from ..chat_template import answer, answers, prompt, stop_ids

__all__ = ["ARCHITECTURES", "LORA_TARGETS", "answer", "answers", "prompt", "stop_ids"]

ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
