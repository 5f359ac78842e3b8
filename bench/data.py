"""Speed and memory of the conversion, side by side with what people use, each in a process of its own.

    python -m bench.data [--rows 115669] [--turns 3]

Programs turn the same AdvertiseGen rows into chat records, one thread each:

    ours       tasks/conversion.py: encoding and format found, validated, hashed, deduplicated, every row accounted for
    ours+      the same, and near-duplicates and what dev shares with train counted: the default
    ours/      the default on one file, of which a tenth is held out by its prompt: the rows are read twice
    datasets   datasets.load_dataset("json"), map, to_json: types inferred, nothing checked
    how-to     the loop of ChatGLM3's example: json.loads and json.dumps line by line, nothing checked

The rows are made from AdvertiseGen's own where `../shared/data` has them, else from the bundled sample: attributes
and clauses shuffled, and clauses rotated, with a seed, so that rows share about as little as real ones. 115,669 is
the size of AdvertiseGen, train and dev. The programs take turns; time is the CPU time of the work without imports,
of which the median turn counts; memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (
    ROOT.parent / "shared" / "data" / "advertisegen",
    ROOT / "deployments" / "sample" / "data",
)
DEV_ROWS = 1070


def make(folder: Path, rows: int) -> None:
    """Write train.json and dev.json with varied rows."""
    real = next(each for each in FOLDERS if each.is_dir())
    with (real / "train.json").open(encoding="utf-8") as lines:
        seeds = [json.loads(line) for line in lines]
    attributes = sorted({part for row in seeds for part in row["content"].split("*")})
    clauses = sorted({part for row in seeds for part in row["summary"].split("，") if part})
    draw = random.Random(17)
    for name, count in (("dev", DEV_ROWS), ("train", rows - DEV_ROWS)):
        with (folder / f"{name}.json").open("w", encoding="utf-8") as file:
            for _ in range(count):
                shape = draw.choice(seeds)
                content = "*".join(draw.sample(attributes, shape["content"].count("*") + 1))
                picked = draw.sample(clauses, shape["summary"].count("，") + 1)
                turned = (
                    clause[(k := draw.randrange(len(clause))) :] + clause[:k] for clause in picked
                )
                summary = "，".join(turned)
                row = {"content": content, "summary": summary}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def ours(folder: Path, out: Path, overlap: bool = False) -> Callable[[], int]:
    """Return the conversion of this project."""
    from tasks import conversion
    from tasks.config import DataConfig

    files = [(f"{split}.json", folder / f"{split}.json") for split in ("train", "dev")]
    return lambda: conversion.convert(files, out, DataConfig(overlap=overlap)).rows


def ours_with_overlap(folder: Path, out: Path) -> Callable[[], int]:
    """Return the conversion of this project as it is by default."""
    return ours(folder, out, overlap=True)


def with_datasets(folder: Path, out: Path) -> Callable[[], int]:
    """Return the usual few lines around `datasets`."""
    import datasets

    datasets.disable_progress_bars()

    def chat(row: dict[str, str]) -> dict[str, object]:
        turns = [("user", row["content"]), ("assistant", row["summary"])]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    def run() -> int:
        files = {split: str(folder / f"{split}.json") for split in ("train", "dev")}
        loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(out / "cache"))
        for split, rows in loaded.items():
            turned = rows.map(chat, remove_columns=["content", "summary"])
            turned.to_json(str(out / f"{split}.jsonl"), force_ascii=False)
        return sum(len(rows) for rows in loaded.values())

    return run


def how_to(folder: Path, out: Path) -> Callable[[], int]:
    """Return the loop of the how-to.

    Source: https://github.com/THUDM/ChatGLM3, finetune_demo: the notebook's conversion of AdvertiseGen.
    """

    def run() -> int:
        count = 0
        for split in ("train", "dev"):
            with (
                (folder / f"{split}.json").open(encoding="utf-8") as rows,
                (out / f"{split}.jsonl").open("w", encoding="utf-8") as file,
            ):
                for line in rows:
                    row = json.loads(line)
                    turns = [
                        {"role": "user", "content": row["content"]},
                        {"role": "assistant", "content": row["summary"]},
                    ]
                    file.write(json.dumps({"conversations": turns}, ensure_ascii=False) + "\n")
                    count += 1
        return count

    return run


def ours_held_out(folder: Path, out: Path) -> Callable[[], int]:
    """Return the default conversion of one file, a tenth of whose prompts is held out."""
    from tasks import conversion
    from tasks.config import DataConfig

    files = [("rows.json", folder / "train.json")]
    return lambda: conversion.convert(files, out, DataConfig()).rows


PROGRAMS = {
    "ours": ours,
    "ours+": ours_with_overlap,
    "ours/": ours_held_out,
    "datasets": with_datasets,
    "how-to": how_to,
}


def measure(program: str, folder: Path) -> None:
    """Run one program in this process; print its rows, CPU seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory() as out:
        run = PROGRAMS[program](folder, Path(out))
        before = time.process_time()
        rows = run()
        seconds = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "peak": peak}))


def main() -> None:
    """Measure all programs in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=115_669)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("PROGRAM", "FOLDER"), help="for itself")
    chosen = parser.parse_args()
    if chosen.measure:
        return measure(chosen.measure[0], Path(chosen.measure[1]))
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), chosen.rows)
        results: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
        for _ in range(chosen.turns):
            for name in PROGRAMS:
                command = [sys.executable, "-m", "bench.data", "--measure", name, folder]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    show(results)


def show(results: dict[str, list[dict[str, float]]]) -> None:
    """Print a line for each program."""
    own = statistics.median(turn["seconds"] for turn in results["ours"])
    print(
        f"{'program':10} {'rows':>10} {'CPU s':>8} {'rows/s':>10} {'peak MB':>8} {'against ours':>13}"
    )
    for name, turns in results.items():
        seconds = statistics.median(turn["seconds"] for turn in turns)
        rows, peak = turns[0]["rows"], max(turn["peak"] for turn in turns)
        print(
            f"{name:10} {rows:>10,} {seconds:>8.2f} {rows / seconds:>10,.0f} {peak:>8.0f} "
            f"{seconds / own:>12.2f}x"
        )


if __name__ == "__main__":
    main()
