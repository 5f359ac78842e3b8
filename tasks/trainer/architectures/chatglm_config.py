"""The sizes of a ChatGLM-6B, in the names that transformers gives them. Imports no torch."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


@strict
class ChatGlmConfig(PreTrainedConfig):
    """Configuration of `ChatGlmForCausalLM`; the defaults are those of ChatGLM-6B as published.

    Source: https://huggingface.co/THUDM/chatglm-6b (config.json).
    """

    model_type = "chatglm_6b"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 130528
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_hidden_layers: int = 28
    num_attention_heads: int = 32
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    residual_scale: float = 56**0.5
    """Factor of the residual connections. The original takes the root of twice 28, also of fewer layers."""
    half_precision_rope: bool = True
    """Rounds rotation to float16 where the original did: its frequencies always, its angles unless float32 computes."""
    use_cache: bool = True
    tie_word_embeddings: bool = True
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    bos_token_id: int | None = 130004
    """`<sop>`: the answer starts here, and what is left of it sees itself both ways."""
    eos_token_id: int | list[int] | None = 130005
    pad_token_id: int | None = 3


AutoConfig.register(ChatGlmConfig.model_type, ChatGlmConfig, exist_ok=True)
