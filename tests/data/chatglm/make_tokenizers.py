"""Writes `tokenizers/`: the ids that the published tokenizers of ChatGLM-6B, 2 and 3 give, on small models.

Run it with transformers 4.30.2, sentencepiece 0.2.3 and PyTorch, on a folder with the published code in `1/`, `2/`
and `3/` (tokenization_chatglm.py; in `1/` also the three other modules of the model):

    python tests/data/chatglm/make_tokenizers.py FOLDER

The small models beside `reference.json` are those that `tests/sentencepiece_models.py` trains; they are kept because
another version of sentencepiece might train others.
"""

from __future__ import annotations

import functools
import importlib
import json
import lzma
import random
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "tokenizers"
LETTERS = (
    "abc XYZ 019 ,.;\n\t  \t\n中文测试，。！？：；#*=<>|[]{}ăé日本語한국어😀🎉\u3000\r\"'\\/_-~▁"
    "你好上衣红色ﬁ①Ａ１㎏"
)
WORDS = [
    *(
        "<n>",
        "<|tab|>",
        "<0x41>",
        "<sop>",
        "[gMASK]",
        "</s>",
        "<unk>",
        "<|user|>",
        "sop",
        "eop",
        "问：",
        "\n\n答：",
    ),
    *(
        "  ",
        "    ",
        " " * 79,
        " " * 80,
        " " * 81,
        " " * 82,
        " " * 165,
        "---",
        "哈哈哈哈",
        "你好",
        "上衣",
    ),
]
CONVERSATIONS: list[list[str]] = [
    ["你好"],
    ["类型#上衣*颜色#红色", "这件红色的上衣，简约大方。", "再写一个"],
    ["一\n二", " 好 ", "The quick brown fox", "", "再见？"],
    [""],
]


class Asked(Exception):
    """Carries the ids with which a model is asked."""


class Model:
    """Stands in for the model of ChatGLM-6B where its code writes the prompt."""

    device = "cpu"

    def generate(self, input_ids: Any, **_: Any) -> None:
        raise Asked(input_ids[0].tolist())


def prompt(generation: int, tokenizer: Any, folder: str, said: list[str]) -> list[int]:
    """Return the ids that the published code asks its model with."""
    *before, query = said
    history = list(zip(before[::2], before[1::2], strict=True))
    if generation == 1:
        chat = importlib.import_module(
            f"{folder}.modeling_chatglm"
        ).ChatGLMForConditionalGeneration.chat
        try:
            chat(Model(), tokenizer, query, history)
        except Asked as asked:
            return list(asked.args[0])
    if generation == 2:
        return list(tokenizer([tokenizer.build_prompt(query, history)])["input_ids"][0])
    roles = ["user", "assistant"] * len(history)
    turns = [{"role": role, "content": text} for role, text in zip(roles, before, strict=True)]
    return list(tokenizer.build_chat_input(query, history=turns)["input_ids"][0].tolist())


def reference(generation: int, home: Path) -> dict[str, Any]:
    """Return texts with their ids and what these decode to, and conversations with theirs."""
    folder = home / str(generation)
    name = "ice_text.model" if generation == 1 else "tokenizer.model"
    stored = HERE / (f"{name}.xz" if generation == 1 else name)
    data = stored.read_bytes()
    (folder / name).write_bytes(lzma.decompress(data) if generation == 1 else data)
    code = importlib.import_module(f"{folder.name}.tokenization_chatglm")
    more = {"num_image_tokens": 0} if generation == 1 else {}
    tokenizer = code.ChatGLMTokenizer(str(folder / name), **more)
    encode = tokenizer.sp_tokenizer.encode if generation == 1 else tokenizer.tokenizer.encode
    # the library's default of that time takes blanks before English punctuation away: not the tokenizer's doing
    decode = functools.partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    draw = random.Random(generation)
    texts = [
        "".join(
            draw.choice(WORDS) if draw.random() < 0.15 else draw.choice(LETTERS)
            for _ in range(draw.randint(0, 30))
        )
        for _ in range(150)
    ]
    return {
        "texts": [[text, ids, decode(ids)] for text in texts for ids in [encode(text)]],
        "prompts": [
            [said, prompt(generation, tokenizer, folder.name, said)] for said in CONVERSATIONS
        ],
    }


def main(home: Path) -> None:
    """Write the reference of all generations."""
    sys.path.insert(0, str(home))
    found = {str(generation): reference(generation, home) for generation in (1, 2, 3)}
    lines = json.dumps(found, ensure_ascii=True, separators=(",", ":"))
    (HERE / "reference.json").write_text(lines + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
