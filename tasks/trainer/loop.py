"""Trains: reads the rows, lets `run.py` take the optimizer steps, writes the tuned model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import checkpoint, encode, events, model, tuned, verification
from .batches import Schedule
from .encode import Encoded
from .errors import ConfigError
from .job import Job, TrainSpec
from .run import Run
from .stopping import Stop


def train(job: Job, stop: Stop) -> None:
    """Train as the job says, or continue where an earlier attempt stopped.

    Raises:
        ConfigError: The job cannot work, or its loss diverges.
        DataError: A record is malformed.
        Interrupted: Asked to stop; a checkpoint is saved.
    """
    spec = job.train or TrainSpec()
    work = Path(job.work)
    with checkpoint.alone(work, stop):
        loaded = model.load(job)
        rows = read_rows(job, loaded, spec)
        dev = _dev(job, loaded, spec)
        parameters = tuned.prepare_training(loaded, spec)
        share = parameters.trainable / parameters.total
        events.text(
            f"{type(loaded.model).__name__} on {loaded.device.type} in {loaded.dtype}: "
            f"{parameters.total:,} parameters, {share:.2%} of them trained"
        )
        job_digest = _fingerprint(job, loaded.template)
        run = Run(loaded, spec, rows.examples, dev.examples, work, job_digest, stop)
        run.resume()
        run.finish()
        tuned.save(loaded, job, parameters, run.history, _described(rows, run.schedule))


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


def _dev(job: Job, loaded: model.Loaded, spec: TrainSpec) -> Encoded:
    if spec.dev_rows == 0:
        return Encoded([], 0)
    path = Path(job.data) / "dev.jsonl"
    return encode.split(path, loaded.family, loaded.tokenizer, spec, spec.dev_rows)


def _described(rows: Encoded, schedule: Schedule) -> dict[str, Any]:
    return {
        "rows": rows.rows,
        "answers": len(rows.examples),
        "prompts_cut": rows.prompts_cut,
        "answers_cut": rows.answers_cut,
        "steps": schedule.steps,
        "epochs": round(schedule.epochs, 6),
    }


def _fingerprint(job: Job, template: str) -> str:
    """Digest what decides the weights and the metrics."""
    parts = [json.dumps(asdict(job.train or TrainSpec()), sort_keys=True)]
    parts += [job.family, job.base_digest, template]
    for name in ("train.jsonl", "dev.jsonl"):
        path = Path(job.data) / name
        parts.append(verification.sha256(path) if path.is_file() else "")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
