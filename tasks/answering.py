"""Answers from anywhere: a registered model, any base or tuned model, an endpoint, a file of answers.

What `flows/evaluate.py` scores. A model is asked by the trainer, as in a fine-tuning run and from the same cache.
An endpoint is asked row by row; each answer is kept on the disk before the next is asked for, so that a run that
was stopped pays for none twice. A file is checked against the rows that it claims to answer.
"""

from __future__ import annotations

import fcntl
import os
from functools import singledispatch
from pathlib import Path
from typing import Any

import orjson

from tasks import sources, store
from tasks.artifacts import Dataset, Predictions, read
from tasks.asking import Endpoint
from tasks.config import (
    AnswersConfig,
    EndpointConfig,
    LocalConfig,
    ModelConfig,
    RegisteredConfig,
    Section,
)
from tasks.errors import ConfigError, DataError
from tasks.provenance import made
from tasks.reports.progress import Bar
from tasks.steps import step
from tasks.trainer.job import DecodeSpec
from tasks.training import predict
from tasks.tuned_models import model_of

RESULT = "predictions.jsonl"


@singledispatch
def answers_of(
    subject: Section, data: Dataset, spec: DecodeSpec, on: LocalConfig, system: str
) -> Predictions:
    """Return a system's answers to the held-out rows.

    Args:
        subject: Who answers.
        data: Whose rows.
        spec: Which rows, and how answers are drawn.
        on: Where a model runs.
        system: What the subject is in this run: the name of the call.

    Raises:
        ConfigError: There is no such model, server or file.
        DataError: The answers are not to these rows.
    """
    raise TypeError(f"{type(subject).__name__} does not answer")


@answers_of.register(RegisteredConfig)
@answers_of.register(ModelConfig)
def _(
    subject: RegisteredConfig | ModelConfig,
    data: Dataset,
    spec: DecodeSpec,
    on: LocalConfig,
    system: str,
) -> Predictions:
    said: Predictions = predict(model_of(subject, on), data, spec, on=on, system=system)
    return said


@answers_of.register
def _(
    subject: EndpointConfig, data: Dataset, spec: DecodeSpec, on: LocalConfig, system: str
) -> Predictions:
    said: Predictions = ask(subject, data, spec, system)
    return said


@answers_of.register
def _(
    subject: AnswersConfig, data: Dataset, spec: DecodeSpec, on: LocalConfig, system: str
) -> Predictions:
    file = answers_file(subject, "answers")
    said: Predictions = take(store.file_digest(file), str(file), data, spec, system)
    return said


def answers_file(subject: AnswersConfig, where: str) -> Path:
    """Return the one file that holds the answers.

    Raises:
        ConfigError: None is named or there, or there are several.
    """
    if not subject.path:
        raise ConfigError(f"{where}.path: no file of answers (found none). Name it.")
    found = sources.files(subject.path, ("*.jsonl", "*.txt", "*.json"), f"{where}.path")
    if len(found) != 1:
        some = ", ".join(path.name for path in found[:4])
        raise ConfigError(
            f"{where}.path: one file is needed (found {len(found)}: {some}). Name it."
        )
    return found[0]


@step(cached=False, name="ask-{system}", retries=2, wait_seconds=(5, 30))
def ask(subject: EndpointConfig, data: Dataset, spec: DecodeSpec, system: str) -> Predictions:
    """Let a server answer the rows, one after the other.

    Raises:
        ConfigError: There is no server, or it refuses the key.
        TransientError: It does not answer in time; what it has answered is kept.
    """
    rows = _asked(data, spec)
    endpoint = Endpoint(subject.url, subject.model, subject.seconds)
    kept = store.home() / "work" / "asked" / f"{endpoint.key(data.content, spec)}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.open("ab") as file, Bar("answering") as bar:
        fcntl.flock(file, fcntl.LOCK_EX)  # two at once would mix their answers
        said = _whole_lines(kept)[: len(rows)]
        for row in rows[len(said) :]:
            answer = endpoint.answer(row["messages"][:-1], spec)
            said.append({"prediction": answer.text, "finish": answer.finish})
            file.write(orjson.dumps(said[-1], option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(said), len(rows), "row")
        taken = _commit(rows, said, data, made("ask", subject, data, spec), endpoint.model)
        os.truncate(kept, 0)  # not removed: another run may wait for its lock
    return taken


@step(sources=("tasks/answering.py",), ignoring=("path", "system"), name="take-{system}")
def take(digest: str, path: str, data: Dataset, spec: DecodeSpec, system: str) -> Predictions:
    """Read answers from a file.

    Raises:
        DataError: A line is no answer, or they are not answers to these rows.
    """
    rows = _asked(data, spec)
    said = [_read(line, f"{path}:{number}") for number, line in enumerate(_lines(path), 1)]
    if len(said) != len(rows):
        raise DataError(
            f"{path}: other rows were answered (found {len(said):,} answers to {len(rows):,} "
            f"{spec.split} rows). Score it with the rows that it answers, in their order."
        )
    for number, (row, answer) in enumerate(zip(rows, said, strict=True), 1):
        label, reference = answer.pop("label"), row["messages"][-1]["content"]
        if label is not None and not _same(label, reference):
            raise DataError(
                f"{path}:{number}: answers another row (found the reference {label[:40]!r}, "
                f"the row has {reference[:40]!r}). Score it with the rows that it answers."
            )
    facts = made("take", data, spec) | {"file": digest}
    return _commit(rows, said, data, facts, "")


def _same(label: str, reference: str) -> bool:
    """Say whether a label is a reference, or the beginning of it: the published scripts cut theirs."""
    plain = "".join(label.split())
    return bool(plain) and "".join(reference.split()).startswith(plain)


def _read(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as reason:
        raise DataError(
            f"{where}: not a JSON object ({reason}). Write one answer a line."
        ) from None
    for answer, label in (("prediction", "reference"), ("predict", "labels")):
        if isinstance(row, dict) and isinstance(row.get(answer), str):
            return {
                "prediction": row[answer],
                "finish": row.get("finish", "stop"),
                "label": row.get(label),
            }
    found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
    raise DataError(
        f"{where}: no answer (found {found}). A line needs prediction, or labels and predict."
    )


def _lines(path: str) -> list[bytes]:
    return [line for line in Path(path).read_bytes().splitlines() if line.strip()]


def _asked(data: Dataset, spec: DecodeSpec) -> list[dict[str, Any]]:
    return read(data, f"{spec.split}.jsonl")[: spec.rows or None]


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the answers of an earlier try; a torn last line is cut off."""
    whole, line_end, _ = path.read_bytes().rpartition(b"\n")
    os.truncate(path, len(whole + line_end))
    return [orjson.loads(line) for line in whole.splitlines()]


def _commit(
    rows: list[dict[str, Any]],
    said: list[dict[str, Any]],
    data: Dataset,
    facts: dict[str, Any],
    model: str,
) -> Predictions:
    root = store.root_of(data.uri)
    with store.scratch(root) as out:
        with (out / RESULT).open("wb") as file:
            for row, answer in zip(rows, said, strict=True):
                *prompt, last = row["messages"]
                whole = {"prompt": prompt, "reference": last["content"], **answer}
                file.write(orjson.dumps(whole, option=orjson.OPT_APPEND_NEWLINE))
        uri, digest = store.commit(out, root, "predictions", facts)
    return Predictions(uri=uri, digest=digest, rows=len(rows), dataset=data.content, model=model)
