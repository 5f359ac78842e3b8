"""The weights of a folder or of one file, by name: named at once, read when they are used.

safetensors or PyTorch's `.bin`, in one file or in several with an index. Files are mapped into memory, so
a tensor costs nothing until its numbers are copied, converted or multiplied. Where a folder holds both
formats, safetensors are taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ConfigError
from . import bins

_STEMS = {"safetensors": "model", "bin": "pytorch_model"}
_UNREAD = (".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".safetensors", ".bin")


class Weights(Mapping[str, torch.Tensor]):
    """Tensors by name, of one file or of several."""

    def __init__(self, files: Mapping[Path, Mapping[str, torch.Tensor]]) -> None:
        self._holder: dict[str, Mapping[str, torch.Tensor]] = {}
        for path, tensors in files.items():
            for name in tensors:
                if not name.isprintable():
                    raise ConfigError(
                        f"{path}: a weight has a name that cannot be shown (found {name[:80]!r}). "
                        "Fetch the model again."
                    )
                if name in self._holder:
                    raise ConfigError(
                        f"{path}: {name} is in another file too. Fetch the model again."
                    )
                self._holder[name] = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._holder[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._holder)

    def __len__(self) -> int:
        return len(self._holder)


def folder(home: Path) -> Weights:
    """Return the weights of a model.

    Raises:
        ConfigError: There are none, they are damaged, or a file is missing or another than its index says.
    """
    for ending, stem in _STEMS.items():
        whole, index = home / f"{stem}.{ending}", home / f"{stem}.{ending}.index.json"
        if whole.is_file():
            return file(whole)
        if index.is_file():
            return _indexed(home, index)
    there = sorted(path.name for path in home.iterdir() if path.suffix in _UNREAD)
    raise ConfigError(
        f"{home}: no weights that are read (found {', '.join(there) or 'none'}). It must hold "
        "model.safetensors or pytorch_model.bin, or several of them with their index; "
        "convert others to safetensors."
    )


def file(path: Path) -> Weights:
    """Return the weights of one `.safetensors` or `.bin`.

    Raises:
        ConfigError: It is damaged, or not a file of tensors.
    """
    return Weights({path: _opened(path)})


def is_safe(home: Path) -> bool:
    """Say whether a model has safetensors, which are then taken."""
    return any((home / f"model.safetensors{end}").is_file() for end in ("", ".index.json"))


def _indexed(home: Path, index: Path) -> Weights:
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {name: str(place) for name, place in listed.items()}
        names = sorted(set(places.values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{index}: cannot be read ({type(error).__name__}: {error}). Fetch the model again."
        ) from error
    for name in names:
        if Path(name).name != name or not (home / name).is_file():
            raise ConfigError(
                f"{home}: a file of weights is missing (the index names {name!r}). "
                "Fetch the model again."
            )
    files = {home / name: _opened(home / name) for name in names}
    found = Weights(files)
    for name, place in places.items():
        if name not in files[home / place]:
            raise ConfigError(
                f"{home / place}: {name} is missing, which {index.name} places here. "
                "Fetch the model again."
            )
    if strangers := sorted(set(found) - set(places)):
        raise ConfigError(
            f"{index}: does not know all that its files hold (first: {strangers[0]}). "
            "Fetch the model again."
        )
    return found


def _opened(path: Path) -> Mapping[str, torch.Tensor]:
    return bins.Bin(path) if path.suffix == ".bin" else _Safetensors(path)


class _Safetensors(Mapping[str, torch.Tensor]):
    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"{path}: the weights cannot be read ({error}). Fetch the model again."
            ) from error
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
