"""Full fine-tuning: every weight is trained, and the result is a model of its own.

It is saved in the layout of transformers, also when its base was in one of ChatGLM's own, so that it loads like
any model: one copy of each tensor, in the number format of the forward pass, one file of at most `_SHARD` bytes
in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from ..checkpoint import write_tensors
from ..job import Full

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from ..model import Loaded

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = 4 * 1024**3

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_BESIDE = (*_TOKENIZER, "chat_template.jinja", "generation_config.json")
# code of others, the number format of the weights that were read, and the older name of that
_DROPPED = ("auto_map", "quantization_config", "torch_dtype")


def add(loaded: Loaded, method: Full, seed: int) -> None:
    """Train all weights, the input embeddings only if the method does not freeze them."""
    loaded.model.requires_grad_(True)
    # tied output embeddings are the same tensor and freeze with it
    loaded.model.get_input_embeddings().requires_grad_(not method.freeze_embeddings)


def attach(loaded: Loaded, tuned: Path) -> None:
    """Leave the model as it is: it was loaded from `tuned`."""


def tensors(loaded: Loaded) -> Iterator[tuple[str, Tensor]]:
    """Yield one copy of each tensor of the model, by name."""
    first: dict[int, str] = {}
    state = loaded.model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    for name in sorted(first.values()):
        yield name, state[name].detach()


def write(loaded: Loaded, named: Iterable[tuple[str, Tensor]], out: Path, base: str) -> None:
    """Write the model."""
    # sharding derives a class of its own from the model's
    kind = next(kind for kind in type(loaded.model).__mro__ if not issubclass(kind, FSDPModule))
    write_weights(out, named, loaded.dtype)
    describe(out, loaded.home, loaded.model.config, kind.__name__, loaded.dtype)
    write_tokenizer(out, loaded.home, loaded.tokenizer)


def write_weights(out: Path, named: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:
    """Write tensors as safetensors in the layout of transformers, with an index where one file does not do."""
    parts: list[list[str]] = []
    size = 0
    for part in _parts(named, dtype):
        write_tensors(part, out / _partial(len(parts)))
        parts.append(list(part))
        size += sum(tensor.nbytes for tensor in part.values())
    if len(parts) == 1:
        (out / _partial(0)).replace(out / WEIGHTS)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(parts):
        file = f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors"
        (out / _partial(number)).replace(out / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": size}, "weight_map": places}
    _write_json(out / INDEX, index)


def _parts(named: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in named:
        whole = tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        if part and size + whole.nbytes > _SHARD:
            yield part
            part, size = {}, 0
        part[name] = whole
        size += whole.nbytes
    yield part


def _partial(number: int) -> str:
    return f".model-{number:05d}.partial"


def describe(
    out: Path, base: Path, config: PreTrainedConfig, architecture: str, dtype: torch.dtype
) -> None:
    """Write `config.json`: the base's own where that names the same class, else the one of the loaded model."""
    described: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if described.get("architectures") != [architecture]:
        described = json.loads(config.to_json_string())
        described["architectures"] = [architecture]
    for name in _DROPPED:
        described.pop(name, None)
    described["dtype"] = str(dtype).removeprefix("torch.")
    _write_json(out / "config.json", described)


def write_tokenizer(out: Path, base: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the tokenizer and what is kept beside it: the base's own files where it has them."""
    if not (base / "tokenizer.json").is_file():
        tokenizer.save_pretrained(out)
        return
    for name in _BESIDE:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
