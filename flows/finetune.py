"""Fine-tune one model on one dataset, end to end: judged, registered, served.

    python -m flows.finetune                                  the bundled rows and the bundled base
    python -m flows.finetune --source.uri PATH                rows of your own
    python -m flows.finetune advertisegen-local --dry-run     a deployment of prefect.yaml; only the plan

`--help` lists every knob. The same run starts from the Prefect UI after `make serve`, or on a schedule.
"""

from __future__ import annotations

from prefect import flow

from flows import cli
from tasks import preflight, registry
from tasks.artifacts import FinetuneResult
from tasks.config import FinetuneConfig
from tasks.data import convert, fetch, stage
from tasks.describing import describe
from tasks.evaluation import imitate, judge, score
from tasks.publishing import publish
from tasks.serving import deploy, register
from tasks.training import fetch_model, predict, train

BASELINES = ("random", "retrieval", "template")


@flow(
    name="finetune", flow_run_name="{config.name}-{config.train.method.kind}-{config.compute.kind}"
)
def finetune(config: FinetuneConfig = FinetuneConfig()) -> FinetuneResult:
    """Fetch, convert, describe, stage, train, predict, score, judge, register, publish and serve.

    Args:
        config: Everything a person chooses; the defaults are a complete run on this machine.
    """
    preflight.check(config)

    raw = fetch(config.source)
    rows = convert(raw, config.data)
    base = fetch_model(config.base)
    card = describe(rows, base, config.train.lengths, on=config.compute)
    data = stage(rows, config.store)
    model = train(data, base, config.train, on=config.compute)

    answers = {
        "tuned": predict(model, data, config.decode, on=config.compute, system="tuned"),
        "base": predict(
            base,
            data,
            config.decode,
            on=config.compute,
            system="base",
            weights=config.train.weights,
        ),
    }
    answers |= {name: imitate(data, name, config.decode) for name in BASELINES}
    if champion := registry.incumbent(config.name, model):
        answers["champion"] = predict(
            champion, data, config.decode, on=config.compute, system="champion"
        )

    scores = {name: score(given, config.metrics, system=name) for name, given in answers.items()}
    verdict = judge(scores, config.judge, config.metrics)

    entry = register(config.name, model, scores["tuned"], verdict)
    report = publish(data, card, model, answers, scores, verdict, entry, config)
    endpoint = deploy(
        entry, verdict, answers["tuned"], config.decode, config.serving, on=config.compute
    )
    return FinetuneResult(
        registration=entry,
        data=data,
        answers=answers,
        scores=scores,
        verdict=verdict,
        report=report,
        endpoint=endpoint,
    )


if __name__ == "__main__":
    cli.main(finetune, FinetuneConfig)
