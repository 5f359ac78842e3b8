"""Speed of scoring, side by side with the published code, in one process on the same rows.

    python -m bench.metrics [--rows 1000] [--turns 5] [--segmenter jieba]

The published code is rouge_chinese, nltk and jieba, called row by row as the evaluation scripts of
ChatGLM2-6B and ChatGLM3 call them; all three are needed for this and for the tests only, jieba apart.
The rows are AdvertiseGen's dev rows where `../shared/data` has them, else the bundled sample, each
answered with the training answer of the most similar prompt. The two programs take turns. The time is
CPU time, of which the median turn counts; loading dictionaries is not timed. The scores of all rows
must be equal, but for another segmenter than jieba: then the number of rows that differ is told.
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
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tasks import baselines
from tasks.metrics import protocol, segment

Scoring = Callable[[Sequence[str], Sequence[str]], list[dict[str, float]]]

ROOT = Path(__file__).parents[1]
FOLDERS = (
    ROOT.parent / "shared" / "data" / "advertisegen",
    ROOT / "deployments" / "sample" / "data",
)
PROTOCOLS = ("chatglm2", "chatglm3")


def published(name: str = "chatglm2") -> Scoring:
    """Load the published code; return its scoring of all rows, in percent.

    Source: `compute_metrics` of https://github.com/THUDM/ChatGLM2-6B, ptuning/main.py at commit
    3be48aa44a023b622b3e9fefa3df3494acc99761, and of https://github.com/THUDM/ChatGLM3,
    finetune_demo/finetune_hf.py at commit 00930ac459c2c9555ccd66d6faaf8ad049be95d1, whose BLEU is
    from 0 to 1 there.
    """
    jieba, rouge_class, bleu = _import_published()
    smoothing = bleu.SmoothingFunction

    def overlaps(words: list[list[str]]) -> dict[str, float]:
        found = rouge_class().get_scores(*(" ".join(one) for one in words))[0]
        return {name.replace("-", "_"): round(one["f"] * 100, 4) for name, one in found.items()}

    def chatglm2(prediction: str, reference: str) -> dict[str, float]:
        scores = overlaps([list(jieba.cut(text)) for text in (prediction, reference)])
        score = bleu.sentence_bleu(
            [list(reference)], list(prediction), smoothing_function=smoothing().method3
        )
        return {**scores, "bleu_4": round(score * 100, 4)}

    def chatglm3(prediction: str, reference: str) -> dict[str, float]:
        words = [list(jieba.cut(text.strip())) for text in (prediction, reference)]
        scores = overlaps(words)
        score = bleu.sentence_bleu(words[1:], words[0], smoothing_function=smoothing().method3)
        return {**scores, "bleu_4": score * 100}

    score_row = {"chatglm2": chatglm2, "chatglm3": chatglm3}[name]
    return lambda predictions, references: [
        score_row(*row) for row in zip(predictions, references, strict=True)
    ]


@cache
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


class Compared(NamedTuple):
    """Both programs on the same rows."""

    published: float
    """Median CPU seconds of a turn."""
    here: float
    differing: int
    """Rows whose scores are not equal."""


def compare(
    measure: protocol.Measure, predictions: list[str], references: list[str], turns: int
) -> Compared:
    """Time both programs in turns.

    Raises:
        ValueError: They do not give the same scores although they cut words alike.
    """
    programs: dict[str, Scoring] = {
        "published": published(measure.protocol),
        "here": lambda *texts: protocol.score_rows(measure, *texts),
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
    pairs = zip(scores["here"], scores["published"], strict=True)
    differing = sum(ours != theirs for ours, theirs in pairs)
    if differing and measure.segmenter == "jieba":
        raise ValueError("bench.metrics: the two programs give different scores. Run the tests.")
    taken = (statistics.median(seconds[name]) for name in programs)
    return Compared(*taken, differing)


def _lines(name: str, found: Compared, count: int) -> Iterator[str]:
    for program, taken in (("published", found.published), ("here", found.here)):
        yield f"{name}  {program:<10} {taken * 1000 / count:6.3f} s for 1,000 pairs"
    told = f", {found.differing} of {count} rows differ" if found.differing else ", equal scores"
    yield f"{name}  ratio      {found.published / found.here:6.2f}{told}"


def main() -> None:
    """Measure and write three lines a protocol."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1000, help="dev rows, at most")
    parser.add_argument("--turns", type=int, default=5, help="turns of each program")
    parser.add_argument("--segmenter", choices=segment.SEGMENTERS, default="jieba")
    chosen = parser.parse_args()
    folder = next(folder for folder in FOLDERS if (folder / "dev.json").is_file())
    asked = rows(folder, "dev")[: chosen.rows]
    prompts, references = [row.prompt for row in asked], [row.answer for row in asked]
    predictions = baselines.answer("retrieval", rows(folder, "train"), prompts, seed=17)
    lines = [
        f"{len(asked)} rows of {folder.name}, {segment.identify(chosen.segmenter)}, "
        f"median of {chosen.turns} turns"
    ]
    for name in PROTOCOLS:
        measure = protocol.Measure(name, segmenter=chosen.segmenter)
        lines += _lines(name, compare(measure, predictions, references, chosen.turns), len(asked))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
