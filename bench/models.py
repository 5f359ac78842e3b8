"""What the benches of the trainer share: real rows, the bundled model, and larger random ones of the same kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import GlmConfig, GlmForCausalLM

from bench.data import FOLDERS, ROOT
from deployments.sample import pretrain
from tasks.trainer import model
from tasks.trainer.job import Job, TrainSpec

BUNDLED = ROOT / "deployments" / "sample" / "base"
SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 160,
        "intermediate_size": 448,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 40,
        "attention_bias": True,
    },
    "random": {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "attention_bias": True,
    },
    # Source: https://huggingface.co/zai-org/chatglm3-6b, config.json
    "chatglm3": {
        "vocab_size": 65024,
        "hidden_size": 4096,
        "intermediate_size": 13696,
        "num_hidden_layers": 28,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "attention_bias": True,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
    },
}


def conversations(split: str, rows: int, shape: str) -> list[list[dict[str, str]]]:
    """Return rows for a model as question and answer.

    The bundled model gets the rows of its own language; the others those of AdvertiseGen, where they are there.
    """
    real, sample = FOLDERS
    folder = sample if shape == "bundled" or not real.is_dir() else real
    found = []
    with (folder / f"{split}.json").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            said = (("user", row["content"]), ("assistant", row["summary"]))
            found.append([{"role": role, "content": text} for role, text in said])
    return found[:rows]


def write(folder: Path, shape: str, dtype: torch.dtype = torch.float32) -> Path:
    """Write a random GLM whose tokenizer is learnt from the rows; `bundled` is the bundled model as it is."""
    if shape == "bundled":
        return BUNDLED
    texts = (message["content"] for row in conversations("train", 4000, shape) for message in row)
    tokenizer = pretrain.train_tokenizer(texts)
    tokenizer.save_pretrained(folder)
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024}
    stop = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GlmConfig(**{**fields, **stop, **SHAPES[shape]})
    torch.manual_seed(17)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        GlmForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(before)
    return folder


def load(base: Path, action: str, spec: TrainSpec | None = None) -> model.Loaded:
    """Load a model as the trainer does."""
    return model.load(Job(action, "tiny", str(base), train=spec))
