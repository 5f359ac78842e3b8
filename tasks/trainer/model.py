"""Loads what a job names: a base model, adapters on one, or a model tuned whole.

Decisions: weights come from local files only (`layouts/` reads them), never with pickle, remote code or a
download. A tuned model answers as it was trained: its record says with which method (`methods/`), in how many
bits the base stands, and what stands around each prompt. Everything that holds a model, whatever its method,
passes it around as `Loaded`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import transformers

from . import events, families, layouts, methods, template, tokenizer, views
from .errors import ConfigError
from .job import Job, TrainSpec, train_spec
from .methods import quantised

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from .methods.prefix import Prefix

RECORD = "model.json"
"""Written last into a tuned model: its presence says that the rest is there."""

_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Kind = Literal["base", "lora", "qlora", "prefix", "full"]


@dataclass
class Loaded:
    """A model in memory, ready to be trained or asked."""

    model: PreTrainedModel
    """The causal language model itself; adapters sit inside its layers."""
    tokenizer: PreTrainedTokenizerFast
    family: families.Family
    device: torch.device
    dtype: torch.dtype
    """Number format of the forward pass."""
    kind: Kind
    spec: TrainSpec
    """What it was, or will be, trained with; of a base model the job's own, else the default."""
    home: Path
    """The directory that its weights were read from."""
    adapted: PeftModel | None = None
    """The same model as peft sees it, when its adapters are not merged."""
    prefix: Prefix | None = None
    """Keys and values that come before the text; their cache goes into every forward pass."""

    @property
    def template(self) -> str:
        """The text around each prompt that training, prediction and serving share; empty for none."""
        return template.of(self.family)

    @property
    def max_prompt_tokens(self) -> int:
        """The prompt limit that training, prediction and serving share."""
        return self.spec.max_prompt_tokens

    @property
    def view(self) -> views.View:
        """What a forward pass of this kind of model gets beside its ids."""
        return views.of(self.model)

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that are trained, by name; those of a prefix under `prefix.`."""
        named = dict(self.model.named_parameters())
        if self.prefix is not None:
            named |= {f"prefix.{name}": p for name, p in self.prefix.named_parameters()}
        return {name: p for name, p in named.items() if p.requires_grad}


def load(job: Job, device: torch.device | None = None) -> Loaded:
    """Load the base model of a job, or what was tuned on it.

    Args:
        job: What to do, and with which model.
        device: Where the model goes; the first GPU if there is one, else the CPU.

    Raises:
        ConfigError: A directory lacks something, or does not fit the family or the base.
    """
    chatter: Any = transformers.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    base, tuned = Path(job.base), Path(job.tuned) if job.tuned else None
    known = record(tuned, job) if tuned else None
    family = template.templated(families.load(job.family), _template(job, known))
    kind = cast(Kind, known["kind"]) if known else "base"
    spec = trained_with(tuned, known) if tuned and known else job.train or TrainSpec()
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = number_format(spec, device)
    home = tuned if tuned and kind == "full" else base
    # a base model stands as its tuned one will: it is trained, or answers beside it for comparison
    method = kind if tuned else spec.method.kind
    # a model that is trained whole keeps float32 weights: bfloat16 would round small updates away
    whole = job.action == "train" and method == "full"
    bits = quantised.of(spec.method, dtype) if method == "qlora" else None
    model = layouts.model(home, family, torch.float32 if whole else dtype, bits)
    torch.nn.Module.to(model, device).train(False)
    if bits:
        quantised.settle(model)
    loaded = Loaded(model, _tokenizer(home, model), family, device, dtype, kind, spec, home)
    if tuned:
        methods.load(kind).attach(loaded, tuned)
    return loaded


def record(tuned: Path, job: Job) -> dict[str, Any]:
    """Read the record of a tuned model.

    Raises:
        ConfigError: It is missing or damaged, or says another family or base model than the job.
    """
    path = tuned / RECORD
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, digest, family = (str(found[name]) for name in ("kind", "base_digest", "family"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not the record of a tuned model ({type(error).__name__}: {error}). "
            "Train again, or name another model."
        ) from error
    if kind not in methods.KINDS:
        raise ConfigError(f"{path}: unknown kind (found {kind!r}). Train again.")
    if family != job.family:
        raise ConfigError(
            f"{path}: tuned as {family!r} (the job says {job.family!r}). Use {family!r}."
        )
    if job.base_digest and digest and digest != job.base_digest:
        raise ConfigError(
            f"{path}: tuned on another base model (found {digest[:12]}, the job has "
            f"{job.base_digest[:12]}). Name the base model it was tuned on."
        )
    return found


def trained_with(tuned: Path, known: dict[str, Any]) -> TrainSpec:
    """Return what a tuned model was trained with, from its record.

    Raises:
        ConfigError: The record does not say it, says more than is known here, or contradicts itself.
    """
    path = tuned / RECORD
    try:
        spec = train_spec(known["train"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: does not say how it was trained ({type(error).__name__}: {error}). "
            "Train again, or use the version that trained it."
        ) from error
    # a merged model is whole, whatever trained it, and one of adapters is read the same way in any bits
    if known["kind"] != "full" and not methods.alike(known["kind"], spec.method.kind):
        raise ConfigError(
            f"{path}: kind and method contradict each other (found {known['kind']!r}, trained with "
            f"{spec.method.kind!r}). Train again."
        )
    return spec


def number_format(spec: TrainSpec, device: torch.device) -> torch.dtype:
    """Return the number format of the forward pass on a device.

    Raises:
        ConfigError: There is none of that name.
    """
    if spec.precision in _FORMATS:
        return _FORMATS[spec.precision]
    if spec.precision != "auto":
        raise ConfigError(
            f"precision: not one that is computed in (found {spec.precision!r}). "
            f"Choose auto, {' or '.join(_FORMATS)}."
        )
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


@contextmanager
def within_memory(knobs: str) -> Iterator[None]:
    """Say what to lower when the memory does not suffice.

    Raises:
        ConfigError: It does not.
    """
    try:
        yield
    except RuntimeError as error:
        # the allocator of the CPU raises a plain RuntimeError
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ConfigError(
            f"memory: it does not suffice ({_first_line(error)}). Lower {knobs}."
        ) from error


def _template(job: Job, known: dict[str, Any] | None) -> str:
    """Return the prompt template: of a tuned model its own, else the one of the dataset."""
    ours = template.of_dataset(Path(job.data)) if job.data else ""
    if known is None:
        return ours
    own = template.of_record(known, Path(job.tuned) / RECORD)
    if job.data and own != ours:
        events.text("asked with the prompt template it was tuned with, not with the dataset's")
    return own


def _tokenizer(home: Path, model: PreTrainedModel) -> PreTrainedTokenizerFast:
    found = tokenizer.load(home)
    rows = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(found) > rows:
        raise ConfigError(
            f"{home}: tokenizer and weights do not belong together ({len(found)} tokens, "
            f"{rows} embeddings). Fetch the model again."
        )
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
