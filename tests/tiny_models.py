"""Random models of true architectures, with a tokenizer trained on the spot, and rows to tune them on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GlmConfig, GlmForCausalLM, MptConfig
from transformers import PreTrainedTokenizerFast as FastTokenizer

from tasks.trainer.stopping import Stop

GLM_TOKENS = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
LLAMA_TOKENS = ["<|begin|>", "<|end|>", "<|start|>", "<|stop|>"]
LLAMA_TEMPLATE = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)

GARMENTS = ["上衣", "裙子", "裤子", "外套", "衬衫", "毛衣"]
COLOURS = ["红色", "蓝色", "白色", "黑色", "绿色"]
FEELS = ["柔软舒适", "轻盈透气", "简约大方", "时尚百搭"]


class StopAfter(Stop):
    """Asks to stop once it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    @property
    def asked(self) -> bool:  # type: ignore[override]
        self.left -= 1
        return self.left < 0


def record(number: int) -> dict[str, Any]:
    """Return one row of a language small enough to be learnt in seconds."""
    draw = random.Random(number)
    garment, colour = draw.choice(GARMENTS), draw.choice(COLOURS)
    feels = draw.sample(FEELS, draw.randint(1, 3))
    question = "*".join([f"类型#{garment}", f"颜色#{colour}", *(f"风格#{feel}" for feel in feels)])
    reply = f"这件{colour}的{garment}{'，'.join(feels)}。"
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
        ]
    }


def write_rows(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records as JSON Lines."""
    lines = (json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def dataset(folder: Path, train: int = 64, dev: int = 12) -> Path:
    """Write `train.jsonl` and `dev.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "train.jsonl", [record(i) for i in range(train)])
    write_rows(folder / "dev.jsonl", [record(1000 + i) for i in range(dev)])
    return folder


def tokenizer(tokens: list[str], stop: str, vocabulary: int = 420) -> FastTokenizer:
    """Train a byte-level BPE on the rows of `record`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [m["content"] for i in range(200) for m in record(i)["messages"]]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=tokens,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    fast = FastTokenizer(tokenizer_object=bpe, eos_token=stop, pad_token=stop)
    fast.add_special_tokens({"additional_special_tokens": tokens})
    return fast


def glm(folder: Path, width: int = 48, layers: int = 2, vocabulary: int = 420) -> Path:
    """Write a random GLM as a directory in the transformers layout."""
    fast = tokenizer(GLM_TOKENS, "<|endoftext|>", vocabulary)
    config = GlmConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=512,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
    )
    return _write(folder, GlmForCausalLM, config, fast)


def glm4(folder: Path, width: int = 48, layers: int = 2) -> Path:
    """Write a random GLM-4 in the transformers layout."""
    fast = tokenizer([*GLM_TOKENS, "<|observation|>"], "<|endoftext|>")
    config = AutoConfig.for_model(
        "glm4",
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=512,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
    )
    return _write(folder, AutoModelForCausalLM.from_config, config, fast)


def mpt(folder: Path, width: int = 48, layers: int = 2) -> Path:
    """Write a random MPT in the transformers layout; its tokenizer has no chat template, like MPT-7B's."""
    fast = tokenizer(["<|endoftext|>"], "<|endoftext|>", 400)
    config = MptConfig(
        vocab_size=len(fast),
        d_model=width,
        expansion_ratio=2,
        n_layers=layers,
        n_heads=4,
        max_seq_len=512,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=fast.eos_token_id,
    )
    return _write(folder, AutoModelForCausalLM.from_config, config, fast)


def llama(folder: Path, width: int = 48, layers: int = 2, kind: str = "llama") -> Path:
    """Write a random Llama or one of its kin (mistral, qwen2, qwen3), with a chat template."""
    fast = tokenizer(LLAMA_TOKENS, "<|stop|>")
    fast.chat_template = LLAMA_TEMPLATE
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
    )
    return _write(folder, AutoModelForCausalLM.from_config, config, fast)


def _write(folder: Path, build: Any, config: Any, fast: FastTokenizer) -> Path:
    chatter: Any = transformers.logging
    chatter.disable_progress_bar()
    torch.manual_seed(5)
    build(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
