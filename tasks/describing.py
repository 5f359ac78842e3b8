"""Describe: the data card, and the length of the rows in the tokens of the model that will read them.

Runs before anything is uploaded or trained, on this machine: only the tokenizer is loaded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
from prefect import get_run_logger

from tasks import plugins, store
from tasks.artifacts import DataCard, Dataset, Model
from tasks.config import LocalConfig
from tasks.ledger import Ledger
from tasks.progress import Watch
from tasks.provenance import made
from tasks.reports import data as report
from tasks.steps import step
from tasks.trainer.job import Job, Limits, TrainSpec

CARD = "data-card.md"
LENGTHS = "lengths.json"


@step(
    sources=(
        "tasks/describing.py",
        "tasks/ledger.py",
        "tasks/reports/__init__.py",
        "tasks/reports/axes.py",
        "tasks/reports/data.py",
        "tasks/reports/markdown.py",
        "tasks/reports/pictures.py",
        "tasks/reports/wording.py",
        "tasks/trainer/job.py",
        "tasks/trainer/encode.py",
        "tasks/trainer/fitting.py",
        "tasks/trainer/lengths.py",
        "tasks/trainer/records.py",
        "tasks/trainer/template.py",
        "tasks/trainer/tokenizer.py",
        "tasks/trainer/chat_template.py",
        "tasks/trainer/chatglm_tokenizer.py",
        "tasks/trainer/sentencepiece.py",
        "tasks/trainer/glm4_layout.py",
        "tasks/trainer/roles.py",
        "tasks/trainer/written.py",
        "tasks/trainer/families/__init__.py",
        "tasks/trainer/families/{base.family}.py",
    ),
    ignoring=("on",),
    entirely=("data",),
    retries=2,
    wait_seconds=(5, 30),
)
def describe(data: Dataset, base: Model, limits: Limits, on: LocalConfig) -> DataCard:
    """Write the data card, and refuse rows that the model could learn nothing from.

    Args:
        data: The rows.
        base: Whose tokenizer reads them.
        limits: Tokens that the model will read of a prompt and learn of an answer.
        on: Threads and time limit of this machine; never a reason to do it again.

    Raises:
        DataError: Cutting to these limits leaves nothing of an answer.
        JobFailed: The tokenizer's process ended badly.
    """
    root = store.local()
    with store.scratch(root) as out:
        _measure(data, base, limits, on, out)
        splits = json.loads((out / LENGTHS).read_text(encoding="utf-8"))["splits"]
        tokens = list(_tokens(splits, limits))
        card = report.data_card(
            Ledger.read(store.resolve(data.uri)),
            {split: report.look(_rows(data, split)) for split in data.records},
            tokens,
        )
        (out / CARD).write_text(card, encoding="utf-8")
        uri, digest = store.commit(out, root, "cards", made("describe", data, base, limits))
    cut = {each.what: each.cut / each.texts for each in tokens if each.texts}
    return DataCard(uri=uri, digest=digest, cut=cut)


def _measure(data: Dataset, base: Model, limits: Limits, on: LocalConfig, out: Path) -> None:
    """Let the trainer's own code count, in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        job = Job(
            action="lengths",
            family=base.family,
            base=str(store.resolve(base.uri)),
            base_digest=base.digest,
            data=str(store.resolve(data.uri)),
            data_digest=data.digest,
            out=str(out),
            work=work,
            train=TrainSpec(
                max_prompt_tokens=limits.prompt_tokens, max_answer_tokens=limits.answer_tokens
            ),
            threads=on.threads,
        )
        with Watch("measuring", get_run_logger()) as watch:
            plugins.load("backends", "local").run(job, on, watch.line)


def _rows(data: Dataset, split: str) -> Iterator[report.Row]:
    with (store.resolve(data.uri) / f"{split}.jsonl").open("rb") as lines:
        for line in lines:
            prompt, answer = orjson.loads(line)["messages"][-2:]
            yield report.Row(prompt["content"], answer["content"])


def _tokens(splits: Mapping[str, Any], limits: Limits) -> Iterator[report.Tokens]:
    for split, found in splits.items():
        for what, limit in (("prompt", limits.prompt_tokens), ("answer", limits.answer_tokens)):
            lengths = found[f"{what}_tokens"]
            yield report.Tokens(
                what=f"{split} {what}s",
                texts=found["examples"],
                quantiles={name: lengths[name] for name in ("p50", "p95", "p99", "max")},
                limit=limit,
                cut=found[f"{what}s_cut"],
                edges=lengths["histogram"]["edges"],
                counts=lengths["histogram"]["counts"],
            )
