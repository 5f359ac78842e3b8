"""Adapters into weights: a tuned model becomes a model of its own, `trainer merge`.

The result is a whole model in the layout of transformers, in the number format in which the base is stored; it loads
wherever such models load, and is answered here like one that was tuned whole. Each weight is added in float32 and
rounded once. In 16 bits that blurs a part of what was learnt; how large it is next to all that was learnt is printed.

Adapters of QLoRA go into the rounded weights that they were trained on: put on the base as it was before, the logits
of the tests differ by 0.1 to 1.5 (of 0.4 to 5). The result is therefore four times the size of its 4-bit base.

One model is in memory, and what is written is let go of.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import events, families, layouts, model, tokenizer, tuned
from .errors import Interrupted
from .job import Job
from .layouts import reading
from .methods import full, lora, quantised
from .model import Loaded
from .stopping import Stop


class _Rounding:
    """How much of what was learnt the number format of the result blurs."""

    def __init__(self) -> None:
        self.lost = self.learnt = 0.0

    def __call__(self, weight: Tensor, learnt: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return a weight with what was learnt in it, rounded once."""
        whole = weight.float() if learnt is None else weight.float() + learnt
        rounded = whole.to(dtype)
        self.lost += (rounded.float() - whole).square().sum().item()
        self.learnt += 0.0 if learnt is None else learnt.square().sum().item()
        return rounded

    @property
    def share(self) -> float:
        """The size of what rounding changed, next to the size of what was learnt."""
        return (self.lost / self.learnt) ** 0.5 if self.learnt else 0.0


def merge(job: Job, stop: Stop) -> None:
    """Write the job's tuned model with its adapters merged into its `out`.

    Raises:
        ConfigError: The adapters do not fit the base model.
        Interrupted: Asked to stop.
    """
    base, source, out = Path(job.base), Path(job.tuned), Path(job.out)
    record = model.record(source, job)
    family = families.load(job.family)
    spec = model.trained_with(source, record)
    dtype = _stored(base)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bits = quantised.of(spec.method, model.number_format(spec, here))
    network = layouts.model(base, family, bits.compute if bits else dtype, bits)
    lora.put(network, source, torch.device("cpu"))
    loaded = Loaded(
        network, tokenizer.load(base), family, torch.device("cpu"), dtype, "full", spec, base
    )
    rounding = _Rounding()
    out.mkdir(parents=True, exist_ok=True)
    full.write(loaded, _merged(network, dtype, rounding, stop), out, job.base_digest)
    _copy_beside(source, out)
    tuned.write_record(out, record | {"kind": "full", "merged": record["kind"]})
    events.text(f"{out}: a whole {type(network).__name__} in {dtype}")
    _report(record["kind"], dtype, rounding)


def _stored(base: Path) -> torch.dtype:
    """Return the number format of most weights, by the files: `config.json` is often wrong about it."""
    numbers: Counter[torch.dtype] = Counter()
    for tensor in reading.folder(base).values():
        numbers[tensor.dtype] += tensor.numel()
    return numbers.most_common(1)[0][0]


def _merged(
    network: nn.Module, dtype: torch.dtype, rounding: _Rounding, stop: Stop
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a model with adapters as if it had none, and let go of each."""
    for name, parameter in sorted(network.named_parameters()):
        if stop.asked:
            raise Interrupted("interrupted while merging; run again.")
        if ".lora_" in name:
            continue
        layer, _, weight = name.rpartition(".base_layer.")
        learnt = None
        if weight == "weight":
            adapter: Any = network.get_submodule(layer)
            learnt = adapter.get_delta_weight(adapter.active_adapters[0]).detach().float()
        plain = f"{layer}.{weight}" if layer else name
        yield plain, rounding(_expanded(parameter), learnt, dtype)
        parameter.data = parameter.data.new_empty(0)


def _expanded(weight: nn.Parameter) -> Tensor:
    """Return a weight as the forward pass multiplies it: one of 4 bits expanded."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit  # there where weights have 4 bits

    whole: Tensor = dequantize_4bit(weight.data, state)
    return whole


def _report(kind: str, dtype: torch.dtype, rounding: _Rounding) -> None:
    if kind == "qlora":
        events.text(
            "merged into the 4-bit weights that the adapters were trained on, expanded: "
            "on the base as it was before, they would not fit"
        )
    if dtype != torch.float32:
        events.text(
            f"rounding to {str(dtype).removeprefix('torch.')} blurs {rounding.share:.1%} of what "
            "was learnt; beside the base, adapters keep all of it"
        )


def _copy_beside(source: Path, out: Path) -> None:
    """Keep the losses with the weights."""
    if (source / "metrics.jsonl").is_file():
        shutil.copyfile(source / "metrics.jsonl", out / "metrics.jsonl")
