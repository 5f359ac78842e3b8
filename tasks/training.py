"""Train and predict: the steps that run the trainer, wherever `on` says.

Both keep their half-done work under their cache key in `work/` of the project's own folder: a run that was
stopped at any moment, started again, goes on from the last checkpoint or the last answered row.
What a job prints becomes log lines of the run, a progress artifact and the bar on the terminal.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from prefect import get_run_logger

from tasks import fetching, models, plugins, store
from tasks.artifacts import Dataset, Model, Predictions
from tasks.config import BaseConfig, LocalConfig
from tasks.progress import Watch
from tasks.provenance import made
from tasks.steps import step
from tasks.trainer.job import UNCUT, DecodeSpec, Job, TrainSpec

_TRAINER = "tasks/trainer/"
_SHARED = tuple(
    _TRAINER + name
    for name in (
        "job.py",
        "model.py",
        "adapters.py",
        "tokenizer.py",
        "template.py",
        "records.py",
        "fitting.py",
        "checkpoint.py",
        "families/__init__.py",
    )
)
_TRAINING = tuple(
    _TRAINER + name
    for name in ("encode.py", "loop.py", "run.py", "batches.py", "objective.py", "tuned.py")
)
_ANSWERING = tuple(_TRAINER + name for name in ("predict.py", "generate.py"))


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
    return Model(uri=base.uri, digest=base.digest, family=config.family, kind="base")


@step(
    sources=(*_SHARED, *_TRAINING, "tasks/trainer/families/{base.family}.py"),
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
        )
        _run(job, on, "training")
        uri, digest = store.commit(out, root, "models", made("train", data, base, spec))
    return Model(uri=uri, digest=digest, family=base.family, kind=spec.method.kind, base=base)


@step(
    sources=(*_SHARED, *_ANSWERING, "tasks/trainer/families/{model.family}.py"),
    ignoring=("on", "system"),
    retries=2,
    wait_seconds=(5, 30),
    name="predict-{system}",
    afterwards=_clear,
)
def predict(
    model: Model, data: Dataset, spec: DecodeSpec, on: LocalConfig, system: str
) -> Predictions:
    """Answer the held-out prompts.

    Args:
        model: Who answers.
        data: Whose prompts.
        spec: How answers are drawn, and of which rows.
        on: Where it runs; never a reason to answer again.
        system: What the model is in this run, `tuned`, `base` or `champion`: the name of the call.

    Raises:
        JobFailed: Generation ended badly; the message holds the last lines of its log.
        TransientError: It was stopped from outside; the next attempt goes on with the next row.
    """
    work = _work(predict.key(model, data, spec, on, system))
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
            train=UNCUT if model.kind == "base" else None,
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


def _run(job: Job, on: LocalConfig, doing: str) -> None:
    with Watch(doing, get_run_logger()) as watch:
        plugins.load("backends", on.kind).run(job, on, watch.line)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
