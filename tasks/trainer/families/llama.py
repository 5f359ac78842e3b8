"""Llama and Mistral: prompts as the tokenizer's own chat template writes them.

Qwen's models have their family now; a configuration that names this one for them works as before.
"""

from __future__ import annotations

from ..chat_template import answer, answers, prompt, stop_ids

__all__ = ["ARCHITECTURES", "LORA_TARGETS", "answer", "answers", "prompt", "stop_ids"]

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
