"""Imitate, score, judge, publish: from answers to a verdict with its evidence.

`imitate` answers without any model (the floors), `score` measures one set of answers, `judge` compares the
new model with its rivals row by row, `publish` writes the pages of the Prefect UI. Generation is none of their
business: a changed metric never generates again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from tasks import baselines, judging, store
from tasks.artifacts import (
    SLICES,
    SUMMARY,
    Comparison,
    Dataset,
    Interval,
    Predictions,
    Scores,
    Verdict,
    read,
)
from tasks.comparing import by_row
from tasks.config import JudgeConfig, MetricsConfig
from tasks.errors import DataError
from tasks.metrics import faithfulness, protocol, statistics
from tasks.metrics.slices import slices
from tasks.provenance import made
from tasks.steps import step
from tasks.trainer.job import DecodeSpec

_PAUSES = (2, 8, 32, 60)
"""Seconds before another try, when the store of the answers is in a bucket that does not answer."""
_READING = ("tasks/evaluation.py", "tasks/metrics")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


@step(
    sources=("tasks/evaluation.py", "tasks/baselines.py", "tasks/metrics/attributes.py"),
    retries=4,
    wait_seconds=_PAUSES,
    name="imitate-{name}",
)
def imitate(data: Dataset, name: str, spec: DecodeSpec) -> Predictions:
    """Answer the held-out prompts without a model: the floor that a model must clear."""
    train = [_pair(row["messages"]) for row in read(data, "train.jsonl")]
    asked = read(data, f"{spec.split}.jsonl")[: spec.rows or None]
    prompts = [_pair(row["messages"]).prompt for row in asked]
    answers = baselines.answer(name, train, prompts, spec.seed)
    rows = [
        {
            "prompt": row["messages"][:-1],
            "reference": row["messages"][-1]["content"],
            "prediction": answer,
            "finish": "stop",
        }
        for row, answer in zip(asked, answers, strict=True)
    ]
    root = store.root_of(data.uri)
    with store.scratch(root) as out:
        _write(out / "predictions.jsonl", rows)
        uri, digest = store.commit(out, root, "predictions", made("imitate", data, spec))
    return Predictions(uri=uri, digest=digest, rows=len(rows), dataset=data.content, model="")


def _pair(messages: list[dict[str, str]]) -> baselines.Row:
    return baselines.Row(messages[-2]["content"], messages[-1]["content"])


@step(
    sources=_READING,
    packages=("jieba", "rapidfuzz"),
    ignoring=("system",),
    retries=4,
    wait_seconds=_PAUSES,
    name="score-{system}",
)
def score(answers: Predictions, config: MetricsConfig, system: str) -> Scores:
    """Measure answers against their references: means with bootstrap intervals, and each row.

    Args:
        answers: What was answered.
        config: The protocol, and how intervals are drawn.
        system: Who answered, for the name of the call.

    Raises:
        DataError: There is no answer.
    """
    rows = read(answers, "predictions.jsonl")
    if not rows:
        raise DataError(f"{answers.uri}: no answers to score (found 0). Answer some rows first.")
    predictions = [row["prediction"] for row in rows]
    references = [row["reference"] for row in rows]
    measure = config.measure()
    scored = protocol.score_rows(measure, predictions, references)
    intervals = {name: _interval([row[name] for row in scored], config) for name in scored[0]}
    prompts = [row["prompt"][-1]["content"] for row in rows]
    extras = faithfulness.extras(prompts, predictions, references, [row["finish"] for row in rows])
    root = store.root_of(answers.uri)
    normalised = measure.normalise == "nfkc"
    summary = {
        "protocol": measure.id,
        "measure": measure.facts(),
        "details": faithfulness.details(prompts, predictions, references, normalised),
        "metrics": {name: value.model_dump() for name, value in intervals.items()},
        "extras": extras,
    }
    with store.scratch(root) as out:
        _write(out / "scores.jsonl", scored)
        (out / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False))
        members = slices(prompts, references)
        (out / SLICES).write_text(json.dumps(members, ensure_ascii=False), encoding="utf-8")
        uri, digest = store.commit(out, root, "scores", made("score", answers, config))
    return Scores(
        uri=uri,
        digest=digest,
        protocol=measure.id,
        dataset=answers.dataset,
        rows=len(rows),
        empty=sum(not text.strip() for text in predictions),
        metrics=intervals,
        extras=extras,
    )


def _interval(values: list[float], config: MetricsConfig) -> Interval:
    mean, low, high = statistics.interval(values, config.confidence, config.resamples, config.seed)
    return Interval(mean=mean, low=low, high=high)


@step(
    sources=(*_READING, "tasks/judging.py", "tasks/comparing.py"),
    packages=("numpy",),
    retries=4,
    wait_seconds=_PAUSES,
)
def judge(scores: dict[str, Scores], config: JudgeConfig, metrics: MetricsConfig) -> Verdict:
    """Decide whether the new model is good enough, from paired differences with each rival (`judging.py`).

    Args:
        scores: By system: `tuned` is the new model, the others are its rivals.
        config: The rules.
        metrics: Confidence, resamples and seed of the differences' intervals.

    Raises:
        DataError: The systems did not answer the same rows, or were not scored alike.
    """
    rules = _rules(config, metrics)
    scored = _scored(scores)
    whole = judging.differences(scored, rules)
    parts = judging.by_slice(scored, _slices(scores["tuned"]), rules)
    tuned = scores["tuned"]
    outcome, findings = judging.decide(scored["tuned"], tuned.empty, whole, parts, rules)
    evidence = {
        "outcome": outcome,
        "protocol": tuned.protocol,
        "rules": asdict(rules),
        "findings": [asdict(finding) for finding in findings],
        "differences": [asdict(one) for one in whole],
        "slices": [asdict(one) for one in parts],
    }
    root = store.root_of(tuned.uri)
    with store.scratch(root) as out:
        text = json.dumps(evidence, indent=2, ensure_ascii=False)
        (out / "verdict.json").write_text(text, encoding="utf-8")
        facts = made("judge", *scores.values(), config, metrics)
        uri, digest = store.commit(out, root, "verdicts", facts)
    decisive = {"fail": "broken", "inconclusive": "open", "pass": "holds"}[outcome]
    told = [finding for finding in findings if finding.state == decisive]
    by_weight = sorted(told, key=lambda finding: finding.rule in ("rows", "empty", "slice"))
    return Verdict(
        uri=uri,
        digest=digest,
        outcome=outcome,
        reasons=tuple(finding.told for finding in by_weight),
        comparisons=tuple(map(_comparison, whole)),
    )


def _rules(config: JudgeConfig, metrics: MetricsConfig) -> judging.Rules:
    return judging.Rules(
        beats=tuple(config.beats),
        metrics=tuple(config.metrics),
        floors={str(metric): floor for metric, floor in config.floors.items()},
        champion_margin=config.champion_margin,
        slice_margin=config.slice_margin,
        min_rows=config.min_rows,
        max_empty=config.max_empty,
        confidence=metrics.confidence,
        resamples=metrics.resamples,
        seed=metrics.seed,
    )


def _scored(scores: dict[str, Scores]) -> dict[str, judging.Scored]:
    """Return the scores of each row by system and metric.

    Raises:
        DataError: The systems did not answer the same rows, or were not scored alike.
    """
    tuned = scores["tuned"]
    found: dict[str, judging.Scored] = {}
    for name, one in scores.items():
        if one.protocol != tuned.protocol:
            raise DataError(
                f"{name}: scored by another protocol than the new model (found {one.protocol} and "
                f"{tuned.protocol}). Score both alike."
            )
        if one.rows != tuned.rows:
            raise DataError(
                f"{name}: answered other rows than the new model (found {one.rows} and "
                f"{tuned.rows}). Compare answers to the same dataset."
            )
        found[name] = by_row(one)
    return found


def _slices(scores: Scores) -> dict[str, list[int]]:
    path = store.resolve(scores.uri) / SLICES
    members: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8"))
    return members


def _comparison(one: judging.Difference) -> Comparison:
    by = Interval(mean=one.mean, low=one.low, high=one.high)
    return Comparison(rival=one.rival, metric=one.metric, difference=by, p=one.p)
