"""How an artifact was made: what goes into its record beside its bytes, and never into its digest."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prefect.runtime import flow_run
from pydantic import BaseModel

from tasks import store
from tasks.artifacts import Artifact
from tasks.config import SourceConfig

_PACKAGES = (
    *("prefect", "torch", "transformers", "tokenizers", "peft", "bitsandbytes", "safetensors"),
    *("jieba", "rapidfuzz"),
)


def made(step: str, *inputs: Any) -> dict[str, Any]:
    """Describe a step's call: its inputs by value or digest, versions, run and time."""
    return {
        "step": step,
        "inputs": [_plain(value) for value in inputs],
        "versions": {"python": platform.python_version()} | _versions(),
        "flow_run": flow_run.id,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def origin(artifact: Artifact) -> dict[str, Any]:
    """Say where fetched bytes came from: the address, and what the place called them, such as a commit."""
    told = store.record(artifact.uri)["made"]
    places = [each for each in told.get("inputs", []) if isinstance(each, dict) and "uri" in each]
    return {"uri": [each["uri"] for each in places], "arrived": told.get("arrived", {})}


def _plain(value: Any) -> Any:
    if isinstance(value, Artifact):
        return value.identity()
    if isinstance(value, SourceConfig):
        return value.recorded()
    if isinstance(value, BaseModel):
        return {name: _value(getattr(value, name)) for name in type(value).model_fields}
    return vars(value)


def _value(value: Any) -> Any:
    return _plain(value) if isinstance(value, BaseModel) else value


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
