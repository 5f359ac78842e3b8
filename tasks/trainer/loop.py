"""Trains: reads the rows, lets `run.py` take the optimizer steps, writes the tuned model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import (
    checkpoint,
    encode,
    events,
    families,
    inspection,
    memory,
    model,
    rates,
    tuned,
    verification,
)
from .batches import Schedule
from .encode import Encoded
from .errors import ConfigError
from .job import Job, TrainSpec
from .run import Run
from .sharding import shard
from .stopping import Stop
from .team import Team

_MANY_EPOCHS = 10


def train(job: Job, stop: Stop, team: Team | None = None) -> None:
    """Train as the job says, or continue where an earlier attempt stopped.

    Raises:
        ConfigError: The job cannot work, or its loss diverges.
        DataError: A record is malformed.
        Interrupted: Asked to stop; a checkpoint is saved.
    """
    team = team or Team.single()
    family = families.load(job.family)
    spec = rates.resolved(job.train or TrainSpec(), family)
    _refuse_packing(spec, family)
    job = replace(job, train=spec)
    work = Path(job.work)
    with checkpoint.alone(work, stop, team):
        rates.say(spec, family)
        memory.check_before_loading(job, spec, team)
        loaded = model.load(job, team.device)
        rows, dev = read_rows(job, loaded, spec), _dev(job, loaded, spec)
        parameters = _prepare(job, loaded, spec, team)
        inspection.rows(loaded, [*rows.examples, *dev.examples])
        digest = _fingerprint(job, loaded.template)
        run = Run(loaded, spec, rows.examples, dev.examples, work, digest, stop, team)
        _say(run.schedule, spec, len(rows.examples))
        run.resume()
        kept = run.finish()
        tuned.save(loaded, job, parameters, run.history, _described(rows, run, kept), team)


def read_rows(job: Job, loaded: model.Loaded, spec: TrainSpec) -> Encoded:
    """Return the training rows as tokens, and say how many had to be cut.

    Raises:
        ConfigError: There are none.
        DataError: A record is malformed.
    """
    path = Path(job.data) / "train.jsonl"
    rows = encode.split(path, loaded.family, loaded.tokenizer, spec)
    if not rows.examples:
        raise ConfigError(f"{path}: no rows to train on (found 0). Give it some.")
    longest = max(len(example.input_ids) for example in rows.examples)
    events.text(
        f"{rows.rows:,} rows with {len(rows.examples):,} answers, the longest {longest} tokens; "
        f"cut to their limits: {rows.prompts_cut:,} prompts, {rows.answers_cut:,} answers"
    )
    return rows


def _prepare(job: Job, loaded: model.Loaded, spec: TrainSpec, team: Team) -> tuned.Parameters:
    """Choose what is trained and say it; spread the model over the processes if it is to be."""
    name = type(loaded.model).__name__
    parameters = tuned.prepare_training(loaded, spec)
    share = parameters.trainable / parameters.total
    events.text(
        f"{name} on {loaded.device.type} in {loaded.dtype}: "
        f"{parameters.total:,} parameters, {parameters.trainable:,} ({share:.2%}) of them trained"
    )
    if job.shard:
        shard(loaded, team)
    return parameters


def _say(schedule: Schedule, spec: TrainSpec, examples: int) -> None:
    """Say what epochs or steps come to, and what of it people rarely want."""
    if schedule.batch < spec.global_batch:
        events.text(
            f"warning: global_batch {spec.global_batch:,} is more than the {examples:,} answers there are: "
            "every step reads each of them once"
        )
    events.text(f"{schedule.steps:,} steps of {schedule.batch} rows, {schedule.epochs:.2f} epochs")
    if schedule.epochs > _MANY_EPOCHS:
        few = -(-_MANY_EPOCHS * examples // schedule.batch)
        events.text(
            f"warning: {schedule.epochs:,.0f} epochs read every row so often that the model learns them by "
            f"heart; {_MANY_EPOCHS} epochs are {few:,} steps"
        )


def _refuse_packing(spec: TrainSpec, family: families.Family) -> None:
    if spec.packing and not families.option(family, "PACKS"):
        raise ConfigError(
            f"packing: {families.option(family, 'PACKS_REASON')} Switch train.packing off; rows of "
            "similar length then go together."
        )


def _dev(job: Job, loaded: model.Loaded, spec: TrainSpec) -> Encoded:
    if spec.dev_rows == 0:
        return Encoded([], 0)
    path = Path(job.data) / "dev.jsonl"
    dev = encode.split(path, loaded.family, loaded.tokenizer, spec, spec.dev_rows)
    if not dev.examples and (spec.patience or spec.keep == "best"):
        raise ConfigError(
            f"{path}: no rows to measure the loss on, which patience and keep: best need (found 0). "
            "Hold some out, or set train.patience to 0 and train.keep to last."
        )
    return dev


def _described(rows: Encoded, run: Run, kept: int) -> dict[str, Any]:
    done = run.step / run.schedule.steps
    return {
        "rows": rows.rows,
        "answers": len(rows.examples),
        "prompts_cut": rows.prompts_cut,
        "answers_cut": rows.answers_cut,
        "steps": run.step,
        "kept_step": kept,
        "epochs": round(run.schedule.epochs * done, 6),
        "tokens": run.curve.tokens,
    }


def _fingerprint(job: Job, template: str) -> str:
    """Digest what decides the weights and the metrics."""
    parts = [json.dumps(asdict(job.train or TrainSpec()), sort_keys=True)]
    parts += [job.family, job.base_digest, template]
    for name in ("train.jsonl", "dev.jsonl"):
        path = Path(job.data) / name
        parts.append(verification.sha256(path) if path.is_file() else "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
