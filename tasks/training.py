"""Train and predict: the steps that run the trainer, wherever `on` says.

Both keep their half-done work under their cache key in `work/` of the project's own folder: a run that was
stopped at any moment, started again, goes on from the last checkpoint or the last answered row.
What a job prints becomes log lines of the run, a progress artifact and the bar on the terminal.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from prefect import get_run_logger

from tasks import fetching, models, plugins, store
from tasks.artifacts import Dataset, Model, Predictions
from tasks.config import BaseConfig, LocalConfig
from tasks.errors import ConfigError
from tasks.progress import Watch
from tasks.provenance import made, origin
from tasks.steps import step
from tasks.trainer import families
from tasks.trainer.job import DecodeSpec, Job, TrainSpec, Weights, untrained

WHOLE = Weights()
"""Weights that stand in memory in the number format of the forward pass."""

_TRAINER = "tasks/trainer/"
_AROUND = (
    *("__init__", "__main__", "launch", "orders", "errors", "events", "stopping", "verification"),
    *("serve", "server", "service", "ask", "line", "reply", "stream", "web", "pieces"),
    *("lengths", "merging"),
)
"""Files of the trainer that decide neither weights nor answers."""
_LEARNING = (
    *("loop", "run", "passes", "objective", "optimizer", "curve", "guard", "keeping", "rates"),
    *("inspection", "memory", "footprint", "room", "metering", "streams", "sharding"),
)
"""Files that only training needs."""
_ANSWERING = ("predict", "generate", "drawing")
"""Files that only answering needs."""


def _sources(family: str, *without: tuple[str, ...]) -> tuple[str, ...]:
    """Return the trainer's files but for those named; a new file counts until it is named above."""
    left_out = {name for names in (_AROUND, *without) for name in names}
    files = sorted((store.PROJECT / _TRAINER).glob("*.py"))
    return (
        *(f"{_TRAINER}{path.name}" for path in files if path.stem not in left_out),
        *(f"{_TRAINER}{folder}" for folder in ("architectures", "layouts", "methods")),
        f"{_TRAINER}families/__init__.py",
        f"{_TRAINER}families/{family}.py",
    )


def _work(key: str) -> Path:
    folder = store.home() / "work" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _clear(key: str) -> None:
    shutil.rmtree(store.home() / "work" / key, ignore_errors=True)


@step(
    sources=("tasks/fetching.py", "tasks/models.py", "tasks/sources", "tasks/s3.py"),
    retries=4,
    wait_seconds=(2, 8, 32, 60),
)
def fetch_model(config: BaseConfig) -> Model:
    """Bring the base model into the store.

    Raises:
        ConfigError: There is no model in the transformers layout at the address.
        TransientError: The network failed; worth another try.
    """
    base = fetching.bring({".": config.request()}, "models", made("fetch_model", config))
    models.check(store.resolve(base.uri), base.names)
    fits(store.resolve(base.uri), config.family, "base")
    return Model(uri=base.uri, digest=base.digest, family=config.family, kind="base")


def fits(folder: Path, family: str, where: str) -> None:
    """Refuse a family that does not cover the model of a folder, before rows are measured for it.

    Raises:
        ConfigError: It does not.
    """
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = fields.get("architectures") if isinstance(fields, dict) else None
    found = str(named[0]) if isinstance(named, list) and named else "none"
    covering = [name for name in families.names() if found in families.load(name).ARCHITECTURES]
    if family not in covering:
        choose = f"Choose {' or '.join(covering)}." if covering else "Choose another base model."
        raise ConfigError(
            f"{where}.family: {family} does not cover this model (found {found} in its "
            f"config.json). {choose}"
        )


@step(
    sources=_sources("{base.family}", _ANSWERING),
    ignoring=("on",),
    retries=2,
    wait_seconds=(5, 30),
    name="train-{spec.method.kind}",
    afterwards=_clear,
)
def train(data: Dataset, base: Model, spec: TrainSpec, on: LocalConfig) -> Model:
    """Tune the base model on the dataset; the same inputs anywhere are the same model.

    Raises:
        ConfigError: The trainer cannot do what is asked.
        JobFailed: The training ended badly; the message holds the last lines of its log.
        TransientError: It was stopped from outside; the next attempt resumes.
    """
    work = _work(train.key(data, base, spec, on))
    root = store.root_of(data.uri)
    with store.scratch(root) as out:
        job = Job(
            action="train",
            family=base.family,
            base=str(store.resolve(base.uri)),
            base_digest=base.digest,
            data=str(store.resolve(data.uri)),
            data_digest=data.digest,
            out=str(out),
            work=str(work),
            train=spec,
            threads=on.threads,
            shard=on.shard,
        )
        measured = _run(job, on, "training")
        facts = made("train", data, base, spec) | {
            "base": origin(base),
            "ran": {"processes": on.processes, "shard": on.shard, **measured},
        }
        uri, digest = store.commit(out, root, "models", facts)
    return Model(uri=uri, digest=digest, family=base.family, kind=spec.method.kind, base=base)


@step(
    sources=_sources("{model.family}", _LEARNING),
    ignoring=("on", "system"),
    retries=2,
    wait_seconds=(5, 30),
    name="predict-{system}",
    afterwards=_clear,
)
def predict(
    model: Model,
    data: Dataset,
    spec: DecodeSpec,
    on: LocalConfig,
    system: str,
    weights: Weights = WHOLE,
) -> Predictions:
    """Answer the held-out prompts.

    Args:
        model: Who answers.
        data: Whose prompts.
        spec: How answers are drawn, and of which rows.
        on: Where it runs; never a reason to answer again.
        system: What the model is in this run, `tuned`, `base` or `champion`: the name of the call.
        weights: How a base stands in memory; what was tuned stands as it was trained.

    Raises:
        JobFailed: Generation ended badly; the message holds the last lines of its log.
        TransientError: It was stopped from outside; the next attempt goes on with the next row.
    """
    work = _work(predict.key(model, data, spec, on, system, weights))
    root = store.root_of(data.uri)
    with store.scratch(root) as out:
        job = Job(
            action="predict",
            family=model.family,
            base=str(store.resolve(model.foundation.uri)),
            base_digest=model.foundation.digest,
            tuned=str(store.resolve(model.uri)) if model.base else "",
            data=str(store.resolve(data.uri)),
            data_digest=data.digest,
            out=str(out),
            work=str(work),
            train=untrained(weights) if model.kind == "base" else None,
            decode=spec,
            threads=on.threads,
        )
        _run(job, on, "answering")
        uri, digest = store.commit(out, root, "predictions", made("predict", model, data, spec))
    return Predictions(
        uri=uri,
        digest=digest,
        rows=_count(store.resolve(uri) / "predictions.jsonl"),
        dataset=data.content,
        model=model.digest,
    )


def _run(job: Job, on: LocalConfig, doing: str) -> dict[str, float]:
    """Run a job where `on` says; return the last value of each metric that it printed."""
    with Watch(doing, get_run_logger()) as watch:
        plugins.load("backends", on.kind).run(job, on, watch.line)
    return watch.measured


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
