"""Makes v2-*.safetensors and v3-*.safetensors: what the original code of ChatGLM2 and 3 computes for random weights.

Run once for each, with transformers 4.30.2, on the published modelling code; never needed to run the tests:

    python tests/data/chatglm/make_v23.py FOLDER_WITH_ORIGINAL_CODE v2

The folder holds modeling_chatglm.py and configuration_chatglm.py
- for v2 of https://huggingface.co/THUDM/chatglm2-6b, revision b1502f4f75c71499a3d566b14463edd62620ce9f
  (the git copy syjjhl/chatglm2-6b holds it),
- for v3 of https://huggingface.co/THUDM/chatglm3-6b, revision 456aa875cf1f46623006edaa23103774ea9c0eae
  (the git copy czk1997/chatglm3-copy holds it).
Every file holds under `weight/` the weights that differ from those of the `plain` one, and the configuration
as metadata.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import chatglm_layouts  # noqa: E402

Tensors = dict[str, torch.Tensor]
# in v3 the heads together are wider than the model, as no published one has it: the layout allows it
SIZES = {
    "v2": {"padded_vocab_size": 48, "hidden_size": 32, "kv_channels": 8, "num_layers": 2},
    "v3": {"padded_vocab_size": 48, "hidden_size": 24, "kv_channels": 12, "num_layers": 3},
}
PREFIX = 5
PROMPTS = (11, 4, 7)
NEW = 20
LONG = 300


def config(generation: str) -> dict[str, Any]:
    """Return the configuration; the stop token is one that is never drawn, so that greedy answers go on."""
    sizes = SIZES[generation] | {"ffn_hidden_size": 48, "seq_length": 512}
    name = {"v2": "THUDM/chatglm2-6b", "v3": "THUDM/chatglm3-6b"}[generation]
    return chatglm_layouts.config() | sizes | {"_name_or_path": name, "eos_token_id": -1}


def original(code: str, fields: dict[str, Any], weights: Tensors) -> Any:
    """Load a checkpoint the way the original is meant to be loaded, then compute in float32."""
    package = Path(code).resolve()
    sys.path.insert(0, str(package.parent))
    model = import_module(f"{package.name}.modeling_chatglm").ChatGLMForConditionalGeneration
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        torch.save(weights, Path(folder) / "pytorch_model.bin")
        return model.from_pretrained(folder).float().eval()


def left_padded(prompts: list[list[int]]) -> Tensors:
    """Pad as the original's tokenizer pads: ids 0, positions 0, mask 0."""
    width = max(map(len, prompts))
    missing = [width - len(prompt) for prompt in prompts]
    return {
        "input_ids": torch.tensor([[0] * n + p for n, p in zip(missing, prompts, strict=True)]),
        "attention_mask": torch.tensor([[0] * n + [1] * (width - n) for n in missing]),
        "position_ids": torch.tensor([[0] * n + list(range(width - n)) for n in missing]),
    }


def cases(model: Any) -> Tensors:
    """Return the ids of each case and what the original computes for them."""
    draw = torch.Generator().manual_seed(1)

    def text(length: int) -> list[int]:
        return torch.randint(3, 48, (length,), generator=draw).tolist()

    prompts = [text(length) for length in PROMPTS]
    found: Tensors = {}
    # training: padded on the right, neither mask nor positions passed
    ids = torch.tensor([text(n) + [0] * (16 - n) for n in (16, 9, 13)])
    found |= {"right/ids": ids, "right/logits": model(input_ids=ids).logits}
    # answering: prompts padded on the left
    batch = left_padded(prompts)
    found |= {"left/ids": batch["input_ids"], "left/mask": batch["attention_mask"]}
    found["left/logits"] = model(**batch).logits
    found["left/generated"] = model.generate(**batch, max_new_tokens=NEW, do_sample=False)
    alone = torch.tensor([prompts[0]])
    found["single/ids"] = alone
    found["single/generated"] = model.generate(alone, max_new_tokens=NEW, do_sample=False)
    ids = torch.tensor([text(LONG)])
    return found | {"long/ids": ids, "long/logits": model(input_ids=ids).logits[:, -1].clone()}


def encoder(fields: dict[str, Any], projected: bool) -> Tensors:
    """Return random weights of a prefix encoder."""
    draw = torch.Generator().manual_seed(4)
    width, place = fields["hidden_size"], "transformer.prefix_encoder"
    numbers = 2 * fields["num_layers"] * fields["kv_channels"] * fields["multi_query_group_num"]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).half()

    found = {f"{place}.embedding.weight": random(PREFIX, numbers)}
    if projected:
        found |= {
            f"{place}.trans.0.weight": random(width, numbers) / 4,
            f"{place}.trans.0.bias": random(width),
            f"{place}.trans.2.weight": random(numbers, width) / 4,
            f"{place}.trans.2.bias": random(numbers),
        }
    return found


@torch.no_grad()
def main(code: str, generation: str) -> None:
    """Write the files of one generation."""
    torch.set_num_threads(1)
    fields = config(generation)
    drawn = chatglm_layouts.tensors(fields, seed=int(generation[1:]))
    # the original's number format is float16: its values are what is stored
    weights = {name: tensor.half() for name, tensor in drawn.items()}
    _write(generation, "plain", weights, cases(original(code, fields, weights)), fields)
    for name, projected in (("prefix", False), ("projection", True)):
        own = encoder(fields, projected)
        c = fields | {"pre_seq_len": PREFIX, "prefix_projection": projected}
        found = cases(original(code, c, weights | own))
        if projected:  # the prefix is all that differs: one case tells whether it is right
            found = {key: tensor for key, tensor in found.items() if key.startswith("left/")}
        _write(generation, name, own, found, c)


def _write(
    generation: str, name: str, weights: Tensors, found: Tensors, fields: dict[str, Any]
) -> None:
    tensors = {f"weight/{key}": tensor for key, tensor in weights.items()} | found
    path = HERE / f"{generation}-{name}.safetensors"
    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(whole, path, metadata={"config": json.dumps(fields)})
    path.chmod(0o644)


if __name__ == "__main__":
    main(*sys.argv[1:])
