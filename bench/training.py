"""Speed of training, side by side with the how-tos' way and with transformers' Trainer, in one process.

    python -m bench.training [--shapes bundled small random] [--steps 24] [--turns 3] [--threads 1]
    python -m bench.training --shapes chatglm3        (lora, qlora, prefix; a GPU of 80 GB)

Four programs take the same optimizer steps: the same rows once, 16 a step, the same start, rates, number format and
AdamW.

    fixed      the how-tos' way: rows padded to 64 + 128 tokens, one a pass, 16 passes a step
    trainer    the Trainer's defaults: 16 rows a pass in random order, padded to the longest
    grouped    the same, and rows of similar length go together
    here       what `trainer train` does, its checks before the first step and its last checkpoint included

The bundled model is tuned with LoRA on rows of its own language, which are short. `small`, of its size, and `random`,
of 20 M parameters, are trained whole on rows of AdvertiseGen with a tokenizer made for them, as ChatGLM's is for
Chinese. Half of `fixed` is padding there: the larger the model, the less else there is to gain without a GPU.
`chatglm3` has the shape of ChatGLM3-6B and random weights.

Only tokens of rows count, not padding. What was learnt is told by the loss on the same held-out rows. The programs
take turns; time is CPU time (with a GPU the time that passes), of which the median turn counts. With a GPU the line
has the peak of its memory, and which share of its arithmetic the model's own operations take.

Source of `fixed`: https://github.com/THUDM/ChatGLM2-6B, ptuning/train.sh and main.py.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from bench import models
from tasks.trainer import encode, tuned
from tasks.trainer.batches import collate
from tasks.trainer.encode import IGNORED, Example
from tasks.trainer.job import METHODS, TrainSpec
from tasks.trainer.model import Loaded
from tasks.trainer.objective import scored, summed_loss
from tasks.trainer.run import Run
from tasks.trainer.stopping import Stop

_BATCH = 16
_WARMUP = 0.05
_METHODS = {
    "bundled": ["lora"],
    "chatglm3": ["lora", "qlora", "prefix"],
    "small": ["full"],
    "random": ["full"],
}
_RATES = {"lora": 2e-3, "qlora": 2e-3, "prefix": 1e-2, "full": 1e-3}
_PEAKS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125}
"""Dense bfloat16 operations, 10^12 a second. Source: NVIDIA's data sheets."""


@dataclass(frozen=True)
class Work:
    """What all programs do."""

    base: Path
    spec: TrainSpec
    rows: list[Example]
    dev: list[Example]

    @property
    def tokens(self) -> int:
        """Count the tokens that are not padding."""
        return sum(len(row.input_ids) for row in self.rows)

    def load(self) -> Loaded:
        """Load the base model."""
        return models.load(self.base, "train", self.spec)


@dataclass(frozen=True)
class Turn:
    """What a program took, and what it learnt."""

    seconds: float
    loss: float
    """Nats per answer token of the held-out rows."""
    peak: float
    """GiB of the GPU's memory."""
    operations: float
    """Of the model, for a token: those of the weights, forward and backward."""


def here(work: Work, out: Path) -> Turn:
    """Train as `trainer train` does."""
    loaded = work.load()
    tuned.prepare_training(loaded, work.spec)
    run = Run(loaded, work.spec, work.rows, [], out, "bench", Stop())
    seconds = _timed(run.finish)
    with torch.no_grad():
        loss = sum(float(summed_loss(loaded, collate([row]))) for row in work.dev)
    return Turn(seconds, loss / scored(work.dev), _peak(), _operations(loaded))


def with_trainer(work: Work, out: Path, collator: Any, **settings: Any) -> Turn:
    """Train with transformers' Trainer."""
    loaded = work.load()
    adapted = _adapted(loaded, work.spec)
    arguments = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=1,
        learning_rate=work.spec.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=_WARMUP,
        bf16=loaded.dtype == torch.bfloat16,
        use_cpu=loaded.device.type == "cpu",
        gradient_checkpointing=work.spec.gradient_checkpointing,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=work.spec.seed,
        **{"per_device_train_batch_size": _BATCH, **settings},
    )
    rows = [{"input_ids": row.input_ids, "labels": row.labels} for row in work.rows]
    collate_rows = collator or DataCollatorForSeq2Seq(loaded.tokenizer)
    trainer = Trainer(adapted, arguments, train_dataset=rows, data_collator=collate_rows)
    seconds = _timed(trainer.train)
    adapted.train(False)
    with torch.no_grad():
        loss = sum(_loss_of(adapted, row, loaded.device) for row in work.dev)
    return Turn(seconds, loss / scored(work.dev), _peak(), _operations(loaded))


