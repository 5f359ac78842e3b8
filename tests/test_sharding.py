"""A model spread over processes learns what it learns on one, and its checkpoints fit any number."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import team_work
import torch
from safetensors.torch import load_file
from team_work import JOB, LIMIT, STEPS, Model
from together import run as run_together

from tasks.trainer import checkpoint, events, parts, sharding
from tasks.trainer.errors import ConfigError
from tasks.trainer.parts import Block
from tasks.trainer.team import Team


def held_by(model: torch.nn.Module) -> Any:
    return SimpleNamespace(model=model, dtype=torch.float32)


@pytest.fixture(scope="module")
def alone() -> tuple[Model, dict[str, Any]]:
    """A model trained by this process, with its curve."""
    torch.set_num_threads(1)
    model = Model()
    return model, team_work.train(model, Team.single())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, alone: tuple[Model, dict[str, Any]]) -> Path:
    """What two processes wrote, which found a checkpoint of one."""
    folder = tmp_path_factory.mktemp("together")
    model, curve = alone
    checkpoint.save(folder / "one", team_work.state(model, curve["optimizer"], STEPS))
    outputs = run_together(2, Path(team_work.__file__), folder)
    (folder / "said.json").write_text(json.dumps(outputs))
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"seen-{rank}.json").read_text()) for rank in range(2)]


def test_numbers_and_texts_go_round(seen: list[dict[str, Any]]) -> None:
    first, second = (of["talk"] for of in seen)
    assert (first.pop("share"), second.pop("share")) == (["a", "c", "e"], ["b", "d"])
    assert first == second
    assert first.pop("gradients") == [[3.0] * 3, [5.0] * 3, None]
    assert first == {
        "total": [0.2, 1.0],
        "one says yes": True,
        "none says yes": False,
        "most": 7,
        "gather": ["", "字"],
        "tell": "I am 0",
    }


def test_only_the_first_process_speaks_but_each_says_its_errors(folder: Path) -> None:
    first, second = json.loads((folder / "said.json").read_text())
    assert first.startswith("process 0 speaks\n[error] process 0 fails\n")
    assert second.rstrip() == "[error] process 1 fails"
    assert isinstance(events.parse(second), events.Failure)


def test_two_processes_take_the_steps_that_one_takes(
    seen: list[dict[str, Any]], folder: Path, alone: tuple[Model, dict[str, Any]]
) -> None:
    model, curve = alone
    assert min(curve["norms"]) > LIMIT
    for of in seen:
        assert of["sharded"]["losses"] == pytest.approx(curve["losses"], rel=1e-6)
        assert of["sharded"]["norms"] == pytest.approx(curve["norms"], rel=1e-6)
    learnt = load_file(folder / "two.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(learnt[name], parameter.detach(), rtol=1e-4, atol=1e-5)


def test_each_process_holds_its_part_only(seen: list[dict[str, Any]]) -> None:
    held = [of["sharded"]["numbers held"] for of in seen]
    assert sum(held) == sum(p.numel() for p in Model().parameters())
    assert max(held) < 0.55 * sum(held)


def test_a_sharded_checkpoint_holds_every_part_once(folder: Path) -> None:
    saved = folder / "two" / f"step-{STEPS:06d}"
    assert {path.name for path in saved.iterdir()} == {
        "manifest.json",
        "state.json",
        *(
            f"{group}-{part}-of-00002.safetensors"
            for group in ("optimizer", "random", "weights")
            for part in ("00001", "00002")
        ),
    }
    sizes = [load_file(path) for path in saved.glob("weights-*")]
    numbers = sum(tensor.numel() for part in sizes for tensor in part.values())
    assert numbers == sum(p.numel() for p in Model().parameters())


def test_sharded_weights_and_streams_come_back_as_they_were(
    seen: list[dict[str, Any]], folder: Path
) -> None:
    learnt = {n: t.tolist() for n, t in load_file(folder / "two.safetensors").items()}
    assert seen[0]["sharded"]["read"] == learnt | {"random": True}
    assert seen[1]["sharded"]["read"] == learnt | {"random": True}
    assert seen[0]["sharded"]["own stream"]
    assert seen[1]["sharded"]["own stream"]


def test_two_processes_continue_what_one_began(
    seen: list[dict[str, Any]], alone: tuple[Model, dict[str, Any]]
) -> None:
    weights = {n: p.tolist() for n, p in alone[0].named_parameters()}
    assert seen[1]["sharded"]["read from one process"] == weights | {"random": False}


def test_one_process_continues_what_two_began(folder: Path) -> None:
    found = checkpoint.newest(folder / "two", JOB)
    assert found is not None
    assert (found.step, found.values, found.random) == (STEPS, {"loss": 0.25}, None)
    learnt = load_file(folder / "two.safetensors")
    assert found.names("weights") == sorted(learnt)
    for name, tensor in learnt.items():
        fresh = torch.zeros_like(tensor)
        found.read("weights", name, fresh)
        assert torch.equal(fresh, tensor)
        assert torch.equal(found.whole("weights", name), tensor)
        assert float(found.whole("optimizer", f"{name}/step")) == STEPS
        assert found.whole("optimizer", f"{name}/exp_avg").shape == tensor.shape


def test_a_part_that_one_process_finds_damaged_is_left_out_by_all(
    seen: list[dict[str, Any]], folder: Path
) -> None:
    assert [of["sharded"]["damaged"] for of in seen] == [STEPS, STEPS]
    said = json.loads((folder / "said.json").read_text())[0]
    assert f"checkpoint step-{STEPS + 1:06d} is damaged" in said


def test_machines_without_a_shared_directory_need_the_files_of_all(
    seen: list[dict[str, Any]],
) -> None:
    first, second = (of["machines"] for of in seen)
    assert first["before"] == second["before"] == 0
    assert first["said"].count("each machine keeps its own part of the checkpoints") == 1
    assert "step-000002 is damaged and is left out" in first["said"]
    assert first["kept"] == second["kept"] == ["step-000001", "step-000002"]
    assert first["after"] == second["after"] == 2


def test_a_tensor_of_another_shape_is_not_filled(folder: Path) -> None:
    found = checkpoint.newest(folder / "two", JOB)
    assert found is not None
    for shape in ((11, 9), (10, 8), (12, 8), (88,)):
        with pytest.raises(ConfigError, match=r"embedding\.weight: does not fit \(found \(11, 8\)"):
            found.read("weights", "embedding.weight", torch.zeros(shape))
    with pytest.raises(ConfigError, match="does not fit"):
        found.read("weights", "no such name", torch.zeros(2))


def test_blocks_meet_where_they_overlap() -> None:
    left, right = Block((0, 0), (4, 6)), Block((2, 4), (5, 5))
    common = left.common(right)
    assert common == right.common(left) == Block((2, 4), (2, 2))
    assert common.slices(right) == (slice(0, 2), slice(0, 2))
    assert common.slices(left) == (slice(2, 4), slice(4, 6))
    assert left.common(Block((4, 0), (1, 6))) is None
    assert Block((), ()).common(Block((), ())) == Block((), ())


def test_clipping_alone_is_that_of_torch() -> None:
    ours, theirs = ([torch.nn.Parameter(torch.ones(n)) for n in (3, 5)] for _ in range(2))
    for parameter, other in zip(ours, theirs, strict=True):
        parameter.grad, other.grad = torch.full_like(parameter, 2.0), torch.full_like(other, 2.0)
    norm = sharding.clip(ours, 1.0, Team.single())
    assert norm == float(torch.nn.utils.clip_grad_norm_(theirs, 1.0))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert sharding.clip(ours, 0.0, Team.single()) == pytest.approx(1.0)


def test_blocks_are_found_and_a_model_without_them_is_refused() -> None:
    model = Model()
    assert sharding.blocks(model) == list(model.layers)
    with pytest.raises(ConfigError, match="Linear does not say which of its parts are blocks"):
        sharding.shard(held_by(torch.nn.Linear(2, 2)), Team(0, 2, torch.device("cpu")))


def test_quantised_weights_are_not_spread() -> None:
    model = Model()
    model.layers[0].packed = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), False)
    with pytest.raises(ConfigError, match=r"quantised weights .* \(found torch\.uint8\)"):
        sharding.shard(held_by(model), Team(0, 2, torch.device("cpu")))


def test_one_process_keeps_all_weights(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model()
    sharding.shard(held_by(model), Team.single())
    assert not any(parts.sharded(p) for p in model.parameters())
    assert "there is one process" in capsys.readouterr().out


def test_a_plain_tensor_is_whole_already() -> None:
    tensor = torch.nn.Parameter(torch.ones(2, 3))
    assert not parts.sharded(tensor)
    assert torch.equal(parts.full_tensor(tensor), tensor)
    assert parts.held(tensor)[1] == Block((0, 0), (2, 3))
