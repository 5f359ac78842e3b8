"""Register, deploy, remove: from a judged model to a served one.

Register and deploy are done again in every run and come to the same by name: a model is registered once,
and an endpoint that already serves it stays up. What is served must prove itself: its answers to the golden
prompts of the run have to be the offline ones, else it is stopped, the run fails, and what was served before stays.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
from prefect import get_run_logger
from prefect.artifacts import create_link_artifact

from tasks import endpoints, registry, store
from tasks.artifacts import Endpoint, Model, Predictions, Registration, Scores, Verdict
from tasks.config import LocalConfig, ServingConfig
from tasks.errors import JobFailed
from tasks.provenance import origin
from tasks.steps import step
from tasks.trainer.job import DecodeSpec, Job

_LEAST_EQUAL = 0.75
"""Share of golden answers that must be the offline ones: generating alone instead of in a batch changes the
last digits of sums, which may turn a near-tie between two tokens, but never most of the answers."""
_ANSWER_SECONDS = 120.0


def folder() -> Path:
    """Return the register of this machine's endpoints."""
    return store.home() / "endpoints"


@step(cached=False, retries=2, wait_seconds=(2, 8))
def register(name: str, model: Model, scores: Scores, verdict: Verdict) -> Registration:
    """Enter the model into the line of its name; on *pass* it becomes the champion."""
    lineage = {
        "dataset": scores.dataset,
        "base": model.foundation.digest,
        "base from": ", ".join(origin(model.foundation)["uri"]),
        "verdict": verdict.digest,
    }
    return registry.add(name, model, verdict.outcome, scores, lineage)


@step(cached=False, retries=2, wait_seconds=(2, 8))
def deploy(
    entry: Registration,
    verdict: Verdict,
    answers: Predictions,
    spec: DecodeSpec,
    config: ServingConfig,
    on: LocalConfig,
) -> Endpoint | None:
    """Serve the model if the verdict, or a person, says so, and prove that it is the model that was judged.

    Raises:
        ConfigError: The address cannot be used.
        JobFailed: The server does not start, or does not answer as the model did offline.
    """
    log = get_run_logger()
    if config.when == "never" or (config.when == "pass" and verdict.outcome != "pass"):
        log.info("not served: serving.when is %s, the verdict is %s", config.when, verdict.outcome)
        return None
    if verdict.outcome != "pass":
        log.warning("served although the verdict is %s: serving.when is always", verdict.outcome)
    proofs: list[tuple[int, int]] = []

    def accept(url: str) -> None:
        proofs.append(_prove(entry.name, url, answers, config.golden_prompts))

    job, digest = _job(entry, spec, config, on), entry.model.digest
    running = endpoints.start(
        folder(), entry.name, job, sys.executable, config.startup_seconds, digest, accept
    )
    sent, equal = proofs[-1]
    create_link_artifact(running.url, key="endpoint", link_text=f"{entry.name} at {running.url}")
    return Endpoint(
        name=entry.name, url=running.url, pid=running.pid, model=digest, golden=sent, equal=equal
    )


def _job(entry: Registration, spec: DecodeSpec, config: ServingConfig, on: LocalConfig) -> Job:
    model = entry.model
    return Job(
        action="serve",
        family=model.family,
        base=str(store.resolve(model.foundation.uri)),
        base_digest=model.foundation.digest,
        tuned=str(store.resolve(model.uri)) if model.base else "",
        decode=spec,
        threads=on.threads,
        host=config.host,
        port=config.port,
        name=entry.name,
    )


def _prove(name: str, url: str, answers: Predictions, wanted: int) -> tuple[int, int]:
    """Send golden prompts and return how many were sent and how many came back as offline.

    Raises:
        JobFailed: Too few did.
    """
    with (store.resolve(answers.uri) / "predictions.jsonl").open("rb") as file:
        rows = [orjson.loads(line) for line, _ in zip(file, range(wanted), strict=False)]
    served = [endpoints.invoke(url, row["prompt"], _ANSWER_SECONDS) for row in rows]
    equal = sum(text == row["prediction"] for text, row in zip(served, rows, strict=True))
    if equal < _LEAST_EQUAL * len(rows):
        raise JobFailed(
            f"endpoint {name}: it does not answer as the model did offline "
            f"(found {equal} of {len(rows)} golden answers equal), so it was stopped. "
            "Run again with serving.when never, and compare the two by hand."
        )
    return len(rows), equal


@step(cached=False)
def remove(name: str) -> bool:
    """Stop the endpoint of a name; say whether there was one."""
    return endpoints.stop(folder(), name)