def fixed(work: Work, out: Path) -> Turn:
    """Train as the how-tos do."""
    width = work.spec.max_prompt_tokens + work.spec.max_answer_tokens

    def pad(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        fills = {"input_ids": 0, "labels": IGNORED}
        return {
            name: torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])
            for name, fill in fills.items()
        }

    return with_trainer(
        work, out, pad, per_device_train_batch_size=1, gradient_accumulation_steps=_BATCH
    )


PROGRAMS: dict[str, Callable[[Work, Path], Turn]] = {
    "fixed": fixed,
    "trainer": lambda work, out: with_trainer(work, out, None),
    "grouped": lambda work, out: with_trainer(
        work, out, None, train_sampling_strategy="group_by_length"
    ),
    "here": here,
}


def _adapted(loaded: Loaded, spec: TrainSpec) -> Any:
    """Return the model as the Trainer gets it: with our adapters, or with peft's own prefix."""
    if spec.method.kind != "prefix":
        tuned.prepare_training(loaded, spec)
        return loaded.adapted or loaded.model
    from peft import PrefixTuningConfig, get_peft_model

    torch.manual_seed(spec.seed)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=spec.method.tokens)
    return get_peft_model(loaded.model, prefix)


def _loss_of(adapted: Any, row: Example, device: torch.device) -> float:
    ids, labels = (torch.tensor([each], device=device) for each in (row.input_ids, row.labels))
    said = adapted(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids))
    return float(said.loss) * scored([row])


def _timed(work: Callable[[], Any]) -> float:
    """Return CPU seconds, or seconds where a GPU does the work."""
    if not torch.cuda.is_available():
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.monotonic()
    work()
    torch.cuda.synchronize()
    return time.monotonic() - began


def _peak() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def _operations(loaded: Loaded) -> float:
    """Two for each weight forward and two for the gradient of its input; two more where it is trained."""
    embedding = loaded.model.get_input_embeddings().weight
    weights = [p for p in loaded.model.parameters() if p is not embedding]
    # a quantised weight holds two numbers a byte
    sizes = [p.numel() * (1 if p.is_floating_point() else 2) for p in weights]
    trained = sum(p.numel() for p in weights if p.requires_grad)
    return 4.0 * sum(sizes) + 2.0 * trained


def measure(work: Work, turns: int) -> dict[str, list[Turn]]:
    """Let the programs take turns."""
    found: dict[str, list[Turn]] = {name: [] for name in PROGRAMS}
    for _ in range(turns):
        for name, program in PROGRAMS.items():
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            with (
                tempfile.TemporaryDirectory() as out,
                redirect_stdout(sys.stderr),
                warnings.catch_warnings(action="ignore"),
            ):
                found[name].append(program(work, Path(out)))
    return found


def _lines(title: str, work: Work, found: dict[str, list[Turn]]) -> Iterator[str]:
    speeds = {
        name: work.tokens / statistics.median(turn.seconds for turn in turns)
        for name, turns in found.items()
    }
    for name, turns in found.items():
        line = (
            f"{title} {name:8} {speeds[name]:9,.0f} tokens/s {speeds[name] / speeds['fixed']:6.2f}x"
        )
        line += f"  held-out loss {turns[0].loss:.4f}"
        if torch.cuda.is_available():
            peak = next((p for n, p in _PEAKS.items() if n in torch.cuda.get_device_name()), 0)
            used = speeds[name] * turns[0].operations / (peak * 1e12) if peak else 0.0
            line += f"  {max(turn.peak for turn in turns):6.1f} GiB  {used:6.1%} of the peak"
        yield line


def main() -> None:
    """Measure and print a line for each program, model and method."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--shapes", nargs="+", choices=_METHODS, default=["bundled", "small", "random"]
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="else the usual")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--turns", type=int, default=3, help="turns of each program")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for shape in chosen.shapes:
        with tempfile.TemporaryDirectory() as folder:
            dtype = torch.bfloat16 if shape == "chatglm3" else torch.float32
            base = models.write(Path(folder) / shape, shape, dtype)
            for method in chosen.methods or _METHODS[shape]:
                work = _work(base, shape, method, chosen.steps)
                found = measure(work, chosen.turns)
                sys.stdout.write("\n".join(_lines(f"{shape} {method}", work, found)) + "\n")


def _work(base: Path, shape: str, method: str, steps: int) -> Work:
    spec = TrainSpec(
        method=METHODS[method](),
        epochs=1,
        learning_rate=_RATES[method],
        global_batch=_BATCH,
        warmup=_WARMUP,
        decay="linear",
        max_prompt_tokens=64,
        max_answer_tokens=128,
        checkpoint_steps=steps,
        checkpoint_minutes=0,
        dev_rows=0,
    )
    loaded = models.load(base, "predict")

    def rows(split: str, count: int) -> list[Example]:
        return [
            example
            for row in models.conversations(split, count, shape)
            for example in encode.examples(row, loaded.family, loaded.tokenizer, spec)
        ]

    return Work(base, spec, rows("train", steps * _BATCH), rows("dev", 64))


if __name__ == "__main__":
    main()
