"""ChatGLM-6B (the first generation) as an ordinary model of transformers: no remote code.

What sets it apart from the later generations: two positions for each token, of which each rotates one half
of a head; a prompt that sees itself both ways; and residual connections that start from the *normalised*
input, scaled by 7.5.

Decisions:

* Projections are split into `q_proj`, `k_proj`, `v_proj`, `o_proj`, `up_proj` and `down_proj`, the names that
  LoRA, quantisation and sharding know. `layouts/chatglm1.py` holds the map from the names of the original.
* Positions and mask may be passed finished (`chatglm_view.View`). Without them they are derived from the ids, so
  that `model(ids, attention_mask)` and `model.generate` work; a row without `[gMASK] <sop>` is then an error.
* The output layer is tied to the embeddings. The original leaves that to transformers' default, which ties them
  when it loads a checkpoint.

Checked against the original's numbers in tests/test_chatglm_6b.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from .chatglm_config import ChatGlmConfig
from .chatglm_rotation import Rotation, rotated, rotation
from .chatglm_view import View, derived, mask

if TYPE_CHECKING:
    from transformers import Cache

__all__ = ["ChatGlmConfig", "ChatGlmForCausalLM", "ChatGlmModel", "View"]


class ChatGlmAttention(nn.Module):
    """Attention whose heads are rotated by two positions."""

    def __init__(self, config: ChatGlmConfig, layer: int) -> None:
        super().__init__()
        self.layer_idx = layer
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden: Tensor, turn: Rotation, added: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """Return `(rows, width, hidden)`; `added (rows or 1, 1, width, columns)` to the scores."""
        query, key, value = (
            projection(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotated(query, turn), rotated(key, turn)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=added)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class ChatGlmMlp(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: ChatGlmConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `(rows, width, hidden)`."""
        out: Tensor = self.down_proj(gelu(self.up_proj(hidden), approximate="tanh"))
        return out


class ChatGlmLayer(GradientCheckpointingLayer):
    """Attention and MLP, each added to its scaled, normalised input."""

    def __init__(self, config: ChatGlmConfig, layer: int) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ChatGlmAttention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ChatGlmMlp(config)

    def forward(
        self,
        hidden: Tensor,
        turn: Rotation,
        added: Tensor | None,
        past_key_values: Cache | None = None,
    ) -> Tensor:
        """Return `(rows, width, hidden)`."""
        normed = self.input_layernorm(hidden)
        attended = self.self_attn(normed, turn, added, past_key_values)
        normed = self.post_attention_layernorm(normed * self.residual_scale + attended)
        out: Tensor = normed * self.residual_scale + self.mlp(normed)
        return out


class ChatGlmPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of the architecture."""

    config_class = ChatGlmConfig
    config: ChatGlmConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["ChatGlmLayer"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_sdpa = True


class ChatGlmModel(ChatGlmPreTrainedModel):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: ChatGlmConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            ChatGlmLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Return the last hidden states.

        Args:
            input_ids: `(rows, width) int64`.
            attention_mask: `(rows, columns)`, 1 where there is a token; or 4-D, as what is added to the scores or
                as what is visible.
            position_ids: `(rows, 2, width) int64`; derived from the ids where None.
            past_key_values: Keys and values of earlier columns.
            inputs_embeds: `(rows, width, hidden)`, instead of the ids; positions must then be passed.
            use_cache: Whether to return keys and values.

        Raises:
            ValueError: Positions are needed and cannot be derived.
        """
        if position_ids is None:
            position_ids = derived(input_ids, attention_mask, self.config)
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        dtype = _computed_in(hidden)
        added = mask(attention_mask, position_ids, past, dtype)
        turn = rotation(position_ids, self.config, dtype)
        for layer in self.layers:
            hidden = layer(hidden, turn, added, past_key_values=past_key_values)
        return BaseModelOutputWithPast(self.norm(hidden), past_key_values)


class ChatGlmForCausalLM(ChatGlmPreTrainedModel, GenerationMixin):
    """ChatGLM-6B with its output layer."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ChatGlmConfig) -> None:
        super().__init__(config)
        self.model = ChatGlmModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits, and the loss where there are labels; further arguments as in `ChatGlmModel.forward`.

        `labels (rows, width) int64` hold the token of each column itself; -100 is not scored. Logits are computed
        of so many last columns, or of the columns named; of all for 0.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        hidden = output.last_hidden_state
        columns = (
            slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        )
        logits = self.lm_head(hidden[:, columns])
        loss = None
        if labels is not None:
            vocabulary = self.config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocabulary, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values
        )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what `generate` passes on: positions come from all ids, also when a cache holds most."""
        positions = derived(input_ids, attention_mask, self.config)
        kwargs.pop("position_ids", None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, **kwargs
        )
        return inputs | {"position_ids": positions[..., -inputs["input_ids"].shape[1] :]}

    def _prepare_position_ids_for_generation(self, *_: Any) -> None:
        """Keep `generate` from counting positions its way; `prepare_inputs_for_generation` finds them."""


def _computed_in(hidden: Tensor) -> torch.dtype:
    """Return the number format of keys and queries."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


AutoModel.register(ChatGlmConfig, ChatGlmModel, exist_ok=True)
AutoModelForCausalLM.register(ChatGlmConfig, ChatGlmForCausalLM, exist_ok=True)
