"""Answers a split of the dataset and keeps what it has, so that a restart pays for no row twice.

The rows are cut into batches of similar length once and for all; a finished batch is one synced append
to the work directory. A restart skips the batches that are there and drops a torn last line. Because the
batches are the same, an interrupted run ends with the bytes of one that was not; rows answered in other
company would differ by rounding. The result is written twice: for us, and as the file that the tools around
the ChatGLM examples read (`generated_predictions.txt`, as `transformers` writes it with `predict_with_generate`
there).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from . import checkpoint, events, generate, model, records
from .errors import ConfigError, DataError, Interrupted
from .job import DecodeSpec, Job
from .stopping import Stop

RESULT = "predictions.jsonl"
PAIRS = "generated_predictions.txt"
"""The same answers, one `{"labels": …, "predict": …}` a line, without blanks around them.

Source: https://github.com/THUDM/ChatGLM2-6B, ptuning/main.py.
"""
_PARTIAL = "answers.jsonl"


def predict(job: Job, stop: Stop) -> None:
    """Answer the rows of a split and write both results, in the split's order.

    Raises:
        ConfigError: The job cannot work.
        DataError: A record is malformed.
        Interrupted: Asked to stop; the finished answers are kept.
    """
    spec = job.decode or DecodeSpec()
    work, path = Path(job.work), Path(job.data) / f"{spec.split}.jsonl"
    with checkpoint.alone(work, stop):
        rows = [row for _, row in islice(records.read(path), spec.rows or None)]
        if not rows:
            raise ConfigError(f"{path}: no rows to answer (found 0). Give it some.")
        loaded = model.load(job)
        ledger = _Ledger(work / _PARTIAL, _fingerprint(job, rows, loaded.template))
        _answer_all(loaded, rows, spec, ledger, stop)
        _write(Path(job.out), rows, ledger.answers)


def _answer_all(
    loaded: model.Loaded,
    rows: list[list[dict[str, str]]],
    spec: DecodeSpec,
    ledger: _Ledger,
    stop: Stop,
) -> None:
    prompts = _prompts(loaded, rows, spec)
    pending = [b for b in generate.batches(prompts, spec) if not ledger.has(b)]
    began, tokens = time.monotonic(), 0
    for batch in pending:
        try:
            answers = generate.reply(loaded, [prompts[row] for row in batch], spec, stop)
        except Interrupted as error:
            answered = f"{len(ledger.answers)} of {len(rows)} rows"
            raise Interrupted(f"interrupted after {answered}; run again to continue.") from error
        ledger.add({row: _said(a) for row, a in zip(batch, answers, strict=True)})
        tokens += sum(answer.answer_tokens for answer in answers)
        events.progress(len(ledger.answers), len(rows), "row")
    seconds = time.monotonic() - began
    if pending:
        events.text(f"{tokens:,} tokens in {seconds:.1f} s, {tokens / seconds:,.0f} tokens/s")


def _said(answer: generate.Answer) -> dict[str, str]:
    return {"prediction": answer.text, "finish": answer.finish}


def _prompts(
    loaded: model.Loaded, rows: list[list[dict[str, str]]], spec: DecodeSpec
) -> list[list[int]]:
    """Return the ids of all prompts; an error names its row."""
    asked = [row[:-1] for row in rows]
    try:
        return generate.encode(loaded, asked, loaded.max_prompt_tokens)
    except DataError:
        for number, messages in enumerate(asked, start=1):
            try:
                generate.encode(loaded, [messages], loaded.max_prompt_tokens)
            except DataError as error:
                raise DataError(f"{spec.split}.jsonl:{number}: {error}") from error
        raise


def _fingerprint(job: Job, rows: list[list[dict[str, str]]], template: str) -> str:
    """Digest what decides the answers."""
    record = Path(job.tuned) / model.RECORD if job.tuned else None
    decode = asdict(job.decode or DecodeSpec())
    parts: list[Any] = [decode, job.family, job.base_digest, rows, template]
    parts.append(record.read_text(encoding="utf-8") if record else asdict(job)["train"])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _write(out: Path, rows: list[list[dict[str, str]]], answers: dict[int, dict[str, str]]) -> None:
    whole, pairs = [], []
    for number, row in enumerate(rows):
        said, reference = answers[number], row[-1]["content"]
        whole.append({"prompt": row[:-1], "reference": reference, **said})
        pairs.append({"labels": reference.strip(), "predict": said["prediction"].strip()})
    out.mkdir(parents=True, exist_ok=True)
    _write_lines(out / PAIRS, pairs)
    _write_lines(out / RESULT, whole)


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write JSON Lines; the file is there when all of them are."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    partial.replace(path)


class _Ledger:
    """The answers so far: a first line that names the job, then a line a batch."""

    def __init__(self, path: Path, job: str) -> None:
        self._path = path
        self.answers: dict[int, dict[str, str]] = {}
        whole = 0
        if path.is_file():
            for line in self._lines(path, job):
                whole += len(line)
        if whole == 0:
            line = json.dumps({"job": job}).encode() + b"\n"
            path.write_bytes(line)
            whole = len(line)
        os.truncate(path, whole)
        if self.answers:
            events.text(f"continues after {len(self.answers)} answered rows")

    def _lines(self, path: Path, job: str) -> Iterator[bytes]:
        """Take up the lines that are whole."""
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
            try:
                found = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            if number == 0 and found != {"job": job}:
                raise ConfigError(
                    f"{path}: answers of another job. Give the job a work directory of its own, "
                    "or clear this one."
                )
            if number > 0:
                self.answers |= {int(row): said for row, said in found.items()}
            yield line

    def has(self, batch: list[int]) -> bool:
        """Say whether a batch is answered."""
        return all(row in self.answers for row in batch)

    def add(self, answers: dict[int, dict[str, str]]) -> None:
        """Keep the answers of a finished batch, on the disk when this returns."""
        with self._path.open("ab") as stream:
            stream.write(json.dumps(answers, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.answers |= answers
