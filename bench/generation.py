"""Speed of answering, side by side with transformers, in one process on the same rows.

    python -m bench.generation [--rows 128] [--turns 3] [--threads 1]

Three programs answer greedily, at most `--tokens` each:

    batch 1    `model.generate`, a row at a time, as the how-tos evaluate
    batch 64   `model.generate`, 64 rows at a time in the order they come, padded on the left
    here       what `trainer predict` does: sorted by length, 64 rows at a time, rows that have ended leave

on the bundled model, which ends its answers, and on a random one of 20 M parameters, which does not. The answers of
all three must be equal. They take turns; time is CPU time, of which the median turn counts. Batch 1 answers only
every eighth row, because its speed does not depend on their number.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench import models
from tasks.trainer import generate
from tasks.trainer.job import DecodeSpec
from tasks.trainer.model import Loaded

Program = Callable[[list[list[int]]], list[str]]
_BATCH = 64
_EVERY = 8


def here(loaded: Loaded, tokens: int) -> Program:
    """Return the program of this project."""
    spec = DecodeSpec(max_new_tokens=tokens, batch_rows=_BATCH)
    return lambda prompts: [said.text for said in generate.reply(loaded, prompts, spec)]


def of_transformers(loaded: Loaded, tokens: int, batch: int) -> Program:
    """Return `model.generate`, so many rows at a time."""
    stops = loaded.family.stop_ids(loaded.tokenizer)

    def some(prompts: list[list[int]]) -> list[str]:
        width = max(map(len, prompts))
        ids = torch.tensor([[stops[0]] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        said = loaded.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=stops[0],
        )
        return loaded.tokenizer.batch_decode(said[:, width:], skip_special_tokens=True)

    return lambda prompts: [
        text for i in range(0, len(prompts), batch) for text in some(prompts[i : i + batch])
    ]


def compare(
    loaded: Loaded, asked: list[list[dict[str, str]]], tokens: int, turns: int
) -> dict[str, float]:
    """Return the rows per CPU second of each program.

    Raises:
        ValueError: They do not give the same answers.
    """
    prompts = generate.encode(loaded, asked, 128)
    few = prompts[::_EVERY]
    programs = {
        "batch 1": (of_transformers(loaded, tokens, 1), few),
        f"batch {_BATCH}": (of_transformers(loaded, tokens, _BATCH), prompts),
        "here": (here(loaded, tokens), prompts),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    said = {}
    for _ in range(turns):
        for name, (program, given) in programs.items():
            began = time.process_time()
            said[name] = program(given)
            seconds[name].append(time.process_time() - began)
    ours = said["here"]
    if said[f"batch {_BATCH}"] != ours or said["batch 1"] != ours[::_EVERY]:
        raise ValueError("bench.generation: the programs give different answers. Run the tests.")
    return {
        name: len(given) / statistics.median(seconds[name]) for name, (_, given) in programs.items()
    }


def _lines(name: str, found: dict[str, float]) -> Iterator[str]:
    for program, speed in found.items():
        yield f"{name:8} {program:9} {speed:8.2f} rows/s {speed / found['batch 1']:6.2f}x"


def main() -> None:
    """Measure and print a line for each program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=128, help="dev rows, at most")
    parser.add_argument("--tokens", type=int, default=96, help="longest answer")
    parser.add_argument("--turns", type=int, default=3, help="turns of each program")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for shape in ("bundled", "random"):
        with tempfile.TemporaryDirectory() as folder:
            loaded = models.load(models.write(Path(folder) / shape, shape), "predict")
        asked = [row[:-1] for row in models.conversations("dev", chosen.rows, shape)]
        found = compare(loaded, asked, chosen.tokens, chosen.turns)
        sys.stdout.write("\n".join(_lines(shape, found)) + "\n")


if __name__ == "__main__":
    main()
