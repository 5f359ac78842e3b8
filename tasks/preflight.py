"""What cannot work, said before anything is spent.

`check` looks at everything that a configuration promises and that can be looked at for free: files, the base
model, the store and its disk, the port. What only the bytes can tell is said by the step that reads them.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tasks import (
    answering,
    asking,
    endpoints,
    models,
    registry,
    sources,
    store,
    training,
    tuned_models,
)
from tasks.config import (
    AnswersConfig,
    BaseConfig,
    EndpointConfig,
    EvaluateConfig,
    ExportConfig,
    FinetuneConfig,
    ModelConfig,
    RegisteredConfig,
    Section,
    ServingConfig,
    StoreConfig,
)
from tasks.errors import ConfigError
from tasks.metrics import protocol

_LEAST_FREE = 256 * 2**20
"""Bytes: room for checkpoints and reports of the smallest run."""


def check(config: FinetuneConfig) -> None:
    """Refuse a configuration that cannot work.

    Raises:
        ConfigError: With the knob, what was found, and what to do.
    """
    for request in config.source.requests():
        sources.check(request)
    size = _base(config.base)
    # at home: a copy of the base, and two checkpoints of the trained weights with two moments each
    whole = config.train.method.kind == "full"
    _store(StoreConfig(uri=store.local()), _LEAST_FREE + (7 if whole else 1) * size)
    _store(config.store, _LEAST_FREE + (size if whole else 0))
    _port(config.name, config.serving)
    protocol.check(config.metrics.measure(), [])


def check_evaluation(config: EvaluateConfig) -> None:
    """Refuse an evaluation that cannot work.

    Raises:
        ConfigError: With the knob, what was found, and what to do.
    """
    for request in config.source.requests():
        sources.check(request)
    _subject(config.subject, "subject")
    _subject(config.against, "against")
    _store(config.store, _LEAST_FREE)
    protocol.check(config.metrics.measure(), [])


def check_export(config: ExportConfig) -> None:
    """Refuse an export that cannot work.

    Raises:
        ConfigError: With the knob, what was found, and what to do.
    """
    tuned_models.target(config.to)
    _store(config.store, _LEAST_FREE)
    _subject(config.subject, "subject")
    if isinstance(config.subject, RegisteredConfig):
        model = registry.model_of(config.subject.name, config.subject.version)
        tuned_models.check_form(config.form, model.family, model.kind)
    elif not config.subject.tuned:
        tuned_models.check_form(config.form, config.subject.base.family, "base")


def _subject(subject: Section, where: str) -> None:
    if isinstance(subject, ModelConfig):
        _base(subject.base, f"{where}.base")
        if subject.tuned:
            tuned_models.check_tuned(subject, where)
    elif isinstance(subject, RegisteredConfig):
        registry.model_of(subject.name, subject.version, where)
    elif isinstance(subject, AnswersConfig):
        answering.answers_file(subject, where)
    elif isinstance(subject, EndpointConfig):
        asking.Endpoint(subject.url, subject.model, subject.seconds, where)


def _base(config: BaseConfig, where: str = "base") -> int:
    """Return the size of the model in bytes, 0 where only a fetch can tell."""
    knob = f"{where}.uri"
    sources.check(replace(config.request(), where=knob))
    if sources.is_remote(config.uri):
        _is_folder(config.uri, knob)
        return 0
    found = sources.files(config.uri, sources.MODEL, knob)
    folder = sources.local_path(config.uri, knob)
    models.check(folder, [path.name for path in found])
    training.fits(folder, config.family, where)
    return sum(path.stat().st_size for path in found)


def _is_folder(uri: str, knob: str) -> None:
    if not uri.lower().startswith(("s3://", "hf://")):
        raise ConfigError(
            f"{knob}: a model is a folder (found {sources.shown(uri)!r}). "
            "Give a path, s3://bucket/prefix or hf://org/name@revision."
        )


def _store(config: StoreConfig, needed: int) -> None:
    store.use(config.uri, config.s3)
    store.check(config.uri)
    # what lies in a bucket is worked on in a mirror on this machine
    _room(store.home() if store.is_remote(config.uri) else store.resolve(config.uri), needed)


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
