"""What cannot work, said before anything is spent.

`check` looks at everything that a configuration promises and that can be looked at for free: files, the base
model, the store and its disk, the port. What only the bytes can tell is said by the step that reads them.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from tasks import endpoints, sources, store
from tasks.config import BaseConfig, FinetuneConfig, ServingConfig, SourceConfig, StoreConfig
from tasks.errors import ConfigError

_LEAST_FREE = 256 * 2**20
"""Bytes: room for checkpoints and reports of the smallest run."""


def check(config: FinetuneConfig) -> None:
    """Refuse a configuration that cannot work.

    Raises:
        ConfigError: With the knob, what was found, and what to do.
    """
    _source(config.source)
    size = _base(config.base)
    # at home: a copy of the base, and two checkpoints of the trained weights with two moments each
    whole = config.train.method.kind == "full"
    _store(StoreConfig(uri=store.local()), _LEAST_FREE + (7 if whole else 1) * size)
    _store(config.store, _LEAST_FREE + (size if whole else 0))
    _port(config.name, config.serving)


def _source(config: SourceConfig) -> None:
    if not sources.is_remote(config.uri):
        sources.files(config.uri, sources.ROWS, "source.uri")


def _base(config: BaseConfig) -> int:
    """Return the size of the model in bytes."""
    if sources.is_remote(config.uri):
        raise ConfigError(
            f"base.uri: a model is a folder (found {config.uri!r}). Download it and give its path."
        )
    folder = sources.local_path(config.uri, "base.uri")
    found = sources.files(config.uri, sources.MODEL, "base.uri")
    names = {path.name for path in found}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise ConfigError(
            f"base.uri: not a model in the transformers layout (found {', '.join(sorted(names))}). "
            "The folder must hold config.json, *.safetensors and the tokenizer."
        )
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as reason:
        raise ConfigError(
            f"base.uri: config.json is not JSON (found {reason}). Fetch the model again."
        ) from reason
    return sum(path.stat().st_size for path in found)


def _store(config: StoreConfig, needed: int) -> None:
    if "://" in config.uri and not config.uri.startswith("file://"):
        raise ConfigError(
            f"store.uri: only folders of this machine can be a store (found {config.uri!r}). "
            "Give a path."
        )
    folder = store.resolve(config.uri)
    with store.writing(config.uri):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"x")
        probe.unlink()
    _room(folder, needed)


def _room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"store.uri: too little room in {folder} (found {free / 2**20:,.0f} MiB free, "
            f"this run may need {needed / 2**20:,.0f}). Free some space or choose another store."
        )


def _port(name: str, config: ServingConfig) -> None:
    if config.when != "never":
        endpoints.check_address(store.home() / "endpoints", name, config.host, config.port)
