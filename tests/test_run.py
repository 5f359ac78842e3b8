"""The run around the steps: what it refuses, warns of, keeps, gives up and takes up again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from tasks.trainer import (
    batches,
    events,
    families,
    inspection,
    loop,
    memory,
    model,
    objective,
    passes,
    rates,
    room,
    tuned,
)
from tasks.trainer.encode import Example
from tasks.trainer.errors import ConfigError, Interrupted
from tasks.trainer.job import Full, Job, Lora, Prefix, TrainSpec
from tasks.trainer.model import Loaded
from tasks.trainer.run import Run
from tasks.trainer.stopping import Stop
from tasks.trainer.team import Team

PROJECT = Path(__file__).parents[1]
QUICK = TrainSpec(epochs=2, global_batch=8, checkpoint_steps=5, dev_rows=4, learning_rate=5e-3)


class Killed(BaseException):
    """The process is gone: nothing is saved any more."""


class KilledAfter(Stop):
    """Kills once it has been looked at so many times."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    @property
    def asked(self) -> bool:  # type: ignore[override]
        self.left -= 1
        if self.left < 0:
            raise Killed
        return False


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_models.glm(root / "tiny")
    tiny_models.llama(root / "llama")
    tiny_models.mpt(root / "mpt")
    tiny_models.dataset(root / "data")
    tiny_models.dataset(root / "few", train=6, dev=12)
    return root


def order(folder: Path, home: Path, spec: TrainSpec, data: str = "data", base: str = "tiny") -> Job:
    return Job(
        action="train",
        family=base,
        base=str(folder / base),
        data=str(folder / data),
        out=str(home / "out"),
        work=str(home / "work"),
        train=spec,
        threads=1,
    )


def begun(
    job: Job, spec: TrainSpec, stop: Stop | None = None, clock: Iterator[float] | None = None
) -> Run:
    """A run as `loop.train` makes it, with a clock of its own."""
    loaded = model.load(job)
    rows, dev = loop.read_rows(job, loaded, spec).examples, loop._dev(job, loaded, spec).examples
    tuned.prepare_training(loaded, spec)
    ticks = clock or count(0.0, 0.0)
    run = Run(
        loaded, spec, rows, dev, Path(job.work), "x", stop or Stop(), clock=lambda: next(ticks)
    )
    run.resume()
    return run


def outcome(run: Run) -> tuple[int, list[dict[str, float]], dict[str, bytes]]:
    """The step that is kept, the curve and the weights, to the bit."""
    kept = run.finish()
    weights = run._parameters.items()
    return kept, run.history, {name: p.detach().numpy().tobytes() for name, p in weights}


# accumulation, dropout, packing, patience, best weights, and a checkpoint every third tick of the clock
EVERYTHING = replace(
    QUICK,
    method=Lora(dropout=0.2),
    micro_batch=1,
    packing=True,
    patience=3,
    keep="best",
    checkpoint_minutes=3,
)


def minutes() -> Iterator[float]:
    return count(0.0, 60.0)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    job = order(folder, tmp_path_factory.mktemp("whole"), EVERYTHING)
    return outcome(begun(job, EVERYTHING, clock=minutes()))


def check_killed(folder: Path, home: Path, looks: int, expected: Any) -> None:
    job = order(folder, home, EVERYTHING)
    with pytest.raises(Killed):
        begun(job, EVERYTHING, KilledAfter(looks), minutes()).finish()
    assert outcome(begun(job, EVERYTHING, clock=minutes())) == expected


