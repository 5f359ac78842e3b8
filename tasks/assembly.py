"""From the artifacts of a run to what its page shows.

Reads files and fills `reports/html/report.py`; how a page looks is decided there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import PurePath
from typing import Any

from tasks import sources, store
from tasks.artifacts import (
    SUMMARY,
    Dataset,
    Interval,
    Model,
    Predictions,
    Registration,
    Scores,
    Verdict,
    read,
)
from tasks.config import (
    AnswersConfig,
    EndpointConfig,
    EvaluateConfig,
    FinetuneConfig,
    MetricsConfig,
    ModelConfig,
    RegisteredConfig,
    Section,
)
from tasks.judging import INCUMBENTS
from tasks.ledger import Ledger
from tasks.metrics import attributes, faithfulness, statistics
from tasks.metrics.slices import slices
from tasks.reports.html import report as shown
from tasks.reports.html.answers import chosen
from tasks.reports.pictures import Point

# Source: https://github.com/THUDM/ChatGLM-6B, ptuning/README_en.md: AdvertiseGen, P-Tuning v2
_PUBLISHED = [
    shown.Published(
        "ChatGLM-6B, P-Tuning v2",
        "AdvertiseGen, references cut to 64 tokens, half-width punctuation, sampled, 1,070 rows",
        {"rouge_1": 31.12, "rouge_2": 7.11, "rouge_l": 24.97, "bleu_4": 8.10},
    )
]
_BY = "bleu_4"
_ENOUGH = 30


def evaluation(
    data: Dataset,
    answers: Mapping[str, Predictions],
    scores: Mapping[str, Scores],
    verdict: Verdict,
    config: MetricsConfig,
) -> shown.RunReport:
    """Return what a page shows of answers and their scores, wherever they came from."""
    said = {name: read(given, "predictions.jsonl") for name, given in answers.items()}
    rows = {name: read(given, "scores.jsonl") for name, given in scores.items()}
    rival = next((name for name in ("base", "champion", "against") if name in rows), None)
    beside = rows[rival] if rival else rows["tuned"]
    return shown.RunReport(
        run=shown.Run(name="evaluation", rows=data.records),
        verdict=shown.Decision(verdict.outcome, verdict.reasons),
        scores=_board(scores, said, verdict, config),
        slices=_slices(said["tuned"], rows["tuned"], config),
        spreads=[
            shown.Spread(metric, [r[metric] for r in rows["tuned"]], [r[metric] for r in beside])
            for metric in scores["tuned"].metrics
            if rival == "base"
        ],
        answers=chosen(_answered(said, rows), by=_BY, seed=config.seed),
        data=_account(Ledger.read(store.resolve(data.uri))),
        lineage=shown.Lineage(
            digests={
                "dataset": data.digest,
                "answers": answers["tuned"].digest,
                "scores": scores["tuned"].digest,
                "verdict": verdict.digest,
            },
            seeds={"bootstrap": config.seed},
        ),
    )


def run_report(
    data: Dataset,
    model: Model,
    answers: Mapping[str, Predictions],
    scores: Mapping[str, Scores],
    verdict: Verdict,
    entry: Registration,
    config: FinetuneConfig,
) -> shown.RunReport:
    """Return what the page of a run shows."""
    page = evaluation(data, answers, scores, verdict, config.metrics)
    spec = _flat(asdict(config.train))
    facts = store.record(model.uri)["made"]
    trained = {
        "dataset": data.digest,
        "base model": model.foundation.digest,
        "model": model.digest,
    }
    return replace(
        page,
        run=shown.Run(
            name=entry.name,
            version=str(entry.version),
            base=f"{model.family} ({model.foundation.digest[:8]})",
            method=spec["method.kind"],
            rows=data.records,
        ),
        verdict=shown.Decision(verdict.outcome, verdict.reasons, _override(verdict, config)),
        training=shown.Training(points(model)),
        lineage=shown.Lineage(
            digests={**trained, **(page.lineage.digests if page.lineage else {})},
            base_revision=config.base.uri,
            spec=spec,
            seeds={"training": config.train.seed, "bootstrap": config.metrics.seed},
            versions=facts["versions"],
        ),
        repeat=command(config),
    )


def evaluation_report(
    data: Dataset,
    answers: Mapping[str, Predictions],
    scores: Mapping[str, Scores],
    verdict: Verdict,
    config: EvaluateConfig,
) -> shown.RunReport:
    """Return what the page of an evaluation shows."""
    page = evaluation(data, answers, scores, verdict, config.metrics)
    rival = _who(config.against)
    named = f"{_who(config.subject)} against {rival}" if rival else _who(config.subject)
    return replace(page, run=shown.Run(name=named, rows=data.records))


def _who(subject: Section) -> str:
    """Return what a person calls a system."""
    if isinstance(subject, RegisteredConfig):
        return f"{subject.name}, {f'version {subject.version}' if subject.version else 'champion'}"
    if isinstance(subject, ModelConfig):
        return sources.shown(subject.tuned or subject.base.uri)
    if isinstance(subject, EndpointConfig):
        address = sources.shown(subject.url)
        return f"{subject.model} at {address}" if subject.model else address
    return PurePath(subject.path).name if isinstance(subject, AnswersConfig) else ""


def points(model: Model) -> list[Point]:
    """Return what was measured while a model was trained."""
    return [
        Point(row["step"], row.get("loss"), row.get("dev_loss"))
        for row in read(model, "metrics.jsonl")
    ]


def command(config: FinetuneConfig) -> str:
    """Return what to type for the same run: every knob that is not at its default."""
    usual, mine = _flat(_dumped(FinetuneConfig())), _flat(_dumped(config))
    chosen = [
        f"--{name} {shlex.quote(value)}" for name, value in mine.items() if usual.get(name) != value
    ]
    return " ".join(["python -m flows.finetune", *chosen])


def _dumped(config: FinetuneConfig) -> dict[str, Any]:
    return config.model_dump() | {"source": config.source.recorded()}


def _override(verdict: Verdict, config: FinetuneConfig) -> shown.Override | None:
    overridden = verdict.outcome != "pass" and config.serving.when == "always"
    return shown.Override("served, because serving.when is always") if overridden else None


def _board(
    scores: Mapping[str, Scores],
    said: Mapping[str, list[dict[str, Any]]],
    verdict: Verdict,
    config: MetricsConfig,
) -> shown.Scoreboard:
    order = [name for name in shown.TITLES if name in scores]
    systems = []
    for name in [*order, *sorted(set(scores) - set(order))]:
        one = scores[name]
        systems.append(
            shown.System(name, one.rows, one.metrics, one.extras, one.empty, one.protocol)
        )
    prompts = [row["prompt"][-1]["content"] for row in said["tuned"]]
    references = [row["reference"] for row in said["tuned"]]
    by_people = faithfulness.extras(prompts, references, references, ["stop"] * len(prompts))
    systems.append(shown.System("references", len(prompts), extras=by_people))
    summary = store.resolve(scores["tuned"].uri) / SUMMARY
    warning = json.loads(summary.read_text(encoding="utf-8"))["details"]["width_warning"]
    differences = [
        # against a champion the p-value is of the margin, which the page does not show
        shown.Difference(
            one.rival, one.metric, one.difference, None if one.rival in INCUMBENTS else one.p
        )
        for one in verdict.comparisons
    ]
    return shown.Scoreboard(
        systems,
        differences,
        {
            "resamples": f"{config.resamples:,}",
            "seed": str(config.seed),
            **{name: str(value) for name, value in asdict(config.measure()).items()},
        },
        config.confidence,
        [warning] if warning else [],
        _PUBLISHED if attributes.describes_attributes(prompts) else [],
    )


def _slices(
    said: list[dict[str, Any]], rows: list[dict[str, float]], config: MetricsConfig
) -> shown.Slices:
    prompts = [row["prompt"][-1]["content"] for row in said]
    parts = []
    for name, members in slices(prompts, [row["reference"] for row in said], least=5).items():
        kind, _, part = name.partition(": ")
        metrics = {
            metric: _interval([rows[at][metric] for at in members], config) for metric in rows[0]
        }
        parts.append(shown.Slice(kind, part, len(members), metrics))
    return shown.Slices(parts, _BY, _ENOUGH)


def _interval(values: Sequence[float], config: MetricsConfig) -> Interval:
    mean, low, high = statistics.interval(values, config.confidence, config.resamples, config.seed)
    return Interval(mean=mean, low=low, high=high)


def _answered(
    said: Mapping[str, list[dict[str, Any]]], rows: Mapping[str, list[dict[str, float]]]
) -> list[shown.Answered]:
    systems = [name for name in ("base", "champion", "against", "tuned") if name in said]
    prompts = [row["prompt"][-1]["content"] for row in said["tuned"]]
    against = faithfulness.contradicted(prompts, [row["prediction"] for row in said["tuned"]]) or []
    found = []
    for at, row in enumerate(said["tuned"]):
        *history, last = row["prompt"]
        found.append(
            shown.Answered(
                number=at + 1,
                prompt=last["content"],
                reference=row["reference"],
                answers={name: said[name][at]["prediction"] for name in systems},
                scores={name: rows[name][at] for name in systems},
                missed=attributes.missed(last["content"], row["prediction"]),
                contradicted=(against[at] if against else None) or [],
                cut=[name for name in systems if said[name][at]["finish"] == "length"],
                history=[(message["role"], message["content"]) for message in history],
            )
        )
    return found


def _account(ledger: Ledger) -> shown.DataAccount:
    overlap, dev = ledger.overlap, ledger.kept["dev"]
    leaks = []
    if overlap:
        run = f"dev rows that share {overlap.run_characters} characters with a training answer"
        leaks = [
            shown.Share(
                "dev rows whose prompt is trained on", overlap.dev_with_trained_prompt, dev
            ),
            shown.Share(run, overlap.dev_with_shared_run, overlap.dev_looked_at),
            shown.Share("near-duplicates", overlap.near_rows, overlap.near_looked_at),
        ]
    facts = {"format": ledger.format, "splits told apart by": ledger.split_by}
    facts |= {"around each prompt": ledger.template} if ledger.template else {}
    return shown.DataAccount(
        ledger.rows,
        ledger.kept,
        ledger.duplicates,
        ledger.reasons,
        leaks,
        facts,
        ledger.beyond_limit,
    )


def _flat(fields: Mapping[str, Any], under: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{under}{name}.")
        else:
            flat[f"{under}{name}"] = str(value)
    return flat
