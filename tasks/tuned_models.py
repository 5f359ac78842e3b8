"""Adopt, merge, export: models that came from elsewhere, and models that go elsewhere.

What is done to the weights is the trainer's business (`trainer/exchange/`, `trainer/merging.py`); here it becomes
an artifact of the store, made once. A folder for other programs is a copy: the store is never handed out.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from tasks import fetching, plugins, registry, sources, store
from tasks.artifacts import Model
from tasks.config import BaseConfig, ExportForm, LocalConfig, ModelConfig, RegisteredConfig
from tasks.errors import ConfigError
from tasks.progress import Watch
from tasks.provenance import made
from tasks.steps import step
from tasks.trainer.job import Job
from tasks.training import fetch_model

_TUNED = (
    *("*.json", "*.jsonl", "*.safetensors", "*.bin", "*.jinja", "*.model"),
    *("merges.txt", "vocab.txt"),
)
_RECORD = "model.json"
_ACTIONS = ("tasks/trainer/exchange", "tasks/trainer/merging.py", "tasks/trainer/methods")


def model_of(subject: RegisteredConfig | ModelConfig, on: LocalConfig) -> Model:
    """Return the model that a configuration names, in the store.

    Raises:
        ConfigError: There is no such model.
    """
    if isinstance(subject, RegisteredConfig):
        return registry.model_of(subject.name, subject.version)
    base: Model = fetch_model(subject.base)
    if not subject.tuned:
        return base
    place = BaseConfig(uri=subject.tuned, family=subject.base.family, s3=subject.base.s3)
    tuned: Model = fetch_tuned(place, base, on=on)
    return tuned


@step(
    sources=("tasks/tuned_models.py", "tasks/fetching.py", "tasks/sources", *_ACTIONS),
    ignoring=("on",),
    retries=4,
    wait_seconds=(2, 8, 32, 60),
)
def fetch_tuned(place: BaseConfig, base: Model, on: LocalConfig) -> Model:
    """Bring a tuned model into the store; an adapter in ChatGLM's own layout is taken over.

    Raises:
        ConfigError: It is none, or does not fit the base.
        TransientError: The network failed; worth another try.
    """
    request = sources.Request(place.uri, _TUNED, "subject.tuned")
    given = fetching.bring({".": request}, "models", made("fetch_tuned", place, base))
    folder = store.resolve(given.uri)
    if not (folder / _RECORD).is_file():
        return _made("adopt", base, folder, on)
    record = _record(folder)
    kind, digest = record["kind"], record["base_digest"]
    if record["family"] != base.family:
        raise ConfigError(
            f"subject.tuned: tuned as {record['family']!r} (the base is {base.family!r}). "
            "Name its base."
        )
    if kind != "full" and digest and digest != base.digest:
        raise ConfigError(
            f"subject.tuned: tuned on another base model (found {digest[:12]}, the base has "
            f"{base.digest[:12]}). Name the base that it was tuned on."
        )
    return Model(uri=given.uri, digest=given.digest, family=base.family, kind=kind, base=base)


@step(
    sources=("tasks/tuned_models.py", *_ACTIONS),
    ignoring=("on",),
    retries=2,
    wait_seconds=(5, 30),
)
def merge(model: Model, on: LocalConfig) -> Model:
    """Make adapters part of the weights: a model that any program loads.

    Raises:
        ConfigError: There is nothing to merge, or it cannot be merged.
    """
    if model.base is None:
        raise ConfigError(
            "export: a base model has no adapters to merge (found no tuned model). Export it as it is."
        )
    return _made("merge", model.base, store.resolve(model.uri), on)


@step(cached=False)
def export(model: Model, form: ExportForm, to: str, on: LocalConfig) -> str:
    """Write a model into a folder of its own and return its path.

    Raises:
        ConfigError: The folder holds something, or the model has no such form.
    """
    folder = Path(to).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"to: {folder} is there and not empty. Name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as partial:
        whole = Path(partial) / "model"
        if form == "chatglm":
            whole.mkdir()
            _run("export", model.foundation, store.resolve(model.uri), whole, on)
        else:
            shutil.copytree(
                store.resolve(model.uri), whole, ignore=shutil.ignore_patterns(store.RECORD)
            )
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    return str(folder)


def _made(action: str, base: Model, tuned: Path, on: LocalConfig) -> Model:
    root = store.root_of(base.uri)
    with store.scratch(root) as out:
        _run(action, base, tuned, out, on)
        kind = _record(out)["kind"]
        uri, digest = store.commit(out, root, "models", made(action, base))
    return Model(uri=uri, digest=digest, family=base.family, kind=kind, base=base)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {name: record[name] for name in ("kind", "family", "base_digest")}
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise ConfigError(
            f"{path}: not the record of a tuned model ({type(reason).__name__}: {reason}). "
            "Name a folder that a training wrote."
        ) from reason


def _run(action: str, base: Model, tuned: Path, out: Path, on: LocalConfig) -> None:
    with tempfile.TemporaryDirectory() as work:
        job = Job(
            action=action,  # type: ignore[arg-type]  # one of three literals
            family=base.family,
            base=str(store.resolve(base.uri)),
            base_digest=base.digest,
            tuned=str(tuned),
            out=str(out),
            work=work,
            threads=on.threads,
        )
        with Watch(action, get_run_logger()) as watch:
            plugins.load("backends", "local").run(job, on, watch.line)
