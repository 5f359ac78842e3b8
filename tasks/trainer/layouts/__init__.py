"""Turns a folder of published weights into a model, whatever layout they were published in.

    native       what transformers writes; class and configuration are its own (of MPT: also as published)
    chatglm1     ChatGLM-6B as published
    chatglm2     ChatGLM2-6B and ChatGLM3-6B as published

Decisions: no remote code and no pickle is run, nothing is downloaded. A layout is a map of names and
configuration; the weights of all of them go through one loader, which reads a tensor at a time from a
mapped file, converts or quantises it, and reports what was missing, left over or of another shape: each
is an error, never a random tensor. So no second copy of a model is ever in memory.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from huggingface_hub.errors import StrictDataclassError

from ..errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from ..families import Family
    from ..methods.quantised import Bits

NONSENSE = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(RuntimeError, ImportError, StrictDataclassError),
)
"""What transformers raises where a configuration makes no sense: whatever the first line that trips over it does."""

_ORIGINAL = ("ChatGLMModel", "ChatGLMForConditionalGeneration")
"""Architectures that ChatGLM's own configurations name, of all three generations."""


class Layout(Protocol):
    """What a file of this folder that knows an original layout offers."""

    def config(self, c: Mapping[str, Any]) -> PretrainedConfig:
        """Return the native configuration of an original one."""

    def to_native(
        self, name: str, tensor: torch.Tensor, config: Any
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield what an original tensor is in the native layout."""


def config(home: Path) -> PretrainedConfig:
    """Return the configuration of a model in its native form, without reading weights.

    Raises:
        ConfigError: There is no model, its configuration cannot be read, or describes what is not covered.
    """
    fields = _fields(home)
    layout = original(fields)
    try:
        if layout is not None:
            return layout.config(fields)
        return _native_config(home, fields)
    except (OSError, *NONSENSE) as error:
        raise ConfigError(
            f"{home / 'config.json'}: cannot be used ({said(error)}). Fetch the model again."
        ) from error


def model(
    home: Path, family: Family, dtype: torch.dtype, quantisation: Bits | None = None
) -> PreTrainedModel:
    """Load the weights of a model.

    Args:
        home: Folder with `config.json` and weights.
        family: Decides which architectures are covered and how attention is computed.
        dtype: Number format of the weights in memory.
        quantisation: How the linear layers of the blocks are quantised while they are read.

    Raises:
        ConfigError: Files are missing or damaged, or do not fit each other or the family.
    """
    from . import loading

    fields = _fields(home)
    architecture = _architecture(home, fields, family)
    return loading.load(home, architecture, original(fields), family, dtype, quantisation)


def stored_dtype(home: Path) -> torch.dtype:
    """Return the number format in which most of a model's weights lie in their files; `config.json` need not know.

    Raises:
        ConfigError: There are no weights, they are damaged, or none are floating-point numbers.
    """
    from . import reading

    weights, numbers = reading.folder(home), Counter[Any]()
    for tensor in weights.values():
        if tensor.is_floating_point():
            numbers[tensor.dtype] += tensor.numel()
    if not numbers:
        raise ConfigError(f"{home}: its weights are no numbers to compute with. Fetch it again.")
    return cast("torch.dtype", numbers.most_common(1)[0][0])


def original(fields: Mapping[str, Any]) -> Layout | None:
    """Return the layout of a model in ChatGLM's own form, by its `config.json`; None for a native one."""
    if (fields.get("architectures") or ["none"])[0] not in _ORIGINAL:
        return None
    name = "chatglm2" if "padded_vocab_size" in fields else "chatglm1"
    return cast(Layout, importlib.import_module(f".{name}", __package__))


def _fields(home: Path) -> dict[str, Any]:
    path = home / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        named = fields.get("architectures") or ["none"]
        str(named[0])
    except FileNotFoundError as error:
        raise ConfigError(
            f"{home}: no model here (no config.json). Name a directory in the transformers layout."
        ) from error
    except (OSError, *NONSENSE) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Fetch the model again.") from error
    if (already := fields.get("quantization_config")) is not None:
        method = already.get("quant_method") if isinstance(already, dict) else already
        raise ConfigError(
            f"{path}: the weights are quantised already (found {method!r}). Take the model that is not "
            "quantised; method qlora quantises it on loading."
        )
    return cast(dict[str, Any], fields)


def _architecture(home: Path, fields: Mapping[str, Any], family: Family) -> str:
    found = (fields.get("architectures") or ["none"])[0]
    if found not in family.ARCHITECTURES:
        raise ConfigError(
            f"{home / 'config.json'}: this family does not cover the architecture (found {found}; "
            f"it covers {', '.join(family.ARCHITECTURES)}). Choose another family or base model."
        )
    return str(found)


def _native_config(home: Path, fields: Mapping[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    if fields.get("model_type") == "chatglm_6b":
        importlib.import_module("..architectures.chatglm_config", __package__)  # registers itself
    if fields.get("model_type") == "mpt":
        from . import mpt

        return mpt.config(fields)
    found = AutoConfig.from_pretrained(home, local_files_only=True, trust_remote_code=False)
    return cast("PretrainedConfig", found)


def said(error: Exception) -> str:
    """Return what an error says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
