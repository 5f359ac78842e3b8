"""How a family of models is prompted, stopped and tuned: one file per family.

The file name is the choice in the configuration. A family is a module with

    ARCHITECTURES: tuple[str, ...]       class names of its models in config.json
    LORA_TARGETS: tuple[str, ...]        names of the linear layers that get adapters
    prompt(tokenizer, messages) -> list[int]   ids up to where the answer begins, never cut
    answer(tokenizer, text) -> list[int]       ids of an answer, its stop token included
    stop_ids(tokenizer) -> list[int]           ids of which any one ends an answer

and, where its tokenizer does many texts faster together, with the same ids,

    prompts(tokenizer, conversations) -> list[list[int]]
    answers(tokenizer, texts) -> list[list[int]]

What else it may say, read with `option`, and what holds where it does not, stands in `_DEFAULTS`:

    ATTENTION_TARGETS     the linear layers of query, key and value alone
    ATTENTION             "sdpa" | "eager": the implementation of attention that is right for it
    CHECKPOINTING         whether activations can be computed twice instead of being kept …
    CHECKPOINTING_REASON  … and why not
    PACKS                 whether several rows may share a sequence …
    PACKS_REASON          … and why not
    RATES                 usual peak learning rate of each method

`messages` is the neutral record `[{"role": "system" | "user" | "assistant", "content": str}, …]`.
Training, prediction and serving all call these, so a prompt is written in one place. Two rules bind a
family: what a person wrote can never become a control token, and equal input gives equal ids. It raises
`DataError` for messages it cannot express and `ConfigError` for a tokenizer it cannot use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Messages = Sequence[Mapping[str, str]]

# The rates are the usual ones for models of billions of parameters; one of millions bears far more.
_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "ATTENTION_TARGETS": ("q_proj", "k_proj", "v_proj"),
        "ATTENTION": "sdpa",
        "CHECKPOINTING": True,
        "CHECKPOINTING_REASON": "",
        "PACKS": True,
        "PACKS_REASON": "",
        "RATES": MappingProxyType({"lora": 1e-4, "qlora": 1e-4, "prefix": 2e-2, "full": 1e-5}),
    }
)


class Family(Protocol):
    """What a file of this folder offers."""

    ARCHITECTURES: tuple[str, ...]
    LORA_TARGETS: tuple[str, ...]

    def prompt(self, tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
        """Return the ids up to where the answer begins."""

    def answer(self, tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
        """Return the ids of an answer, its stop token included."""

    def stop_ids(self, tokenizer: PreTrainedTokenizerFast) -> list[int]:
        """Return the ids of which any one ends an answer."""


def prompts(
    family: Family, tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages]
) -> list[list[int]]:
    """Return the ids of many prompts, in order."""
    if many := getattr(family, "prompts", None):
        return cast("list[list[int]]", many(tokenizer, conversations))
    return [family.prompt(tokenizer, messages) for messages in conversations]


def answers(
    family: Family, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> list[list[int]]:
    """Return the ids of many answers, in order."""
    if many := getattr(family, "answers", None):
        return cast("list[list[int]]", many(tokenizer, texts))
    return [family.answer(tokenizer, text) for text in texts]


def option(family: Family, name: str) -> Any:
    """Return what a family says, or what holds for a family that does not say it."""
    if name in _DEFAULTS:
        return getattr(family, name, _DEFAULTS[name])
    return getattr(family, name)


def names() -> tuple[str, ...]:
    """Return the families there are, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))


def load(name: str) -> Family:
    """Import one family by its file name.

    Raises:
        ConfigError: There is no such file.
    """
    if name not in names():
        raise ConfigError(f"family: there is no {name!r} (found: {', '.join(names())}). Name one.")
    return cast(Family, importlib.import_module(f".{name}", __package__))
