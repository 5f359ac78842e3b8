"""Fills a model with weights through transformers' own loader, whatever they are called in their files.

The loader takes names and tensors. Those of an original layout are cut out of mapped files when it asks
for them, so it reads, converts and quantises one tensor at a time, and checks all of them the way it
checks its own files. Shapes are compared before anything is read: of what does not fit, the loader would
first make a random tensor of the size that the configuration asks for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor

from .. import families
from ..errors import ConfigError
from . import NONSENSE, config, reading, said

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
    tensors = _named(home, layout, ours)
    _refuse_misshapen(home, _misshapen(_outline(home, build, ours, len(tensors)), tensors))
    how: dict[str, Any] = {
        "dtype": dtype,
        "local_files_only": True,
        "attn_implementation": families.option(family, "ATTENTION"),
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported, and refused below
    }
    if quantisation is not None:
        how["quantization_config"] = quantisation.config()
    if layout is None and reading.is_safe(home):
        source, how["use_safetensors"] = home, True
    else:
        source, how["state_dict"] = None, dict(tensors)
    try:
        model, report = build.from_pretrained(source, config=ours, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise
        raise ConfigError(
            f"{home}: the weights cannot be read ({said(error)}). Fetch the model again."
        ) from error
    _refuse_incomplete(home, report)
    _refuse_misshapen(home, set(report["mismatched_keys"]))
    return cast("PreTrainedModel", model)


def _class(architecture: str) -> Any:
    if architecture == "ChatGlmForCausalLM":
        from ..architectures import chatglm

        return chatglm.ChatGlmForCausalLM
    return getattr(transformers, _RENAMED.get(architecture, architecture))


class _Part:
    """A weight that is cut out of an original one each time the loader asks for it, by `part[...]`."""

    def __init__(
        self, name: str, shape: torch.Size, cut: Callable[[], Iterator[tuple[str, Tensor]]]
    ) -> None:
        self.shape = shape
        self._name, self._cut = name, cut

    def __getitem__(self, _: Any) -> Tensor:
        return next(tensor for name, tensor in self._cut() if name == self._name)


def _named(home: Path, layout: Layout | None, ours: Any) -> Mapping[str, Tensor | _Part]:
    """Return all weights under their native names."""
    weights = reading.folder(home)
    if layout is None:
        return weights
    found: dict[str, Tensor | _Part] = {}
    for name in weights:
        found |= _parts(name, weights, layout, ours)
    return found


def _parts(
    original: str, weights: Mapping[str, Tensor], layout: Layout, ours: Any
) -> dict[str, _Part]:
    """Return what an original weight is in the native layout."""

    def cut() -> Iterator[tuple[str, Tensor]]:
        return layout.to_native(original, weights[original], ours)

    outlines = layout.to_native(original, weights[original].to("meta"), ours)
    return {name: _Part(name, outline.shape, cut) for name, outline in outlines}


def _outline(home: Path, build: Any, ours: Any, weights: int) -> dict[str, Tensor]:
    """Return the model that the configuration describes, without numbers.

    Raises:
        ConfigError: It describes none, or one of more layers than there are weights.
    """
    layers = getattr(ours, "num_hidden_layers", 0)
    if layers > weights:
        raise ConfigError(
            f"{home}: {layers:,} layers cannot be made of {weights:,} weights. Fetch the model again."
        )
    try:
        with torch.device("meta"):
            outline: dict[str, Tensor] = build(copy.deepcopy(ours)).state_dict()
    except NONSENSE as error:
        raise ConfigError(
            f"{home / 'config.json'}: describes no model that can be built ({said(error)}). "
            "Fetch the model again."
        ) from error
    return outline


def _misshapen(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor | _Part]
) -> set[tuple[str, torch.Size, torch.Size]]:
    """Return names, shapes found and shapes wanted of weights that do not fit the configuration."""
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
