"""P-Tuning v2: trained keys and values before the prompt in every layer.

Decisions:

* The parameters, and the file they are saved in, are those of peft's prefix tuning; the passes through the
  model are our own. peft 0.21 prepares masks and positions wrongly for batches of GLM and Llama, and refuses
  gradient checkpointing. Here the model gets a cache that already holds the prefix; the tokens of the text
  stand at the positions after it.
* While training, the cache is read-only: it returns prefix and new states together and stores nothing, so that
  gradient checkpointing may run a layer twice. Loss and gradients are then those without checkpointing, to the bit.
* The parameters are float32 whatever the model computes in: in bfloat16 small updates would be rounded away.
* It starts from normally distributed numbers, as in the original. On a model of 0.4 M parameters that learnt another
  text pattern in 100 steps, the held-out loss fell to 6.49 at a rate of 0.01 and 5.56 at 0.03; from numbers of a
  fiftieth of the size to 6.90 and 6.06, from the model's own states for random tokens to 6.70 and 5.88, for
  training rows to 6.40 and 5.66.
* Nothing of it is dropped while training; the code of ChatGLM drops a tenth. On a GLM and a Llama of 0.3 M parameters
  that learnt another text pattern, 32 tokens, at the rates 0.01, 0.02 and 0.03, held-out losses of 3.5 to 4.4 differed
  by -0.07 to +0.07 between the two ways, of two seeds by as much.
* A projection is the network of the paper and of ChatGLM-6B: an embedding as wide as the model, two linear layers, tanh
  between them. (ChatGLM2's begins with an embedding of all layers' width: 119 instead of 76 million numbers.) It
  is computed when the model is saved. What is saved is the prefix itself, so that a model with projection answers as
  fast as one without and both are one kind of file.

Source: https://arxiv.org/abs/2110.07602 (P-Tuning v2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..errors import ConfigError
from ..job import Prefix as Method
from . import files

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedConfig

    from ..model import Loaded

_SAVED = "prompt_embeddings"


@dataclass(frozen=True)
class Shape:
    """What a cache holds for each token."""

    layers: int
    heads: int
    """Heads of keys and values; fewer than those of queries where several share one."""
    width: int
    """Numbers of a head."""
    size: int
    """Width of the model."""

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        """Read the shape from a model's configuration; a model of MPT's kind names things its own way."""
        known: dict[str, Any] = config.to_dict()
        heads = known.get("num_attention_heads") or known["n_heads"]
        size = known.get("hidden_size") or known["d_model"]
        return cls(
            layers=known.get("num_hidden_layers") or known.get("num_layers") or known["n_layers"],
            heads=known.get("num_key_value_heads") or heads,
            width=known.get("head_dim") or size // heads,
            size=size,
        )

    @property
    def token(self) -> int:
        """Numbers of one token in one layer, of its keys or of its values."""
        return self.heads * self.width

    @property
    def numbers(self) -> int:
        """Numbers of one token in all layers."""
        return 2 * self.layers * self.token


class Prefix(nn.Module):
    """The prefix of a model: its parameters, and the caches that put it before the text."""

    def __init__(self, shape: Shape, tokens: int, dtype: torch.dtype, hidden: int = 0) -> None:
        """Make a prefix with random parameters.

        Args:
            shape: Of the model's cache.
            tokens: Length of the prefix.
            dtype: Number format in which the model computes keys and values.
            hidden: Width of the network that computes the prefix; 0 stores it.
        """
        super().__init__()
        self.tokens = tokens
        self.shape = shape
        self._dtype = dtype
        self.embedding = nn.Embedding(tokens, shape.size if hidden else shape.numbers)
        self.transform: nn.Module = nn.Identity()
        if hidden:
            self.transform = nn.Sequential(
                nn.Linear(shape.size, hidden), nn.Tanh(), nn.Linear(hidden, shape.numbers)
            )

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    def flat(self) -> Tensor:
        """Return the prefix, `(tokens, layers · 2 · heads · width) float32`: of each layer keys, then values."""
        with torch.autocast(self.device.type, enabled=False):
            states: Tensor = self.transform(self.embedding.weight)
        return states

    def cache(self, rows: int, growing: bool) -> Cache:
        """Return a cache that holds the prefix for each row of a batch.

        Args:
            rows: How many.
            growing: False for training, where the cache stays as it is; True for answering.
        """
        shape = self.shape
        states = self.flat().to(self._dtype)
        states = states.view(self.tokens, 2 * shape.layers, shape.heads, shape.width)
        states = states.permute(1, 2, 0, 3)[:, None].expand(-1, rows, -1, -1, -1)
        cache = DynamicCache()
        kind = DynamicLayer if growing else _Fixed
        for keys, values in zip(states[0::2], states[1::2], strict=True):
            layer = kind()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        return cache


class _Fixed(DynamicLayer):
    """Keys and values that every update stands behind and none changes."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        keys = torch.cat([self.keys, key_states], dim=-2)
        return keys, torch.cat([self.values, value_states], dim=-2)


