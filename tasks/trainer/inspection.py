"""What is looked at before the weights change for the first time: a wrong job ends here, not after hours.

The gradients that are looked at are those of the first step itself, over its whole batch: that costs
nothing, and draws nothing from the random streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

import torch

from . import events, views
from .encode import Example
from .errors import ConfigError
from .model import Loaded
from .parts import full_tensor

# peft begins with B = 0, so that A has no gradient in the first step and B has
_WAITS = ".lora_A."


def rows(loaded: Loaded, examples: Sequence[Example]) -> None:
    """Check that the model can read the rows.

    Raises:
        ConfigError: One is longer than what the model holds, or has an id that it does not know.
    """
    longest = max(len(example.input_ids) for example in examples)
    prefix = loaded.prefix.tokens if loaded.prefix is not None else 0
    limit = views.window(loaded.model.config)
    if limit is not None and longest + prefix > limit:
        behind = f" behind a prefix of {prefix}" if prefix else ""
        raise ConfigError(
            f"max_prompt_tokens: the longest row has {longest:,} tokens{behind} (the model holds {limit:,}). "
            "Lower train.max_prompt_tokens or train.max_answer_tokens."
        )
    vocabulary = cast(torch.nn.Embedding, loaded.model.get_input_embeddings()).num_embeddings
    ids = set(chain.from_iterable(example.input_ids for example in examples))
    if wrong := sorted(i for i in ids if not 0 <= i < vocabulary):
        raise ConfigError(
            f"tokenizer: it gives ids that the model does not know (found {wrong[0]}; the model has "
            f"{vocabulary:,}). Use the tokenizer that belongs to the model."
        )


def gradients(parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Check that the first step moves everything that is to be trained.

    Raises:
        ConfigError: A gradient is missing, zero, infinite or not a number; the message names the tensor.
    """
    waiting = 0
    for name, parameter in parameters.items():
        size = _size(parameter)
        if size is not None and not size < float("inf"):
            raise _unfit(name, f"its first gradient is not finite (found norm {size:g})")
        if not size:
            if _WAITS not in name:
                raise _unfit(name, f"the loss does not depend on it (found {_none(size)})")
            waiting += 1
    told = f", {waiting} of which wait for their partners to leave 0" if waiting else ""
    events.text(f"the first gradient reaches all {len(parameters):,} trained tensors{told}")


def _size(parameter: torch.nn.Parameter) -> float | None:
    if parameter.grad is None:
        return None
    return float(full_tensor(torch.linalg.vector_norm(parameter.grad.detach())))


def _none(size: float | None) -> str:
    return "no gradient" if size is None else "a gradient of zero"


def _unfit(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"{name}: {what}. Set precision to float32, or choose another method for this model."
    )
