"""What training changes, and the directory that holds the result.

    adapter_model.safetensors, adapter_config.json     LoRA: adapters in the layout of peft
    model.safetensors, config.json, tokenizer files    full: a model of its own
    metrics.jsonl                                      the losses, a line each
    model.json                                         what it is; written last

Equal weights give equal bytes: no path, time or host is written, and the base model is named by its
digest.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import write_tensors
from .job import Full, Job, TrainSpec
from .model import RECORD

if TYPE_CHECKING:
    from .model import Loaded

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_BESIDE = (*_TOKENIZER, "chat_template.jinja", "generation_config.json")


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model has, and how many of them are trained."""

    total: int
    trainable: int


def prepare_training(loaded: Loaded, spec: TrainSpec) -> Parameters:
    """Choose what is trained: fresh adapters, or all weights."""
    if isinstance(spec.method, Full):
        loaded.kind = "full"
        # tied output embeddings are the same tensor and freeze with it
        loaded.model.get_input_embeddings().requires_grad_(not spec.method.freeze_embeddings)
    else:
        from . import adapters  # as in model.py

        adapters.add(loaded, spec.method, spec.seed)
    counts = [(p.numel(), p.requires_grad) for p in loaded.model.parameters()]
    return Parameters(sum(n for n, _ in counts), sum(n for n, trained in counts if trained))


def save(
    loaded: Loaded,
    job: Job,
    parameters: Parameters,
    history: list[dict[str, float]],
    data: dict[str, Any],
) -> None:
    """Write a tuned model into the job's `out`; its record last."""
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    if loaded.adapted is not None:
        from . import adapters  # as in model.py

        adapters.save(loaded.adapted, out, job.base_digest)
    else:
        _save_whole(loaded, Path(job.base), out)
    lines = (json.dumps(point) + "\n" for point in history)
    (out / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    record = {
        "kind": loaded.kind,
        "family": job.family,
        "base_digest": job.base_digest,
        "train": asdict(loaded.spec),
        "template": loaded.template,
        "parameters": asdict(parameters),
        "data": data,
    }
    partial = out / f".{RECORD}.partial"
    partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / RECORD)


def _save_whole(loaded: Loaded, base: Path, out: Path) -> None:
    """Write all weights in the number format of the forward pass, one copy of each."""
    model = loaded.model
    shared: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        shared.setdefault(tensor.data_ptr(), name)
    state = model.state_dict()
    tensors = {name: state[name].to("cpu", loaded.dtype) for name in sorted(shared.values())}
    write_tensors(tensors, out / "model.safetensors")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = str(loaded.dtype).removeprefix("torch.")
    config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in _BESIDE:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
