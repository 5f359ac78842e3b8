"""Loads what a job names: a base model, adapters on one, or a model tuned whole.

Decisions: weights come from local safetensors files only, through the native classes of transformers;
no remote code, no pickle, no download. A weight that is missing is an error, never a random tensor.
In float32 adapters are merged into the weights when answering: the logits of the tests differ by less
than 1e-5 and a step of generation costs what the base costs. In bfloat16 they stay beside the weights,
because the sum would be rounded to eight bits and blur exactly what was learnt.
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
from safetensors import SafetensorError

from . import events, families, template, tokenizer
from .errors import ConfigError
from .job import Job, TrainSpec, train_spec

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RECORD = "model.json"
"""Written last into a tuned model: its presence says that the rest is there."""

Kind = Literal["base", "lora", "full"]


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
    adapted: PeftModel | None = None
    """The same model as peft sees it, when its adapters are not merged."""

    @property
    def template(self) -> str:
        """The text around each prompt that training, prediction and serving share; empty for none."""
        return template.of(self.family)

    @property
    def max_prompt_tokens(self) -> int:
        """The prompt limit that training, prediction and serving share."""
        return self.spec.max_prompt_tokens


def load(job: Job) -> Loaded:
    """Load the base model of a job, or what was tuned on it.

    Raises:
        ConfigError: A directory lacks something, or does not fit the family or the base.
    """
    chatter: Any = transformers.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    base, tuned = Path(job.base), Path(job.tuned) if job.tuned else None
    record = _record(tuned, job) if tuned else None
    family = template.templated(families.load(job.family), _template(job, record))
    kind = cast(Kind, record["kind"]) if record else "base"
    spec = train_spec(record["train"]) if record else job.train or TrainSpec()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = _number_format(spec, device)
    home = tuned if tuned and kind == "full" else base
    # a model that is trained whole keeps float32 weights: bfloat16 would round small updates away
    whole = job.action == "train" and spec.method.kind == "full"
    model = _weights(home, family, torch.float32 if whole else dtype)
    torch.nn.Module.to(model, device).train(False)
    loaded = Loaded(model, _tokenizer(home, model), family, device, dtype, kind, spec)
    if tuned and kind == "lora":
        from . import adapters  # peft costs over a second: only where there are adapters

        adapters.attach(loaded, tuned)
    return loaded


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


def _record(tuned: Path, job: Job) -> dict[str, Any]:
    path = tuned / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, digest, family = record["kind"], record["base_digest"], record["family"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path}: not the record of a tuned model ({error}). Train again, or name another model."
        ) from error
    if kind not in ("lora", "full"):
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
    return record


def _template(job: Job, record: dict[str, Any] | None) -> str:
    """Return the prompt template: of a tuned model its own, else the one of the dataset."""
    ours = template.of_dataset(Path(job.data)) if job.data else ""
    if record is None:
        return ours
    own = template.of_record(record, Path(job.tuned) / RECORD)
    if job.data and own != ours:
        events.text("asked with the prompt template it was tuned with, not with the dataset's")
    return own


def _number_format(spec: TrainSpec, device: torch.device) -> torch.dtype:
    if spec.precision != "auto":
        return cast(torch.dtype, getattr(torch, spec.precision))
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float32


def _weights(home: Path, family: families.Family, dtype: torch.dtype) -> PreTrainedModel:
    architecture = _architecture(home, family)
    if not any(home.glob("*.safetensors")):
        pickled = sorted(
            p.name for p in home.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
        )
        found = ", ".join(pickled) or "no weights"
        raise ConfigError(
            f"{home}: no safetensors weights (found {found}). "
            "Pickled weights can run code and are never read: convert them to safetensors."
        )
    try:
        model, report = getattr(transformers, architecture).from_pretrained(
            home,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{home}: the weights cannot be read ({_first_line(error)}).") from error
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(
            f"{home}: {len(missing)} weights are missing (first: {missing[0]}). "
            "Fetch the model again; a model with random weights would answer nonsense."
        )
    return cast("PreTrainedModel", model)


def _architecture(home: Path, family: families.Family) -> str:
    path = home / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("architectures") or ["none"]
    except FileNotFoundError as error:
        raise ConfigError(
            f"{home}: no model here (no config.json). Name a directory in the transformers layout."
        ) from error
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Fetch the model again.") from error
    if found[0] not in family.ARCHITECTURES:
        raise ConfigError(
            f"{path}: this family does not cover the architecture (found {found[0]}; it covers "
            f"{', '.join(family.ARCHITECTURES)}). Choose another family or base model."
        )
    return str(found[0])


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
