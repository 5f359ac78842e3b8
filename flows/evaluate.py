"""Score any model, adapter, endpoint or file of answers on any rows, alone or against another.

    python -m flows.evaluate                                                the champion of the bundled run
    python -m flows.evaluate --subject.name NAME --against.kind registered --against.name NAME --against.version 1
    python -m flows.evaluate --subject.kind model --subject.base.uri ../chatglm3 --subject.base.family chatglm
    python -m flows.evaluate --subject.kind endpoint --subject.url http://127.0.0.1:8000 --source.uri my-rows/
    python -m flows.evaluate --subject.kind answers --subject.path generated_predictions.txt --source.uri my-rows/

The rows are read as in a fine-tuning run, and from the same cache. The subject is called `tuned` in the tables.
"""

from __future__ import annotations

from prefect import flow

from flows import cli
from tasks import preflight
from tasks.answering import answers_of
from tasks.artifacts import EvaluateResult
from tasks.config import EvaluateConfig, NobodyConfig
from tasks.data import convert, fetch, stage
from tasks.evaluation import imitate, judge, score
from tasks.publishing import publish_evaluation

BASELINES = ("random", "retrieval", "template")


@flow(name="evaluate", flow_run_name="evaluate-{config.subject.kind}")
def evaluate(config: EvaluateConfig = EvaluateConfig()) -> EvaluateResult:
    """Answer the held-out rows by a subject and by baselines, score, judge and publish.

    Args:
        config: Everything a person chooses; the defaults score the champion of the bundled run.
    """
    preflight.check_evaluation(config)

    raw = fetch(config.source)
    rows = convert(raw, config.data)
    data = stage(rows, config.store)

    answers = {"tuned": answers_of(config.subject, data, config.decode, config.compute, "tuned")}
    if not isinstance(config.against, NobodyConfig):
        answers["against"] = answers_of(
            config.against, data, config.decode, config.compute, "against"
        )
    answers |= {name: imitate(data, name, config.decode) for name in BASELINES}

    scores = {name: score(given, config.metrics, system=name) for name, given in answers.items()}
    verdict = judge(scores, config.judge, config.metrics)
    report = publish_evaluation(data, answers, scores, verdict, config)
    return EvaluateResult(answers=answers, scores=scores, verdict=verdict, report=report)


if __name__ == "__main__":
    cli.main(evaluate, EvaluateConfig)