def add(loaded: Loaded, method: Method, seed: int) -> None:
    """Put a fresh prefix before the text and freeze the model."""
    loaded.model.requires_grad_(False)
    shape = Shape.of(loaded.model.config)
    hidden = 0
    if method.projection:
        hidden = method.projection_width or shape.size
    torch.manual_seed(seed)
    loaded.prefix = Prefix(shape, method.tokens, loaded.dtype, hidden).to(loaded.device)


def attach(loaded: Loaded, tuned: Path) -> None:
    """Put a trained prefix before the text.

    Raises:
        ConfigError: The files are missing, damaged, or of another shape than the model.
    """
    weights, shape = files.read(tuned), Shape.of(loaded.model.config)
    path = tuned / files.WEIGHTS
    if set(weights) != {_SAVED}:
        found = ", ".join(sorted(weights)) or "nothing"
        raise ConfigError(f"{path}: not a prefix (found {found}). Train again.")
    states = weights[_SAVED]
    if states.ndim != 2 or states.shape[1] != shape.numbers:
        raise ConfigError(
            f"{path}: the prefix does not fit the model (found {tuple(states.shape)}, the model takes "
            f"{shape.numbers:,} numbers a token). Name the base model it was trained on."
        )
    method = loaded.spec.method
    if isinstance(method, Method) and len(states) != method.tokens:
        raise ConfigError(
            f"{path}: the prefix has another length than its record says (found {len(states)} tokens, the "
            f"record has {method.tokens}). Take both files from the same training."
        )
    prefix = Prefix(shape, len(states), loaded.dtype)
    prefix.embedding.weight.data.copy_(states)
    loaded.prefix = prefix.requires_grad_(False).to(loaded.device)


def tensors(loaded: Loaded) -> Iterator[tuple[str, Tensor]]:
    """Yield the prefix, computed where there is a projection."""
    if loaded.prefix is None:
        raise ValueError("there is no prefix")
    yield _SAVED, loaded.prefix.flat().detach()


def write(loaded: Loaded, named: Iterable[tuple[str, Tensor]], out: Path, base: str) -> None:
    """Write the prefix in the layout of peft."""
    write_states(out, dict(named)[_SAVED], Shape.of(loaded.model.config), base)


def write_states(out: Path, states: Tensor, shape: Shape, base: str) -> None:
    """Write a prefix, `(tokens, layers · 2 · heads · width)`, in the layout of peft."""
    from peft import PrefixTuningConfig  # seconds to import, and of no use when answering

    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=len(states),
        token_dim=shape.token,
        num_attention_heads=shape.heads,
        num_layers=shape.layers,
        num_transformer_submodules=1,
        encoder_hidden_size=shape.token,
    )
    files.write(out, {_SAVED: states}, config.to_dict(), base)
