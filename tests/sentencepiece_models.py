"""Tokenizers as ChatGLM's generations ship them, small and trained on the spot.

ChatGLM2 and 3: a BPE with byte fallback and no normalisation, whose control tokens are not in the file. Their
trainer options are those that the published `tokenizer.model` names. ChatGLM-6B: a unigram model with NFKC, to
whose pieces its control tokens, its blanks and the bytes are added at the end, as its first tokenizer did
when it was loaded.
"""

from __future__ import annotations

import functools
import io
import json
import struct
from pathlib import Path
from typing import Any

import sentencepiece
import tiny_models

FILES = {1: "ice_text.model", 2: "tokenizer.model", 3: "tokenizer.model"}
SPECIAL_1 = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
WHITESPACE_1 = ["<|tab|>", *(f"<|blank_{width}|>" for width in range(2, 81))]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CONTROL, USER_DEFINED, BYTE = 3, 4, 6

_SENTENCES = [
    "[Round 1] 问: 你好 答: 你好!我是人工智能助手。",
    "[Round 2]\n\n问：晚上睡不着怎么办\n\n答：放松心情，少喝咖啡。\n\n",
    "\n问：\n答：",
    "\n 这是一条   带空格的句子  。",
    "The quick brown fox jumps over the lazy dog; it costs 42 dollars, or 1,000.",
    "def answer(question):\n    return question.strip()\n",
    "Write a response that appropriately answers the question below.",
    "{'role': 'user'} <a href=\"x\"> - -- --- **",
]


def write(folder: Path, generation: int) -> Path:
    """Write the tokenizer files of a generation (1, 2 or 3) into a folder; at most 860 ids in 1, 500 in 2 and 3."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILES[generation]).write_bytes(model(generation))
    config = json.dumps(_config(generation), indent=2)
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
    return folder


@functools.cache
def model(generation: int) -> bytes:
    """Return the SentencePiece model of a generation."""
    if generation == 1:
        return ice_text(_trained(**_UNIGRAM))
    return _trained(**_BPE)


def ice_text(trained: bytes) -> bytes:
    """Add to a trained model what ChatGLM-6B's has at its end."""
    added = [(piece, CONTROL) for piece in SPECIAL_1]
    added += [(piece, USER_DEFINED) for piece in WHITESPACE_1]
    added += [(piece, BYTE) for piece in BYTES]
    byte_fallback = _field(2, _number(35, 1))
    return trained + b"".join(piece(*one) for one in added) + byte_fallback


def piece(text: str, kind: int, score: float = 0.0) -> bytes:
    """Return a piece as the file holds it."""
    body = _field(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score)
    return _field(1, body + _number(3, kind))


_COMMON: dict[str, Any] = {
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "character_coverage": 0.9999,
    "num_threads": 1,
    "minloglevel": 2,
}
_BPE = _COMMON | {
    "model_type": "bpe",
    "vocab_size": 490,
    "pad_id": -1,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
}
_UNIGRAM = _COMMON | {
    "model_type": "unigram",
    "vocab_size": 400,
    "pad_id": 3,
    "normalization_rule_name": "nmt_nfkc",
    "user_defined_symbols": ["<n>"],
    "hard_vocab_limit": False,
}


def train(**options: Any) -> bytes:
    """Train a model with other options than a generation's."""
    return _trained(**(_COMMON | options))


def _trained(**options: Any) -> bytes:
    rows = [m["content"] for number in range(300) for m in tiny_models.record(number)["messages"]]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows + 20 * _SENTENCES), model_writer=written, **options
    )
    return written.getvalue()


def _config(generation: int) -> dict[str, Any]:
    name = {1: "chatglm-6b", 2: "chatglm2-6b", 3: "chatglm3-6b"}[generation]
    config = {
        "name_or_path": f"THUDM/{name}",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLMTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    }
    if generation == 1:
        tokens = {"bos": "<sop>", "eos": "<eop>", "end": "</s>", "pad": "<pad>", "unk": "<unk>"}
        tokens |= {"gmask": "[gMASK]", "mask": "[MASK]"}
        config |= {f"{name}_token": token for name, token in tokens.items()}
        config["num_image_tokens"] = 0
    return config


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
