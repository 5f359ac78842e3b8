"""Random tiny ChatGLM2 and ChatGLM3 checkpoints in their original layout: configuration and weights, no tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

Format = Literal["bin", "safetensors"]

CONFIG: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""What the published configurations of both generations share."""


def v2(folder: Path, weights: Format = "bin", shards: int = 2, **sizes: int) -> Path:
    """Write a random ChatGLM2: as published, in several `.bin` with an index."""
    named = {"_name_or_path": "THUDM/chatglm2-6b", "transformers_version": "4.27.1"}
    return _write(folder, named | {"seq_length": 32768}, weights, shards, **sizes)


def v3(folder: Path, weights: Format = "safetensors", shards: int = 1, **sizes: int) -> Path:
    """Write a random ChatGLM3."""
    named = {"_name_or_path": "THUDM/chatglm3-6b", "transformers_version": "4.30.2"}
    return _write(folder, named | {"seq_length": 8192}, weights, shards, **sizes)


def config(width: int = 48, layers: int = 2, vocabulary: int = 640) -> dict[str, Any]:
    """Return the configuration of a small model."""
    return CONFIG | {
        "hidden_size": width,
        "ffn_hidden_size": 2 * width,
        "kv_channels": width // 4,
        "num_attention_heads": 4,
        "multi_query_group_num": 2,
        "num_layers": layers,
        "padded_vocab_size": vocabulary,
    }


def tensors(fields: dict[str, Any], seed: int = 5) -> dict[str, torch.Tensor]:
    """Draw the weights of a configuration, in float32, under their original names."""
    draw = torch.Generator().manual_seed(seed)
    width, head = fields["hidden_size"], fields["kv_channels"]
    inner, vocabulary = fields["ffn_hidden_size"], fields["padded_vocab_size"]
    queries = fields["num_attention_heads"] * head
    rows = queries + 2 * fields["multi_query_group_num"] * head

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * shape[-1] ** -0.5

    def scale() -> torch.Tensor:
        return 1 + 0.1 * torch.randn(width, generator=draw)

    drawn = {
        "transformer.embedding.word_embeddings.weight": random(vocabulary, width),
        "transformer.rotary_pos_emb.inv_freq": 10000.0
        ** -(torch.arange(0, head // 2, 2) / (head // 2)),
    }
    for layer in range(fields["num_layers"]):
        place = f"transformer.encoder.layers.{layer}."
        drawn |= {
            f"{place}input_layernorm.weight": scale(),
            f"{place}self_attention.query_key_value.weight": random(rows, width),
            f"{place}self_attention.query_key_value.bias": random(rows),
            f"{place}self_attention.dense.weight": random(width, queries),
            f"{place}post_attention_layernorm.weight": scale(),
            f"{place}mlp.dense_h_to_4h.weight": random(2 * inner, width),
            f"{place}mlp.dense_4h_to_h.weight": random(width, inner),
        }
    drawn["transformer.encoder.final_layernorm.weight"] = scale()
    drawn["transformer.output_layer.weight"] = random(vocabulary, width)
    return drawn


def write_weights(
    folder: Path, weights: dict[str, torch.Tensor], form: Format, shards: int
) -> None:
    """Write weights into one file, or into several with an index."""
    stem = "pytorch_model" if form == "bin" else "model"
    names = sorted(weights)
    parts = [names[part::shards] for part in range(shards)]
    index = {}
    for number, part in enumerate(parts, 1):
        among = "" if shards == 1 else f"-{number:05d}-of-{shards:05d}"
        file = folder / f"{stem}{among}.{form}"
        chosen = {name: weights[name].clone() for name in part}
        if form == "bin":
            torch.save(chosen, file)
        else:
            save_file(chosen, file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file.name)
    if shards > 1:
        total = sum(tensor.nbytes for tensor in weights.values())
        listing = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / f"{stem}.{form}.index.json").write_text(json.dumps(listing), encoding="utf-8")


def _write(folder: Path, named: dict[str, Any], form: Format, shards: int, **sizes: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    fields = config(**sizes) | named
    (folder / "config.json").write_text(json.dumps(fields, indent=2), encoding="utf-8")
    write_weights(folder, tensors(fields), form, shards)
    return folder
