"""Imitate, score, judge, publish: from answers to a verdict with its evidence.

`imitate` answers without any model (the floors), `score` measures one set of answers, `judge` compares the
new model with its rivals row by row, `publish` writes the pages of the Prefect UI. Generation is none of their
business: a changed metric never generates again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import orjson

from tasks import baselines, store
from tasks.artifacts import (
    SUMMARY,
    Comparison,
    Dataset,
    Interval,
    Predictions,
    Scores,
    Verdict,
    read,
)
from tasks.config import JudgeConfig, MetricsConfig
from tasks.errors import DataError
from tasks.metrics import faithfulness, protocol, statistics
from tasks.provenance import made
from tasks.steps import step
from tasks.trainer.job import DecodeSpec

Outcome = Literal["pass", "fail", "inconclusive"]

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
        uri, digest = store.commit(out, root, "scores", made("score", answers, config))
    return Scores(
        uri=uri,
        digest=digest,
        protocol=measure.id,
        rows=len(rows),
        empty=sum(not text.strip() for text in predictions),
        metrics=intervals,
        extras=extras,
    )


def _interval(values: list[float], config: MetricsConfig) -> Interval:
    mean, low, high = statistics.interval(values, config.confidence, config.resamples, config.seed)
    return Interval(mean=mean, low=low, high=high)


@step(sources=_READING, retries=4, wait_seconds=_PAUSES)
def judge(scores: dict[str, Scores], config: JudgeConfig, metrics: MetricsConfig) -> Verdict:
    """Decide whether the new model is good enough, from paired differences with each rival.

    *fail* when a rule is broken for certain, *inconclusive* when the rows do not decide a rule, else
    *pass*. Rules: every rival of `config.beats` is exceeded, the champion is not fallen short of by more than
    the margin, enough rows were answered, few answers are empty.

    Args:
        scores: By system: `tuned` is the new model, the others are its rivals.
        config: The rules.
        metrics: Confidence, resamples and seed of the differences' intervals.
    """
    mine = read(scores["tuned"], "scores.jsonl")
    comparisons = [
        _compare(name, metric, mine, read(rival, "scores.jsonl"), metrics)
        for name, rival in sorted(scores.items())
        if name != "tuned"
        for metric in config.metrics
    ]
    broken, open_ = _rules(scores["tuned"], comparisons, config)
    outcome: Outcome = "fail" if broken else "inconclusive" if open_ else "pass"
    reasons = tuple(broken or open_ or _praise(comparisons, config))
    evidence = {
        "outcome": outcome,
        "reasons": reasons,
        "comparisons": [comparison.model_dump() for comparison in comparisons],
    }
    root = store.root_of(scores["tuned"].uri)
    with store.scratch(root) as out:
        text = json.dumps(evidence, indent=2, ensure_ascii=False)
        (out / "verdict.json").write_text(text, encoding="utf-8")
        facts = made("judge", *scores.values(), config, metrics)
        uri, digest = store.commit(out, root, "verdicts", facts)
    return Verdict(
        uri=uri, digest=digest, outcome=outcome, reasons=reasons, comparisons=tuple(comparisons)
    )


def _compare(
    rival: str,
    metric: str,
    mine: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    config: MetricsConfig,
) -> Comparison:
    if len(mine) != len(theirs):
        raise DataError(
            f"{rival}: answered other rows than the new model (found {len(theirs)} and {len(mine)}). "
            "Compare answers to the same dataset."
        )
    mean, low, high = statistics.paired_difference(
        [row[metric] for row in mine],
        [row[metric] for row in theirs],
        config.confidence,
        config.resamples,
        config.seed,
    )
    return Comparison(
        rival=rival, metric=metric, difference=Interval(mean=mean, low=low, high=high)
    )


def _rules(
    scores: Scores, comparisons: list[Comparison], config: JudgeConfig
) -> tuple[list[str], list[str]]:
    """Return what is broken for certain and what the rows leave open."""
    broken: list[str] = []
    open_: list[str] = []
    if scores.empty > config.max_empty * scores.rows:
        broken.append(f"{scores.empty} of {scores.rows} answers are empty")
    if scores.rows < config.min_rows:
        open_.append(f"{scores.rows} rows were answered, {config.min_rows} are needed")
    for comparison in comparisons:
        needed = _needed(comparison.rival, config)
        if needed is None:
            continue
        if comparison.difference.high <= needed:
            broken.append(f"does not beat {_difference(comparison)}")
        elif comparison.difference.low <= needed:
            open_.append(f"is not surely better than {_difference(comparison)}")
    return broken, open_


def _needed(rival: str, config: JudgeConfig) -> float | None:
    """Return what the difference to a rival must exceed, in points; None when it does not matter."""
    if rival == "champion":
        return -config.champion_margin
    return 0.0 if rival in config.beats else None


def _difference(comparison: Comparison) -> str:
    by = comparison.difference
    metric = comparison.metric.upper().replace("_", "-")
    return f"{comparison.rival} on {metric} by {by.mean:+.1f} ({by.low:+.1f} to {by.high:+.1f})"


def _praise(comparisons: list[Comparison], config: JudgeConfig) -> list[str]:
    counted = [one for one in comparisons if _needed(one.rival, config) is not None]
    return [f"beats {_difference(one)}" for one in counted] or ["no rule was broken"]
