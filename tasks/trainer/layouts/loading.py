"""Fills a model with weights through transformers' own loader, whatever they are called in their files.

The loader takes names and tensors. Those of an original layout are views of mapped files under their
native names, so it reads, converts and quantises one tensor at a time, and checks all of them the way it
checks its own files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from .. import families
from ..errors import ConfigError
from . import _first_line, config, reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..families import Family
    from ..methods.quantised import Bits
    from . import Layout

# the name that MPT's own code has for what transformers writes otherwise; fields and weights are the same
_RENAMED = {"MPTForCausalLM": "MptForCausalLM"}


def load(
    home: Path,
    architecture: str,
    layout: Layout | None,
    family: Family,
    dtype: torch.dtype,
    quantisation: Bits | None,
) -> PreTrainedModel:
    """Load a model; `layout` is None for a native one.

    Raises:
        ConfigError: Files are missing or damaged, or the weights are not those of the configuration.
    """
    ours = config(home)
    build = _class(architecture if layout is None else str((ours.architectures or [""])[0]))
    how: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "attn_implementation": families.option(family, "ATTENTION"),
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported, and refused below
    }
    if quantisation is not None:
        how["quantization_config"] = quantisation.config()
    tensors: Mapping[str, torch.Tensor]
    try:
        if layout is None and reading.is_safe(home):
            tensors = reading.folder(home)
            model, report = build.from_pretrained(home, use_safetensors=True, **how)
        else:
            tensors = _named(home, layout, ours)
            model, report = build.from_pretrained(None, config=ours, state_dict=tensors, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        raise ConfigError(f"{home}: the weights cannot be read ({_first_line(error)}).") from error
    _refuse_incomplete(home, report)
    wrong = set(report["mismatched_keys"])
    if quantisation is not None:  # transformers does not compare what it quantises
        wrong |= _misshapen(build, ours, tensors)
    _refuse_misshapen(home, wrong)
    return cast("PreTrainedModel", model)


def _class(architecture: str) -> Any:
    if architecture == "ChatGlmForCausalLM":
        from ..architectures import chatglm

        return chatglm.ChatGlmForCausalLM
    return getattr(transformers, _RENAMED.get(architecture, architecture))


def _named(home: Path, layout: Layout | None, ours: Any) -> dict[str, torch.Tensor]:
    """Return views of all weights under their native names."""
    weights = reading.folder(home)
    if layout is None:
        return dict(weights)
    found: dict[str, torch.Tensor] = {}
    for name in weights:
        found |= layout.to_native(name, weights[name], ours)
    return found


def _misshapen(
    build: Any, ours: Any, tensors: Mapping[str, torch.Tensor]
) -> set[tuple[str, torch.Size, torch.Size]]:
    """Return names, shapes found and shapes wanted of weights that do not fit the configuration."""
    with torch.device("meta"):
        wanted = build(ours).state_dict()
    return {
        (name, found.shape, wanted[name].shape)
        for name, found in tensors.items()
        if name in wanted and found.shape != wanted[name].shape
    }


def _refuse_misshapen(home: Path, wrong: set[tuple[str, torch.Size, torch.Size]]) -> None:
    if wrong:
        name, found, wanted = min(wrong)
        raise ConfigError(
            f"{home}: {len(wrong)} weights have another shape than config.json says (first: {name}, "
            f"found {tuple(found)}, expected {tuple(wanted)}). Fetch the model again."
        )


def _refuse_incomplete(home: Path, report: dict[str, Any]) -> None:
    if missing := sorted(report["missing_keys"]):
        raise ConfigError(
            f"{home}: {len(missing)} weights are missing (first: {missing[0]}). "
            "Fetch the model again; a model with random weights would answer nonsense."
        )
    if left := sorted(report["unexpected_keys"]):
        raise ConfigError(
            f"{home}: {len(left)} weights have no place in the model that config.json describes "
            f"(first: {left[0]}). Fetch the model again."
        )
