"""Publish: the pages of a run in the Prefect UI.

Artifacts of the UI belong to a run, not to a result: they are made anew each time, also when every step before was
served from the cache. What the pages say is decided in `reports/`; this file reads the artifacts and hands them over.
"""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from tasks import assembly, store
from tasks.artifacts import (
    Artifact,
    DataCard,
    Dataset,
    Model,
    Predictions,
    Registration,
    Report,
    Scores,
    Verdict,
    read,
)
from tasks.config import EvaluateConfig, FinetuneConfig
from tasks.describing import CARD
from tasks.metrics import attributes
from tasks.provenance import made
from tasks.reports import evaluation as evaluation_report
from tasks.reports import training as training_report
from tasks.reports.html.page import render
from tasks.steps import step
from tasks.trainer.job import TrainSpec

REPORT = "report.html"


@step(cached=False, retries=2, wait_seconds=(2, 8), vital=False)
def publish(
    data: Dataset,
    card: DataCard,
    model: Model,
    answers: dict[str, Predictions],
    scores: dict[str, Scores],
    verdict: Verdict,
    entry: Registration,
    config: FinetuneConfig,
) -> Report:
    """Write the pages: data card, training curve, scores, answers side by side, the report, links to the files."""
    page = (store.resolve(card.uri) / CARD).read_text(encoding="utf-8")
    create_markdown_artifact(page, key="data-card", description="What was trained on")
    create_markdown_artifact(
        training_page(model, config.train),
        key="training-curve",
        description="How the training went",
    )
    create_markdown_artifact(
        evaluation_report.score_table(scores, verdict, config.metrics.confidence),
        key="scores",
        description=f"Verdict: {verdict.outcome}",
    )
    create_markdown_artifact(
        side_by_side(answers, scores["tuned"]),
        key="side-by-side",
        description="Prompts with the answers before and after",
    )
    report = _report(data, model, answers, scores, verdict, entry, config)
    for key, artifact in (
        ("report", report),
        ("files-dataset", data),
        ("files-data-card", card),
        ("files-model", model),
        ("files-answers", answers["tuned"]),
        ("files-scores", scores["tuned"]),
    ):
        _link(key, artifact)
    return report


def _link(key: str, artifact: Artifact) -> None:
    remote = store.is_remote(artifact.uri)
    link = artifact.uri if remote else store.resolve(artifact.uri).as_uri()
    create_link_artifact(link, key=key, link_text=artifact.uri)


def _report(
    data: Dataset,
    model: Model,
    answers: dict[str, Predictions],
    scores: dict[str, Scores],
    verdict: Verdict,
    entry: Registration,
    config: FinetuneConfig,
) -> Report:
    """Write the run on one page, into the store."""
    page = assembly.run_report(data, model, answers, scores, verdict, entry, config)
    return _written(render(page), verdict, config)


@step(cached=False, retries=2, wait_seconds=(2, 8), vital=False)
def publish_evaluation(
    data: Dataset,
    answers: dict[str, Predictions],
    scores: dict[str, Scores],
    verdict: Verdict,
    config: EvaluateConfig,
) -> Report:
    """Write the pages of an evaluation: scores and the report."""
    create_markdown_artifact(
        evaluation_report.score_table(scores, verdict, config.metrics.confidence),
        key="scores",
        description=f"Verdict: {verdict.outcome}",
    )
    page = assembly.evaluation_report(data, answers, scores, verdict, config)
    report = _written(render(page), verdict, config)
    _link("report", report)
    return report


def _written(page: str, verdict: Verdict, config: FinetuneConfig | EvaluateConfig) -> Report:
    root = store.root_of(verdict.uri)
    with store.scratch(root) as out:
        (out / REPORT).write_text(page, encoding="utf-8")
        uri, digest = store.commit(out, root, "reports", made("publish", verdict, config))
    return Report(uri=uri, digest=digest)


def training_page(model: Model, spec: TrainSpec) -> str:
    """Return the page of a training, in markdown."""
    return training_report.training_page(assembly.points(model), spec)


def side_by_side(answers: dict[str, Predictions], scores: Scores) -> str:
    """Return the page that shows answers beside each other, in markdown."""
    return evaluation_report.side_by_side(rows_side_by_side(answers, scores))


def rows_side_by_side(
    answers: dict[str, Predictions], scores: Scores
) -> list[evaluation_report.Answer]:
    """Return each answered row with what the tuned and the base model said."""
    tuned = read(answers["tuned"], "predictions.jsonl")
    base = read(answers["base"], "predictions.jsonl")
    measured = read(scores, "scores.jsonl")
    return [_answer(*row) for row in zip(tuned, base, measured, strict=True)]


def _answer(
    tuned: dict[str, Any], base: dict[str, Any], measured: dict[str, float]
) -> evaluation_report.Answer:
    prompt = tuned["prompt"][-1]["content"]
    return evaluation_report.Answer(
        prompt=prompt,
        reference=tuned["reference"],
        tuned=tuned["prediction"],
        base=base["prediction"],
        scores=measured,
        missed=attributes.missed(prompt, tuned["prediction"]),
    )
