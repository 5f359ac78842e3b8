"""Makes v1-*.safetensors: what the original code of ChatGLM-6B computes for small random weights.

Run once, with transformers 4.30.2, on the published modelling code; never needed to run the tests:

    python tests/data/chatglm/make_v1.py FOLDER_WITH_ORIGINAL_CODE

The folder holds modeling_chatglm.py and configuration_chatglm.py of https://huggingface.co/THUDM/chatglm-6b,
revision 8b7d33596d18c5e83e2da052d05ca4db02e60620 (the git copy greensheng/chatglm-6b holds it).
Every file holds under `weight/` the weights that differ from those of `v1-plain`.
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

import chatglm_6b  # noqa: E402

Tensors = dict[str, torch.Tensor]
SIZES = {"vocabulary": 96, "width": 32, "layers": 3, "heads": 2}
PREFIX = 5
PROMPTS = (11, 4, 7)
NEW = 20


def rows(config: dict[str, Any]) -> list[list[int]]:
    """Return prompts of different lengths, each with its `[gMASK] <sop>`; the last one has a `[MASK]` instead."""
    draw = torch.Generator().manual_seed(1)
    gaps = [config["gmask_token_id"]] * 2 + [config["mask_token_id"]]
    found = []
    for length, gap in zip(PROMPTS, gaps, strict=True):
        text = torch.randint(4, 80, (length,), generator=draw).tolist()
        found.append([*text, gap, config["bos_token_id"]])
    # a gap amid the prompt: the place of [MASK] is then not the one before <sop>
    found[2].insert(3, found[2].pop(-2))
    return found


def original(code: str, config: dict[str, Any], weights: Tensors) -> Any:
    """Load a checkpoint the way the original is meant to be loaded, then compute in float32."""
    package = Path(code).resolve()
    sys.path.insert(0, str(package.parent))
    model = import_module(f"{package.name}.modeling_chatglm").ChatGLMForConditionalGeneration
    # a stop token would end the greedy answers early
    config = config | {"eos_token_id": -1}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        torch.save(weights, Path(folder) / "pytorch_model.bin")
        # the default number format of the original is float16: the same values in all runs
        return model.from_pretrained(folder).float().eval()


def left_padded(prompts: list[list[int]], config: dict[str, Any]) -> Tensors:
    """Pad as the original's tokenizer pads: ids 3, positions 0, nothing visible."""
    width = max(map(len, prompts))
    ids, masks, positions = [], [], []
    for prompt in prompts:
        gap = config["gmask_token_id"]
        gap = prompt.index(gap if gap in prompt else config["mask_token_id"])
        start, missing = prompt.index(config["bos_token_id"]), width - len(prompt)
        first = [*range(start), *([gap] * (len(prompt) - start))]
        second = [*([0] * start), *range(1, len(prompt) - start + 1)]
        hidden = torch.ones(width, width, dtype=torch.bool)
        hidden[missing:, missing:].triu_(1)
        hidden[missing:, missing : missing + start] = False
        ids.append([3] * missing + prompt)
        masks.append(hidden[None])
        positions.append([[0] * missing + first, [0] * missing + second])
    mask = torch.stack(masks)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": mask,
        "position_ids": torch.tensor(positions),
    }


def cases(model: Any, config: dict[str, Any]) -> Tensors:
    """Return the ids of each case and what the original computes for them."""
    prompts = rows(config)
    draw = torch.Generator().manual_seed(2)
    found: Tensors = {}
    # training: answers behind the prompts, padded on the right, neither mask nor positions passed
    answers = [torch.randint(4, 80, (n,), generator=draw).tolist() for n in (5, 9, 2)]
    whole = [p + a + [config["eos_token_id"]] for p, a in zip(prompts, answers, strict=True)]
    width = max(map(len, whole))
    ids = torch.tensor([row + [3] * (width - len(row)) for row in whole])
    found |= {"right/ids": ids, "right/logits": model(input_ids=ids).logits}
    # answering: prompts padded on the left
    batch = left_padded(prompts, config)
    found |= {"left/ids": batch["input_ids"], "left/logits": model(**batch).logits}
    found["left/generated"] = model.generate(**batch, max_new_tokens=NEW, do_sample=False)
    alone = torch.tensor([prompts[0]])
    found["single/ids"] = alone
    found["single/generated"] = model.generate(alone, max_new_tokens=NEW, do_sample=False)
    # one step over a cache
    first = model(**batch, use_cache=True)
    chosen = first.logits[:, -1:].argmax(-1)
    mask = torch.nn.functional.pad(batch["attention_mask"][:, :, -1:], (0, 1), value=False)
    after = batch["position_ids"][..., -1:] + torch.tensor([[0], [1]])
    past = first.past_key_values
    step = model(input_ids=chosen, attention_mask=mask, position_ids=after, past_key_values=past)
    return found | {"step/ids": chosen, "step/logits": step.logits}


def long(model: Any, config: dict[str, Any]) -> Tensors:
    """Return the last logits of a prompt of 400 tokens, and its rotation in float16: the angles are large."""
    draw = torch.Generator().manual_seed(3)
    text = torch.randint(4, 80, (400,), generator=draw).tolist()
    ids = torch.tensor([[*text, config["gmask_token_id"], config["bos_token_id"]]])
    found = {"long/ids": ids, "long/logits": model(input_ids=ids).logits[:, -1]}
    rotary = model.half().transformer.layers[0].attention.rotary_emb
    rotary.max_seq_len_cached = None
    cos, sin = rotary(ids.half(), seq_len=ids.shape[1])
    return found | {"long/half_cos": cos[:, 0], "long/half_sin": sin[:, 0]}


def encoder(config: dict[str, Any], projected: bool) -> Tensors:
    """Return random weights of a prefix encoder."""
    draw = torch.Generator().manual_seed(4)
    width = config["hidden_size"]
    numbers = 2 * config["num_layers"] * width
    place = "transformer.prefix_encoder"

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).half().float()

    if not projected:
        return {f"{place}.embedding.weight": random(PREFIX, numbers)}
    return {
        f"{place}.embedding.weight": random(PREFIX, width),
        f"{place}.trans.0.weight": random(width, width) / 4,
        f"{place}.trans.0.bias": random(width),
        f"{place}.trans.2.weight": random(numbers, width) / 4,
        f"{place}.trans.2.bias": random(numbers),
    }


@torch.no_grad()
def main(code: str) -> None:
    """Write the files."""
    torch.set_num_threads(1)
    config = chatglm_6b.config(**SIZES)
    # what the original's float16 default makes of them, so that ours need not be rounded
    weights = {name: t.half().float() for name, t in chatglm_6b.weights(config, gain=3.0).items()}
    stored = {f"weight/{name}": t.half() for name, t in weights.items()}
    plain = original(code, config, weights)
    _write("plain", stored | cases(plain, config) | long(plain, config), config)
    for name, projected in (("prefix", False), ("projection", True)):
        own = encoder(config, projected)
        c = config | {"pre_seq_len": PREFIX, "prefix_projection": projected}
        model = original(code, c, weights | own)
        _write(name, {f"weight/{key}": t for key, t in own.items()} | cases(model, c), c)


def _write(name: str, tensors: Tensors, config: dict[str, Any]) -> None:
    tensors = {key: t.contiguous() for key, t in tensors.items()}
    path = HERE / f"v1-{name}.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(config)})


if __name__ == "__main__":
    main(sys.argv[1])
