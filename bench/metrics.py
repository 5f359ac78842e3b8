"""Speed of scoring, side by side with the published code, in one process on the same rows.

    python -m bench.metrics [--rows 1000] [--turns 5]

The published code is rouge_chinese, nltk and jieba, called row by row as ChatGLM2-6B's evaluation
script calls them; all three are needed for this and for the tests only, jieba apart. The rows are
AdvertiseGen's dev rows where `../shared/data` has them, else the bundled sample, each answered with
the training answer of the most similar prompt. The two programs take turns. The time is CPU time, of
which the median turn counts; the scores of all rows must be equal; loading dictionaries is not timed.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks import baselines
from tasks.metrics import protocol

Scoring = Callable[[Sequence[str], Sequence[str]], list[dict[str, float]]]

ROOT = Path(__file__).parents[1]
FOLDERS = (
    ROOT.parent / "shared" / "data" / "advertisegen",
    ROOT / "deployments" / "sample" / "data",
)


def published() -> Scoring:
    """Load the published code; return its scoring of all rows, in percent.

    Source: https://github.com/THUDM/ChatGLM2-6B, ptuning/main.py (`compute_metrics`) at commit
    3be48aa44a023b622b3e9fefa3df3494acc99761.
    """
    jieba, rouge_class, bleu = _import_published()

    def score_row(prediction: str, reference: str) -> dict[str, float]:
        texts = [" ".join(list(jieba.cut(text))) for text in (prediction, reference)]
        overlaps = rouge_class().get_scores(*texts)[0]
        scores = {name.replace("-", "_"): overlap["f"] for name, overlap in overlaps.items()}
        scores["bleu_4"] = bleu.sentence_bleu(
            [list(reference)], list(prediction), smoothing_function=bleu.SmoothingFunction().method3
        )
        return {name: round(score * 100, 4) for name, score in scores.items()}

    return lambda predictions, references: [
        score_row(*row) for row in zip(predictions, references, strict=True)
    ]


def _import_published() -> tuple[Any, Any, Any]:
    with warnings.catch_warnings():
        # jieba 0.42.1 and rouge_chinese 1.0.3 write '\.' in plain strings; jieba asks setuptools
        warnings.filterwarnings("ignore", message=".*invalid escape sequence")
        warnings.filterwarnings("ignore", message=".*pkg_resources")
        import jieba
        from nltk.translate import bleu_score
        from rouge_chinese import Rouge

    jieba.setLogLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:  # rather than trusting /tmp/jieba.cache
        jieba.dt.tmp_dir = folder
        jieba.initialize()
    return jieba, Rouge, bleu_score


def rows(folder: Path, split: str) -> list[baselines.Row]:
    """Read the rows of an AdvertiseGen file, one JSON object a line."""
    with (folder / f"{split}.json").open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [baselines.Row(row["content"], row["summary"]) for row in found]


def compare(predictions: list[str], references: list[str], turns: int) -> dict[str, float]:
    """Return the median CPU seconds of both programs for these rows.

    Raises:
        ValueError: They do not give the same scores.
    """
    programs: dict[str, Scoring] = {
        "published": published(),
        "here": lambda *texts: protocol.score_rows("chatglm2", *texts),
    }
    for scoring in programs.values():
        scoring(predictions[:1], references[:1])  # loads the dictionaries
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    scores = {}
    for _ in range(turns):
        for name, scoring in programs.items():
            started = time.process_time()
            scores[name] = scoring(predictions, references)
            seconds[name].append(time.process_time() - started)
    if scores["here"] != scores["published"]:
        raise ValueError("bench.metrics: the two programs give different scores. Run the tests.")
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def main() -> None:
    """Measure and write one line a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1000, help="dev rows, at most")
    parser.add_argument("--turns", type=int, default=5, help="turns of each program")
    chosen = parser.parse_args()
    folder = next(folder for folder in FOLDERS if (folder / "dev.json").is_file())
    asked = rows(folder, "dev")[: chosen.rows]
    prompts, references = [row.prompt for row in asked], [row.answer for row in asked]
    predictions = baselines.answer("retrieval", rows(folder, "train"), prompts, seed=17)
    seconds = compare(predictions, references, chosen.turns)
    lines = [f"{len(asked)} rows of {folder.name}, median of {chosen.turns} turns, equal scores"]
    for name, measured in seconds.items():
        lines.append(f"{name:<10} {measured * 1000 / len(asked):6.3f} s for 1,000 pairs")
    lines.append(f"ratio      {seconds['published'] / seconds['here']:6.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
