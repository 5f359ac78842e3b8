"""Random ChatGLM-6B checkpoints in the layout of the original: names, config, and weights as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

Weights = Literal["safetensors", "bin"]

SPECIAL = {
    "mask_token_id": "[MASK]",
    "gmask_token_id": "[gMASK]",
    "bos_token_id": "<sop>",
    "eos_token_id": "<eop>",
    "pad_token_id": "<pad>",
}


def config(
    vocabulary: int = 96, width: int = 32, layers: int = 2, heads: int = 4, **other: Any
) -> dict[str, Any]:
    """Return the original's config.json with small sizes; special tokens are the last eight ids."""
    special = vocabulary - 8
    return {
        "_name_or_path": "THUDM/chatglm-6b",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
            "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        },
        "bos_token_id": special + 4,
        "eos_token_id": special + 5,
        "mask_token_id": special,
        "gmask_token_id": special + 1,
        "pad_token_id": 3,
        "hidden_size": width,
        "inner_hidden_size": 2 * width,
        "layernorm_epsilon": 1e-05,
        "max_sequence_length": 512,
        "model_type": "chatglm",
        "num_attention_heads": heads,
        "num_layers": layers,
        "position_encoding_2d": True,
        "torch_dtype": "float16",
        "transformers_version": "4.23.1",
        "use_cache": True,
        "vocab_size": vocabulary,
        **other,
    }


def weights(c: dict[str, Any], seed: int = 5, gain: float = 2.0) -> dict[str, torch.Tensor]:
    """Return random weights under the names of the original, its tied output layer included.

    The residual connections weigh 7.5 times their input: with a small gain a token would see only itself.
    """
    draw = torch.Generator().manual_seed(seed)
    width, inner = c["hidden_size"], c["inner_hidden_size"]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    def linear(name: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
        weight = random(outputs, inputs) * gain / inputs**0.5
        return {f"{name}.weight": weight, f"{name}.bias": 0.1 * random(outputs)}

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + 0.1 * random(width), f"{name}.bias": 0.1 * random(width)}

    found = {"transformer.word_embeddings.weight": random(c["vocab_size"], width) / 4}
    half = width // c["num_attention_heads"] // 2
    for number in range(c["num_layers"]):
        layer = f"transformer.layers.{number}"
        found |= norm(f"{layer}.input_layernorm")
        found |= linear(f"{layer}.attention.query_key_value", 3 * width, width)
        inverse = 1 / 10000 ** (torch.arange(0, half, 2).float() / half)
        found[f"{layer}.attention.rotary_emb.inv_freq"] = inverse.half()
        found |= linear(f"{layer}.attention.dense", width, width)
        found |= norm(f"{layer}.post_attention_layernorm")
        found |= linear(f"{layer}.mlp.dense_h_to_4h", inner, width)
        found |= linear(f"{layer}.mlp.dense_4h_to_h", width, inner)
    found |= norm("transformer.final_layernorm")
    return found | {"lm_head.weight": found["transformer.word_embeddings.weight"].clone()}


def v1(
    folder: Path, kind: Weights = "safetensors", shards: int = 1, seed: int = 5, **other: Any
) -> Path:
    """Write a random tiny ChatGLM-6B with a tokenizer, as the original is published.

    Args:
        folder: Where to.
        kind: Of the files with the weights; published are `.bin` files, in eight parts with an index.
        shards: Number of those files.
        seed: Of the weights.
        other: Entries of config.json, and `width`, `layers`, `heads`.
    """
    import sentencepiece
    import sentencepiece_models

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece_models.write(folder, 1)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    ids = {name: pieces.piece_to_id(piece) for name, piece in SPECIAL.items()}
    return write(folder, config(len(pieces), **(ids | other)), kind, shards, seed)


def write(
    folder: Path, c: dict[str, Any], kind: Weights = "safetensors", shards: int = 1, seed: int = 5
) -> Path:
    """Write configuration and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(c, indent=2), encoding="utf-8")
    found = weights(c, seed)
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    if shards == 1:
        save(found, folder / f"{stem}.{ending}")
        return folder
    names = list(found)
    places: dict[str, str] = {}
    for part in range(shards):
        file = f"{stem}-{part + 1:05d}-of-{shards:05d}.{ending}"
        own = names[part::shards]
        save({name: found[name] for name in own}, folder / file)
        places |= dict.fromkeys(own, file)
    size = sum(tensor.nbytes for tensor in found.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    text = json.dumps(index, indent=2)
    (folder / f"{stem}.{ending}.index.json").write_text(text, encoding="utf-8")
    return folder


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write one file with weights, of the kind that its name tells."""
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})
