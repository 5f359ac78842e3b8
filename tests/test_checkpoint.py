"""Checkpoints are whole or not there, and a work directory has one trainer at a time."""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.trainer import checkpoint
from tasks.trainer.checkpoint import Checkpoint
from tasks.trainer.errors import ConfigError, Interrupted
from tasks.trainer.stopping import Stop

JOB = "a" * 64


def at(step: int, job: str = JOB) -> Checkpoint:
    tensors = {
        "weights": {"w": torch.full((2, 3), float(step))},
        "optimizer": {},
        "random": {"cpu": torch.get_rng_state()},
    }
    return Checkpoint(step, job, tensors, {"loss": 0.1 * step, "history": [{"step": step}]})


def names(work: Path) -> list[str]:
    return sorted(path.name for path in work.iterdir())


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, at(50))
    found = checkpoint.newest(tmp_path, JOB)
    assert found is not None
    assert (found.step, found.values) == (50, at(50).values)
    assert found.names("weights") == ["w"]
    assert found.names("optimizer") == []
    weights = torch.empty(2, 3)
    found.read("weights", "w", weights)
    assert torch.equal(weights, torch.full((2, 3), 50.0))
    assert torch.equal(found.whole("weights", "w"), weights)
    assert found.random is not None
    assert torch.equal(found.random["cpu"], torch.get_rng_state())


def test_where_there_is_none_none_is_found(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, JOB) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 999_995, 1_000_000):
        checkpoint.save(tmp_path, at(step))
    assert names(tmp_path) == ["step-1000000", "step-999995"]
    found = checkpoint.newest(tmp_path, JOB)
    assert found is not None
    assert found.step == 1_000_000


def flip_a_bit(folder: Path) -> None:
    path = folder / "weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def tear(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def lose_a_file(folder: Path) -> None:
    (folder / "random.safetensors").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:40])


def forge_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"files": 3}))


@pytest.mark.parametrize(
    "damage",
    [flip_a_bit, tear, lose_a_file, lose_the_manifest, tear_the_manifest, forge_the_manifest],
)
def test_a_damaged_checkpoint_is_left_out_with_a_word(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, at(50))
    checkpoint.save(tmp_path, at(100))
    damage(tmp_path / "step-000100")
    found = checkpoint.newest(tmp_path, JOB)
    assert found is not None
    assert found.step == 50
    assert "step-000100 is damaged" in capsys.readouterr().out


def test_a_checkpoint_of_another_job_is_refused_and_kept(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, at(50, job="b" * 64))
    with pytest.raises(ConfigError, match="a checkpoint of another job"):
        checkpoint.newest(tmp_path, JOB)
    assert names(tmp_path) == ["step-000050"]


def test_what_a_killed_trainer_left_half_written_is_cleared(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, at(50))
    (tmp_path / ".step-000100.partial").mkdir()
    with checkpoint.alone(tmp_path, Stop()):
        assert names(tmp_path) == ["lock", "step-000050"]


def test_a_second_trainer_waits_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []

    def second() -> None:
        with checkpoint.alone(tmp_path, Stop()):
            order.append("second")

    waiting = threading.Thread(target=second)
    with checkpoint.alone(tmp_path, Stop()):
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        order.append("first")
    waiting.join(timeout=30)
    assert order == ["first", "second"]
    assert "another trainer works in" in capsys.readouterr().out


def test_a_waiting_trainer_can_be_stopped(tmp_path: Path) -> None:
    stop = Stop()
    stop.asked = True
    with (
        checkpoint.alone(tmp_path, Stop()),
        pytest.raises(Interrupted),
        checkpoint.alone(tmp_path, stop),
    ):
        pass


def test_a_disk_that_takes_no_more_is_reported_with_a_remedy(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ConfigError, match=r"w\.safetensors: cannot be written .*Free space"):
            checkpoint.write_tensors({"w": torch.zeros(100_000)}, tmp_path / "w.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.ones(2)}
    checkpoint.write_tensors(tensors, tmp_path / "1")
    checkpoint.write_tensors(dict(reversed(tensors.items())), tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