@pytest.mark.parametrize("looks", [21, 38])
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(
    folder: Path, tmp_path: Path, uninterrupted: Any, looks: int
) -> None:
    check_killed(folder, tmp_path, looks, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("looks", range(0, 46, 3))
def test_a_run_killed_at_any_pass_ends_with_the_same_bits(
    folder: Path, tmp_path: Path, uninterrupted: Any, looks: int
) -> None:
    check_killed(folder, tmp_path, looks, uninterrupted)


def test_a_measurement_that_was_given_up_is_made_by_the_run_that_continues(
    folder: Path, tmp_path: Path
) -> None:
    spec = replace(QUICK, keep="best")
    expected = outcome(begun(order(folder, tmp_path / "whole", spec), spec))
    job = order(folder, tmp_path / "cut", spec)
    with pytest.raises(Interrupted, match="interrupted after step 5;"):
        begun(job, spec, tiny_models.StopAfter(5)).finish()
    assert outcome(begun(job, spec)) == expected


def test_checkpoints_are_written_by_the_clock_and_change_no_curve(
    folder: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    spec = replace(QUICK, checkpoint_minutes=3)
    run = begun(order(folder, tmp_path / "clock", spec), spec, KilledAfter(9), minutes())
    with pytest.raises(Killed):
        run.finish()
    found = sorted(path.name for path in (tmp_path / "clock/work").glob("step-*"))
    assert found == ["step-000005", "step-000008"]
    never = replace(spec, checkpoint_minutes=0)
    runs = [
        begun(order(folder, tmp_path / str(one.checkpoint_minutes), one), one, clock=minutes())
        for one in (spec, never)
    ]
    assert outcome(runs[0]) == outcome(runs[1])


def test_the_best_weights_are_the_result_and_further_steps_of_no_use_are_not_taken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(
        QUICK, method=Full(), epochs=80, dev_rows=12, keep="best", patience=2, global_batch=6
    )
    job = order(folder, tmp_path, spec, "few")
    loop.train(job, Stop())
    said = capsys.readouterr().out
    points = [json.loads(line) for line in (Path(job.out) / "metrics.jsonl").open()]
    measured = [(p["dev_loss"], p["step"]) for p in points if "dev_loss" in p]
    lowest, best = min(measured)
    assert points[-1]["step"] == best + 2 * spec.checkpoint_steps < 80
    assert f"the result is step {best}, held-out loss {lowest:.4f}" in said
    assert f"stopped after step {points[-1]['step']}" in said
    record = json.loads((Path(job.out) / "model.json").read_text(encoding="utf-8"))
    assert (record["data"]["kept_step"], record["data"]["steps"]) == (best, points[-1]["step"])
    loaded = model.load(replace(job, action="predict", tuned=job.out))
    dev = loop._dev(job, loaded, spec).examples
    with torch.no_grad():
        again = sum(float(objective.summed_loss(loaded, batches.collate([e]))) for e in dev)
    assert again / objective.scored(dev) == pytest.approx(lowest, rel=1e-5)


def test_damaged_best_weights_begin_the_run_anew(
    folder: Path, tmp_path: Path, uninterrupted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    job = order(folder, tmp_path, EVERYTHING)
    with pytest.raises(Interrupted):
        begun(job, EVERYTHING, tiny_models.StopAfter(36), minutes()).finish()
    for path in (tmp_path / "work/best").glob("step-*/weights.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert outcome(begun(job, EVERYTHING, clock=minutes())) == uninterrupted
    assert "begins again from the first step" in capsys.readouterr().out


@pytest.mark.parametrize("base", ["tiny", "llama", "mpt"])
def test_packed_rows_do_not_see_each_other(folder: Path, tmp_path: Path, base: str) -> None:
    spec = replace(QUICK, packing=True)
    job = order(folder, tmp_path, spec, base=base)
    loaded = model.load(job)
    tuned.prepare_training(loaded, spec)
    rows = sorted(
        loop.read_rows(job, loaded, spec).examples[:16], key=lambda row: -len(row.input_ids)
    )
    found = []
    for packing in (False, True):
        loss = 0.0
        for batch in batches.passes(rows, 4, packing):
            part = objective.summed_loss(loaded, batch)
            part.backward()
            loss += part.item()
        gradients = {n: p.grad.clone() for n, p in loaded.trainable().items() if p.grad is not None}
        found.append((loss / objective.scored(rows), gradients))
        for parameter in loaded.trainable().values():
            parameter.grad = None
    (alone, apart), (packed, together) = found
    assert packed == pytest.approx(alone, abs=1e-5)
    for name, gradient in apart.items():
        assert torch.allclose(gradient, together[name], atol=2e-4), name


def test_packing_leaves_out_nothing_and_overflows_nothing() -> None:
    rows = [Example([5] * n, [-100, *[5] * (n - 1)]) for n in (40, 31, 20, 9, 9, 8, 3, 2)]
    cut = batches.passes(rows, 2, True)
    assert sum(int((b.labels != -100).sum()) for b in cut) == objective.scored(rows)
    most = batches.packed_length([len(row.input_ids) for row in rows])
    assert all(b.input_ids.shape[1] <= most and len(b.input_ids) <= 2 for b in cut)
    assert sum(int((b.positions == 0).sum()) for b in cut if b.positions is not None) == len(rows)


def test_a_packed_sequence_is_not_longer_than_what_the_model_holds(
    folder: Path, tmp_path: Path
) -> None:
    spec = replace(QUICK, packing=True)
    loaded = model.load(order(folder, tmp_path, spec, base="mpt"))
    tuned.prepare_training(loaded, spec)
    # four of them together are 800 tokens; the model's bias for distance knows 512
    rows = [Example([5] * 200, [-100] * 100 + [5] * 100)] * 4
    run = passes.Passes(loaded, spec, Stop(), Team.single())
    run.rows = 4
    apart = objective.summed_loss(loaded, batches.collate(rows)).item()
    assert run.backward(rows) == pytest.approx(apart, rel=1e-4)


def test_a_step_more_is_not_taken_because_of_rounding() -> None:
    # 1.1 times 100 is 110.00000000000001
    for epochs, rows, read in ((1.1, 100, 110), (0.14, 50, 7), (2.0, 11, 22), (0.55, 3, 2)):
        schedule = batches.Schedule([5] * rows, TrainSpec(epochs=epochs, global_batch=1))
        assert schedule.total == schedule.steps == read
    assert batches.Schedule([5] * 3, TrainSpec(epochs=1e-9)).steps == 1


class Crowded:
    """A device without memory for passes of many rows, after some passes."""

    def __init__(self, rows: int, after: int = 0) -> None:
        self.rows, self.left = rows, after

    def __call__(self, loaded: Loaded, batch: batches.Batch) -> torch.Tensor:
        self.left -= 1
        if self.left < 0 and len(batch.input_ids) > self.rows:
            torch.rand(7)  # a stream that has moved on
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return objective.summed_loss(loaded, batch)


def test_passes_that_do_not_fit_are_halved_and_the_step_is_done_again(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = replace(QUICK, method=Lora(dropout=0.2), max_steps=3)
    small = replace(spec, micro_batch=2)
    expected = outcome(begun(order(folder, tmp_path / "small", small), small))
    monkeypatch.setattr(passes, "summed_loss", Crowded(2))
    assert outcome(begun(order(folder, tmp_path / "full", spec), spec)) == expected
    said = capsys.readouterr().out
    assert "passes of 8 rows do not fit; from here on 4 rows a pass" in said
    assert "passes of 4 rows do not fit; from here on 2 rows a pass" in said


def test_where_not_one_row_fits_the_run_ends_with_advice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "summed_loss", Crowded(0, after=3))
    with pytest.raises(ConfigError, match=r"passes of 1 rows \(CUDA out of memory.*qlora"):
        begun(order(folder, tmp_path, QUICK), QUICK).finish()


class Stuck(torch.autograd.Function):
    """Finds no memory on its way back."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")


def crowded(loaded: Loaded, batch: batches.Batch) -> torch.Tensor:
    """Gradients find memory for no pass of more than two rows, measurements for none of more than one."""
    loss = objective.summed_loss(loaded, batch)
    if loss.requires_grad:
        # half of the gradients are there when the memory is full
        stuck = len(batch.input_ids) > 2
        return (loss + 0 * Stuck.apply(loss)) if stuck else loss  # type: ignore[no-untyped-call]
    if len(batch.input_ids) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return loss


def test_memory_that_ends_in_a_backward_pass_or_a_measurement_leaves_no_trace(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(QUICK, method=Lora(dropout=0.2), max_steps=3)
    small = replace(spec, micro_batch=2)
    expected = outcome(begun(order(folder, tmp_path / "small", small), small))
    monkeypatch.setattr(passes, "summed_loss", crowded)
    run = begun(order(folder, tmp_path / "full", spec), spec)
    found = outcome(run)
    assert run._passes.rows == 1
    assert found[2] == expected[2]
    assert found[1][-1]["dev_loss"] == pytest.approx(expected[1][-1]["dev_loss"], rel=1e-5)


def test_memory_that_ends_in_the_optimizer_ends_the_run_with_its_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(QUICK, max_steps=4, checkpoint_steps=1, dev_rows=0)
    expected = outcome(begun(order(folder, tmp_path / "whole", spec), spec))
    job = order(folder, tmp_path / "cut", spec)
    run = begun(job, spec)
    steps = count()
    taken = run._optimizer.step

    def step(rate: float) -> None:
        if next(steps) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        taken(rate)

    monkeypatch.setattr(run._optimizer, "step", step)
    with pytest.raises(ConfigError, match="memory: it does not suffice"):
        run.finish()
    assert outcome(begun(job, spec)) == expected


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried",
    ],
)
def test_memory_that_does_not_suffice_is_known_by_what_is_said(said: str) -> None:
    assert memory.exhausted(RuntimeError(said))
    assert not memory.exhausted(RuntimeError("The size of tensor a (800) must match"))


def test_a_smaller_pass_is_kept_by_the_run_that_continues(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = order(folder, tmp_path, QUICK)
    monkeypatch.setattr(passes, "summed_loss", Crowded(4, after=2))
    with pytest.raises(Interrupted):
        begun(job, QUICK, tiny_models.StopAfter(9)).finish()
    monkeypatch.undo()
    assert begun(job, QUICK)._passes.rows == 4


def test_a_state_that_is_suspected_replaces_no_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(QUICK, max_steps=60, checkpoint_steps=1, dev_rows=0)
    calls = count()

    def exploding(loaded: Loaded, batch: batches.Batch) -> torch.Tensor:
        loss = objective.summed_loss(loaded, batch)
        return loss * 8 if next(calls) >= 20 else loss

    monkeypatch.setattr(passes, "summed_loss", exploding)
    with pytest.raises(
        ConfigError, match=r"step 28: training diverges .*checkpoint: .*step-000020"
    ):
        begun(order(folder, tmp_path, spec), spec).finish()
    assert {p.name for p in (tmp_path / "work").glob("step-*")} == {"step-000019", "step-000020"}


def test_a_run_that_ends_in_what_is_suspected_says_so(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = replace(QUICK, max_steps=16, checkpoint_steps=1, dev_rows=0)
    calls = count()

    def exploding(loaded: Loaded, batch: batches.Batch) -> torch.Tensor:
        loss = objective.summed_loss(loaded, batch)
        return loss * 8 if next(calls) >= 14 else loss

    monkeypatch.setattr(passes, "summed_loss", exploding)
    begun(order(folder, tmp_path, spec), spec).finish()
    assert "The last good checkpoint: " in (said := capsys.readouterr().out)
    assert "step-000014" in said


def test_every_metric_is_printed_by_the_name_that_is_promised(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(QUICK, max_steps=2)
    begun(order(folder, tmp_path, spec), spec).finish()
    (line,) = [said for said in capsys.readouterr().out.splitlines() if "[metric]" in said]
    event = events.parse(line)
    assert isinstance(event, events.Metric)
    assert set(event.values) == set(events.METRICS)
    found = {one["Name"]: re.search(one["Regex"], line) for one in events.definitions()}
    assert {name: float(m[1]) for name, m in found.items() if m} == event.values


def sized(free: int, monkeypatch: pytest.MonkeyPatch, job: Job, spec: TrainSpec) -> int:
    loaded = model.load(job)
    rows = loop.read_rows(job, loaded, spec).examples
    tuned.prepare_training(loaded, spec)
    monkeypatch.setattr(memory, "free", lambda *_: free)
    return memory.rows_of_a_pass(loaded, spec, rows, 12, Team.single())


def test_a_pass_takes_the_most_rows_that_fit_and_divide_the_step(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = order(folder, tmp_path, QUICK)
    assert sized(10**9, monkeypatch, job, QUICK) == 12
    assert "1 a step" in capsys.readouterr().out
    found = [sized(size, monkeypatch, job, QUICK) for size in range(900_000, 6_000_000, 300_000)]
    assert found == sorted(found)
    assert {1, 2, 3, 4, 6} <= set(found)
    with pytest.raises(
        ConfigError, match=r"one row of 3\d tokens takes about .*gradient_check.*qlora.*micro_batch"
    ):
        sized(300_000, monkeypatch, job, QUICK)


def test_the_passes_of_a_step_are_few_and_even() -> None:
    for share in range(1, 40):
        for fitting in range(-2, 45):
            rows = memory._most_even(share, fitting)
            assert 1 <= rows <= max(1, fitting)
            cut = [len(range(start, min(start + rows, share))) for start in range(0, share, rows)]
            assert len(cut) == -(-share // max(1, min(fitting, share))), "not one more than needed"
            assert len(cut) == 1 or max(cut) - min(cut) < len(cut)


def test_rows_of_a_pass_that_were_asked_for_are_taken_whatever_the_estimate(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = replace(QUICK, micro_batch=4, max_steps=1)
    job = order(folder, tmp_path, spec)
    monkeypatch.setattr(memory, "free", lambda *_: 1000)
    with pytest.raises(ConfigError, match=r"of weights .* To try it .*set train\.micro_batch"):
        loop.train(replace(job, train=replace(spec, micro_batch=0)), Stop())
    capsys.readouterr()
    loop.train(job, Stop())
    said = capsys.readouterr().out
    assert said.count("train.micro_batch is set: goes on") == 2
    assert re.search(r"warning: memory: a pass of 4 rows of 3\d tokens takes about", said)
    assert "2 a step" in said


def test_weights_that_cannot_fit_are_refused_before_they_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(QUICK, method=Full())
    monkeypatch.setattr(memory, "free", lambda *_: 5 * 10**5)
    with pytest.raises(ConfigError, match=r"full takes about .* of weights .*lora or qlora"):
        loop.train(order(folder, tmp_path, spec), Stop())


def test_the_memory_of_the_machine_and_of_its_containers_is_read(tmp_path: Path) -> None:
    for name, text in {
        "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
        "proc/self/cgroup": "4:memory:/a/b\n0::/c\n",
        "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/a/b/memory.stat": "inactive_file 1\ntotal_inactive_file 1000\n",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "7000000\n",
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "5000\n",
        "sys/fs/cgroup/memory/a/memory.stat": "total_inactive_file 1000\n",
        "sys/fs/cgroup/c/memory.max": "max\n",
        "sys/fs/cgroup/c/memory.current": "5000\n",
        "sys/fs/cgroup/c/memory.stat": "inactive_file 0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    assert room.host(tmp_path) == 7_000_000 - 5_000 + 1_000
    (tmp_path / "sys/fs/cgroup/c/memory.max").write_text("1005000", encoding="ascii")
    assert room.host(tmp_path) == 1_000_000
    # a model that was hashed and then loaded was read twice: its pages are active, and are given back too
    statistics = "inactive_file 100\n\nactive_file 2000\nactive_anon 7\n"
    (tmp_path / "sys/fs/cgroup/c/memory.stat").write_text(statistics, encoding="ascii")
    assert room.host(tmp_path) == 1_002_100
    (tmp_path / "sys/fs/cgroup/c/memory.current").write_text("9000000", encoding="ascii")
    assert room.host(tmp_path) == 0
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/a/b\n", encoding="ascii")
    assert room.host(tmp_path) == 7_000_000 - 5_000 + 1_000
    assert 0 < room.host() < 2**50


def test_a_system_that_does_not_tell_of_its_memory_refuses_nothing(tmp_path: Path) -> None:
    assert room.host(tmp_path) > 2**28, "no /proc at all"
    (tmp_path / "proc").mkdir()
    told = "MemTotal: 9000 kB\nMemFree: 500 kB\nBuffers: 20 kB\nCached: 3000 kB\n"
    (tmp_path / "proc/meminfo").write_text(told, encoding="ascii")
    assert room.host(tmp_path) == 3520 * 1024, "a kernel without MemAvailable"


def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    large = bytearray(300 * 2**20)
    large[:: 2**12] = b"1" * len(large[:: 2**12])
    asked = "from tasks.trainer import room; print(room.peak())"
    child = [sys.executable, "-c", asked]
    said = subprocess.run(child, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert 2**20 < int(said) < len(large) // 2 < room.peak()


def test_the_usual_rate_of_method_and_family_stands_in_for_none() -> None:
    family = families.load("chatglm")
    spec = TrainSpec(learning_rate=0.0)
    for method, rate in ((Lora(), 1e-4), (Prefix(), 2e-2), (Full(), 1e-5)):
        assert rates.resolved(replace(spec, method=method), family).learning_rate == rate
    assert rates.resolved(replace(spec, learning_rate=3e-4), family).learning_rate == 3e-4


@pytest.mark.parametrize(
    ("method", "rate", "said"),
    [
        (Prefix(), 5e-5, "400 times below what is usual for prefix .*hardly move"),
        (Full(), 2e-2, "2,000 times above what is usual for full .*not be stable"),
        (Lora(), 5e-5, ""),
        (Lora(), 5e-4, ""),
        (Prefix(), 2e-2, ""),
    ],
)
def test_a_rate_that_is_far_from_the_usual_is_said(
    method: Any, rate: float, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rates.say(TrainSpec(method=method, learning_rate=rate), families.load("chatglm"))
    out = capsys.readouterr().out
    assert re.search(said, out) if said else not out


def test_epochs_and_steps_are_both_said_and_strange_ones_warned_of(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for spec, lines in (
        (replace(QUICK, max_steps=3), ["3 steps of 8 rows, 0.38 epochs"]),
        (replace(QUICK, epochs=0.5), ["4 steps of 8 rows, 0.50 epochs"]),
        (
            replace(QUICK, max_steps=100, global_batch=16),
            [
                "100 steps of 16 rows, 25.00 epochs",
                "25 epochs read every row",
                "10 epochs are 40 steps",
            ],
        ),
        (
            replace(QUICK, epochs=3, global_batch=128),
            ["global_batch 128 is more than the 64 answers", "3 steps of 64 rows, 3.00 epochs"],
        ),
    ):
        loop._say(batches.Schedule([5] * 64, spec), spec, 64)
        said = capsys.readouterr().out
        assert all(line in said for line in lines), said
        assert ("warning" in said) == (len(lines) > 1)


def test_rows_that_the_model_cannot_hold_are_refused(folder: Path, tmp_path: Path) -> None:
    loaded = model.load(order(folder, tmp_path, QUICK))
    inspection.rows(loaded, [Example([5] * 512, [5] * 512)])
    with pytest.raises(ConfigError, match=r"longest row has 513 tokens \(the model holds 512\)"):
        inspection.rows(loaded, [Example([5] * 513, [5] * 513)])
    with pytest.raises(ConfigError, match=r"found 420; the model has 420"):
        inspection.rows(loaded, [Example([5, 420], [5, 420])])
    tuned.prepare_training(loaded, replace(QUICK, method=Prefix(tokens=16)))
    with pytest.raises(ConfigError, match="500 tokens behind a prefix of 16"):
        inspection.rows(loaded, [Example([5] * 500, [5] * 500)])


def test_a_tensor_that_the_loss_does_not_reach_is_named() -> None:
    def parameter(gradient: float | None) -> torch.nn.Parameter:
        made = torch.nn.Parameter(torch.ones(3))
        made.grad = None if gradient is None else torch.full((3,), gradient)
        return made

    inspection.gradients({"x.lora_A.w": parameter(0.0), "x.lora_B.w": parameter(0.1)})
    for gradient, what in (
        (0.0, r"found a gradient of zero"),
        (None, r"found no gradient"),
        (float("nan"), r"not finite \(found norm nan"),
        (float("inf"), r"not finite \(found norm inf"),
    ):
        with pytest.raises(ConfigError, match=f"^prefix.embedding: .*{what}"):
            inspection.gradients({"a": parameter(1.0), "prefix.embedding": parameter(gradient)})


@pytest.mark.parametrize("method", [Prefix(tokens=8), Prefix(tokens=8, projection=True), Full()])
def test_the_first_gradient_reaches_all_that_is_trained(
    folder: Path, tmp_path: Path, method: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = replace(QUICK, method=method, max_steps=1)
    begun(order(folder, tmp_path, spec), spec).finish()
    assert "the first gradient reaches all" in capsys.readouterr().out
