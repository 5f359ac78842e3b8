"""Adopt, merge, export: models that came from elsewhere, and models that go elsewhere.

What is done to the weights is the trainer's business (`trainer/exchange/`, `trainer/merging.py`); here it becomes
an artifact of the store, made once. A folder for other programs is a copy: the store is never handed out.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
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

# by name, because a folder of the store holds a record of its own, which is none of the model's files
_TUNED = (
    *("model.json", "adapter_config.json", "config.json", "generation_config.json", "vocab.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*.index.json"),
    *("metrics.jsonl", "*.safetensors", "*.bin", "*.jinja", "*.model", "merges.txt", "vocab.txt"),
)
_RECORD = "model.json"
_ACTIONS = ("tasks/trainer/exchange", "tasks/trainer/merging.py", "tasks/trainer/methods")


class TunedConfig(BaseConfig):
    """Where a tuned model lies."""

    def request(self) -> sources.Request:
        """Return what is to be fetched."""
        return sources.Request(self.uri, _TUNED, "subject.tuned", s3=self.s3)


def place_of(subject: ModelConfig) -> TunedConfig:
    """Return where the tuned model of a configuration lies."""
    return TunedConfig(uri=subject.tuned, family=subject.base.family, s3=subject.base.s3)


def check_tuned(subject: ModelConfig, where: str) -> None:
    """Refuse what cannot be a tuned model of this base, without asking the network.

    Raises:
        ConfigError: Nothing is there, or only ChatGLM's own layout would do.
    """
    request = replace(place_of(subject).request(), where=f"{where}.tuned")
    sources.check(request)
    if sources.is_remote(subject.tuned):
        return
    folder = sources.local_path(subject.tuned, request.where)
    if not folder.is_dir():
        raise ConfigError(
            f"{request.where}: a tuned model is a folder (found the file {subject.tuned!r}). "
            "Name its folder."
        )
    if subject.base.family != "chatglm" and not (folder / _RECORD).is_file():
        raise ConfigError(
            f"{request.where}: {_RECORD} is missing (found {subject.tuned!r}). Name a folder that a "
            "training here wrote; only ChatGLM's own checkpoints are taken over without it."
        )


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
    tuned: Model = fetch_tuned(place_of(subject), base, on=on)
    return tuned


@step(
    sources=("tasks/tuned_models.py", "tasks/fetching.py", "tasks/sources", *_ACTIONS),
    ignoring=("on",),
    retries=4,
    wait_seconds=(2, 8, 32, 60),
)
def fetch_tuned(place: TunedConfig, base: Model, on: LocalConfig) -> Model:
    """Bring a tuned model into the store; an adapter in ChatGLM's own layout is taken over.

    Raises:
        ConfigError: It is none, or does not fit the base.
        TransientError: The network failed; worth another try.
    """
    given = fetching.bring({".": place.request()}, "models", made("fetch_tuned", place, base))
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
            "export: a base model has no adapters to merge (found no tuned model). "
            "Name what was tuned on it."
        )
    return _made("merge", model.base, store.resolve(model.uri), on)


@step(cached=False)
def export(model: Model, form: ExportForm, to: str, on: LocalConfig) -> str:
    """Write a model into a folder of its own and return its path.

    Raises:
        ConfigError: The folder holds something, or the model has no such form.
    """
    folder = target(to)
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


def target(to: str) -> Path:
    """Return the folder that a model is written into.

    Raises:
        ConfigError: None is named, it holds something, or it is a file.
    """
    folder = Path(to).expanduser().absolute()
    if not to.strip():
        raise ConfigError("to: no folder (found an empty name). Name a new folder.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"to: a file lies there (found {str(folder)!r}). Name a new folder.")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"to: the folder is not empty (found {str(folder)!r}). Name a new folder."
        )
    return folder


def check_form(form: ExportForm, family: str, kind: str) -> None:
    """Refuse a form that a model cannot take, before anything is made for it.

    Raises:
        ConfigError: With the forms that it can take.
    """
    adapters = kind in ("lora", "qlora", "prefix")
    if form == "chatglm" and not (family == "chatglm" and adapters):
        raise ConfigError(
            f"form: chatglm is for adapters of ChatGLM (found {kind} of family {family}). "
            f"Choose {'merged or adapter' if adapters else 'merged'}."
        )
    if form == "adapter" and not adapters:
        raise ConfigError(f"form: this model has no adapters (found {kind}). Choose merged.")
    if form == "merged" and kind == "base":
        raise ConfigError(
            "subject.tuned: a base model has no adapters to merge (found no tuned model). "
            "Name what was tuned on it."
        )


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
