"""How a model is tuned: one file per method, chosen by its kind.

A method is a module with

    add(loaded, method, seed)         chooses what is trained and freezes the rest
    attach(loaded, tuned)             puts what was trained on the base model that it was trained on
    tensors(loaded)                   names and tensors of the result, sharded where the model is
    write(loaded, named, out, base)   writes them, whole; `base` is the digest of the base model

Importing one is not cheap (peft takes over a second), so each is imported where it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import Loaded

# the weights of QLoRA differ, its adapters do not
_FILES: dict[str, str] = {"lora": "lora", "qlora": "lora", "prefix": "prefix", "full": "full"}

KINDS: tuple[str, ...] = tuple(_FILES)
"""The methods there are."""


def alike(kind: str, other: str) -> bool:
    """Say whether two methods write the same kind of file."""
    return _FILES[kind] == _FILES[other]


class Method(Protocol):
    """What a file of this folder offers."""

    def add(self, loaded: Loaded, method: Any, seed: int) -> None:
        """Choose what is trained and freeze the rest."""

    def attach(self, loaded: Loaded, tuned: Path) -> None:
        """Put what was trained on its base model."""

    def tensors(self, loaded: Loaded) -> Iterable[tuple[str, Tensor]]:
        """Yield what is saved, by name; sharded where the model is."""

    def write(
        self, loaded: Loaded, named: Iterable[tuple[str, Tensor]], out: Path, base: str
    ) -> None:
        """Write it, the tensors whole; `base` is the digest of the base model."""


def load(kind: str) -> Method:
    """Import the method of a kind."""
    return cast(Method, importlib.import_module(f".{_FILES[kind]}", __package__))
