"""The real trainer in several processes: the curve of one process, and exact continuation."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from together import PROJECT

from tasks.trainer.errors import Interrupted
from tasks.trainer.job import EXIT_INTERRUPTED, Full, Job, Lora, TrainSpec
from tasks.trainer.loop import train
from tasks.trainer.stopping import Stop

pytestmark = pytest.mark.slow

FULL = TrainSpec(
    method=Full(),
    max_steps=20,
    learning_rate=1e-3,
    global_batch=8,
    micro_batch=2,
    checkpoint_steps=4,
    dev_rows=10,
)
LORA = replace(FULL, method=Lora(), learning_rate=5e-3, max_steps=8)

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tasks.trainer")
OURS = ("tasks.trainer.launch", "--processes")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("together")
    tiny_models.llama(root / "llama")
    tiny_models.dataset(root / "data")
    return root


def job(root: Path, name: str, spec: TrainSpec, begun: Path | None = None) -> Job:
    """Return a job with directories of its own, begun where another left off."""
    home = root / name
    if begun is not None:
        shutil.copytree(begun, home / "work")
    home.mkdir(exist_ok=True)
    order = Job(
        action="train",
        family="llama",
        base=str(root / "llama"),
        data=str(root / "data"),
        out=str(home / "out"),
        work=str(home / "work"),
        train=spec,
        shard=spec.method.kind == "full",
        threads=1,
    )
    order.write(home / "job.json")
    return order


def started(order: Job, *module: str) -> subprocess.Popen[str]:
    path = Path(order.out).parent / "job.json"
    return subprocess.Popen(
        [sys.executable, "-m", *module, "train", "--job", path],
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(order: Job, *module: str) -> list[str]:
    """Run a job to its end; return what it printed."""
    process = started(order, *module)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    return printed.splitlines()


def until(process: subprocess.Popen[str], sign: str) -> None:
    """Read what a process prints up to a sign."""
    assert process.stdout is not None
    read = []
    for line in process.stdout:
        read.append(line)
        if line.startswith(sign):
            return
    raise AssertionError("".join(read))


def curve(order: Job) -> list[dict[str, float]]:
    lines = (Path(order.out) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def assert_same_curve(found: Job, expected: Job) -> None:
    assert len(curve(expected)) >= 2
    for point, other in zip(curve(found), curve(expected), strict=True):
        assert point == pytest.approx(other, rel=1e-5)


def assert_same_bytes(found: Job, expected: Job) -> None:
    assert curve(found) == curve(expected)
    left, right = (Path(order.out) / "model.safetensors" for order in (found, expected))
    assert left.read_bytes() == right.read_bytes()


@pytest.fixture(scope="module")
def alone(root: Path) -> Job:
    """All weights, trained by this process."""
    order = job(root, "alone", FULL)
    train(order, Stop())
    return order


@pytest.fixture(scope="module")
def two(root: Path) -> Job:
    """All weights, sharded over two processes that torchrun started, with layers run twice."""
    order = job(root, "two", replace(FULL, gradient_checkpointing=True))
    printed = finished(order, *TORCHRUN)
    metrics = [line for line in printed if line.startswith("[metric]")]
    assert len(metrics) == len(curve(order))  # one process speaks
    return order


def test_two_sharded_processes_have_the_curve_of_one(alone: Job, two: Job) -> None:
    assert_same_curve(two, alone)
    ours, theirs = (load_file(Path(o.out) / "model.safetensors") for o in (two, alone))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)
    saved = Path(two.work) / "step-000020"
    assert (saved / "weights-00002-of-00002.safetensors").is_file()
    assert not list(saved.glob("*.p*"))  # .pt, .pth, .pkl: nothing is pickled


def test_two_processes_with_adapters_have_the_curve_of_one(root: Path) -> None:
    orders = [job(root, f"lora-{n}", LORA) for n in (1, 2)]
    train(orders[0], Stop())
    finished(orders[1], *OURS, "2")
    assert_same_curve(orders[1], orders[0])
    assert (Path(orders[1].work) / "step-000008" / "weights.safetensors").is_file()


def test_a_run_that_is_stopped_and_killed_ends_with_the_same_bits(root: Path, two: Job) -> None:
    order = job(root, "broken", replace(FULL, gradient_checkpointing=True))
    process = started(order, *TORCHRUN)
    until(process, "[metric] step=4 ")
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "[error] interrupted after step" in printed

    process = started(order, *OURS, "2")
    until(process, "[metric] step=12 ")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGKILL, printed
    assert "ended with signal 9" in printed

    assert any(line.startswith("continues after step") for line in finished(order, *OURS, "2"))
    assert_same_bytes(order, two)


def test_any_number_of_processes_continues_what_any_other_began(root: Path, alone: Job) -> None:
    order = job(root, "one-then-two", FULL)
    with pytest.raises(Interrupted, match="after step 2"):
        train(
            order, tiny_models.StopAfter(9)
        )  # looks once before each of the four passes of a step
    process = started(order, *OURS, "2")
    until(process, "continues after step 2 ")
    until(process, "[metric] step=8 ")
    process.terminate()
    assert "[error] interrupted after step" in process.communicate(timeout=60)[0]
    assert process.returncode == EXIT_INTERRUPTED

    fewer = job(root, "two-then-one", FULL, Path(order.work))
    train(fewer, Stop())
    assert_same_curve(fewer, alone)

    more = job(root, "two-then-three", FULL, Path(order.work))
    finished(more, *OURS, "3")
    assert_same_curve(more, alone)
    assert (Path(more.work) / "step-000020" / "weights-00003-of-00003.safetensors").is_file()
