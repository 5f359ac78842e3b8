"""Plug-ins by file name: the directory listing is the list of choices.

`formats/`, `backends/` and `trainer/families/` hold one file per choice. Adding the file adds the
choice to the UI form, to `--help` and to the contract test. Nothing is registered anywhere.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

_HERE = Path(__file__).parent


def names(kind: str) -> tuple[str, ...]:
    """Return the plug-ins of a kind, such as `formats`, sorted."""
    return tuple(sorted(path.stem for path in (_HERE / kind).glob("[a-z]*.py")))


def load(kind: str, name: str) -> ModuleType:
    """Import one plug-in. The name has been validated by the configuration."""
    return importlib.import_module(f"tasks.{kind}.{name}")


if TYPE_CHECKING:
    FormatChoice = str
else:
    FormatChoice = Literal[("auto", *names("formats"))]
