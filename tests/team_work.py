"""What the processes of test_team, test_sharding and test_checkpoint do together: `team_work.py FOLDER`.

Each writes what it saw into `FOLDER/seen-RANK.json`, for the tests to look at.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasks.trainer import checkpoint, events, parts, sharding
from tasks.trainer.checkpoint import Checkpoint
from tasks.trainer.stopping import Stop
from tasks.trainer.team import Team

JOB = "a" * 64
STEPS = 3
LIMIT = 0.5  # far below the norms: every step is clipped


class Layer(nn.Module):
    """A block with an odd number of rows: two processes hold unequal parts of it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 13)
        self.narrow = nn.Linear(13, 8, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.narrow(torch.tanh(self.wide(states)))


class Model(nn.Module):
    """Two blocks between tied embeddings, and a number of its own."""

    _no_split_modules = ("Layer",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, ids: Tensor) -> Tensor:
        states = self.embedding(ids)
        for layer in self.layers:
            states = layer(states)
        return self.head(states * self.scale)


def train(model: Model, team: Team) -> dict[str, Any]:
    """Take some steps over four rows, one row a pass; return the curve, the norms and the optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    rows = torch.arange(32).reshape(4, 8).remainder(11)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = 0.0
        for row in team.share(list(rows)):
            part = cross_entropy(model(row[:-1]), row[1:], reduction="sum") / 28
            torch.autograd.backward(part)
            loss += part.item()
        losses += team.total(loss)
        team.add_gradients(model.parameters())
        norms.append(sharding.clip(model.parameters(), LIMIT, team))
        optimizer.step()
    return {"losses": losses, "norms": norms, "optimizer": optimizer}


def state(model: Model, optimizer: torch.optim.Optimizer, step: int) -> Checkpoint:
    """Return what is saved of a model in training."""
    weights = dict(model.named_parameters())
    moments = {f"{n}/{m}": v for n, p in weights.items() for m, v in optimizer.state[p].items()}
    random = {"cpu": torch.get_rng_state()}
    tensors = {"weights": dict[str, Tensor](weights), "optimizer": moments, "random": random}
    return Checkpoint(step, JOB, tensors, {"loss": 0.25})


def _talk(team: Team) -> dict[str, Any]:
    graded, half, bare = (nn.Parameter(torch.ones(3)) for _ in range(3))
    graded.grad = torch.full((3,), team.rank + 1.0)
    if team.rank == 1:
        half.grad = torch.full((3,), 5.0)
    team.add_gradients([graded, half, bare])
    return {
        "share": team.share("abcde"),
        "total": team.total(0.1, team.rank),
        "one says yes": team.agree(team.rank == 1),
        "none says yes": team.agree(False),
        "most": team.most(7 - team.rank),
        "gather": team.gather("字" * team.rank),
        "tell": team.tell(f"I am {team.rank}"),
        "gradients": [p.grad if p.grad is None else p.grad.tolist() for p in (graded, half, bare)],
    }


def _sharded(team: Team, folder: Path) -> dict[str, Any]:
    model = Model()
    sharding.shard(SimpleNamespace(model=model, dtype=torch.float32), team)  # type: ignore[arg-type]
    held = sum(parts.held(p)[0].numel() for p in model.parameters())
    curve = train(model, team)
    torch.manual_seed(100 + team.rank)
    checkpoint.save(folder / "two", state(model, curve["optimizer"], STEPS), team)
    whole = {name: parts.full_tensor(p) for name, p in model.named_parameters()}
    if team.leads:
        checkpoint.write_tensors(whole, folder / "two.safetensors")
    stream = torch.get_rng_state()
    again = checkpoint.newest(folder / "two", JOB, team)
    assert again is not None
    assert again.random is not None
    return {
        "numbers held": held,
        "losses": curve["losses"],
        "norms": curve["norms"],
        "own stream": torch.equal(again.random["cpu"], stream),
        "read": _read(model, folder / "two", team),
        "read from one process": _read(model, folder / "one", team),
        "damaged": _damaged(model, curve["optimizer"], folder / "two", team),
    }


def _read(model: Model, work: Path, team: Team) -> dict[str, Any]:
    """Read a checkpoint into the shards of a model; return it whole, as lists."""
    found = checkpoint.newest(work, JOB, team)
    assert found is not None
    seen: dict[str, Any] = {"random": found.random is not None}
    for name, parameter in model.named_parameters():
        fresh = torch.zeros_like(parameter)
        found.read("weights", name, fresh)
        seen[name] = parts.full_tensor(fresh).tolist()
    return seen


def _damaged(model: Model, optimizer: Any, work: Path, team: Team) -> int:
    """Damage the second process's part of a newer checkpoint; return the step that is found."""
    checkpoint.save(work, state(model, optimizer, STEPS + 1), team)
    if team.leads:
        path = work / f"step-{STEPS + 1:06d}" / "weights-00002-of-00002.safetensors"
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    team.wait()
    found = checkpoint.newest(work, JOB, team)
    return found.step if found else 0


def _machines(team: Team, folder: Path) -> dict[str, Any]:
    """Save as two machines that share no directory; look before and after all files are on both."""
    apart = replace(team, local_rank=0, local_size=1)
    own, other = (folder / f"machine-{n}" for n in (team.rank, 1 - team.rank))
    model = Model()
    sharding.shard(SimpleNamespace(model=model, dtype=torch.float32), team)  # type: ignore[arg-type]
    said = StringIO()
    with redirect_stdout(said):
        for step in (1, 2):
            checkpoint.save(own, state(model, torch.optim.AdamW(model.parameters()), step), apart)
        before = checkpoint.newest(own, JOB, apart)
    kept = sorted(path.name for path in own.iterdir())
    mine = {path.relative_to(own): path.read_bytes() for path in own.glob("step-000002/*")}
    team.wait()
    for path, raw in mine.items():
        (other / path).write_bytes(raw)
    team.wait()
    after = checkpoint.newest(own, JOB, apart)
    return {
        "before": before.step if before else 0,
        "said": said.getvalue(),
        "kept": kept,
        "after": after.step if after else 0,
    }


def main(folder: Path) -> None:
    """Do all of it, and write down what was seen."""
    torch.set_num_threads(1)
    with Team.join() as team:
        events.text(f"process {team.rank} speaks")
        events.error(f"process {team.rank} fails")
        with checkpoint.alone(folder / "two", Stop(), team):
            seen = {"talk": _talk(team), "sharded": _sharded(team, folder)}
        seen["machines"] = _machines(team, folder)
        (folder / f"seen-{team.rank}.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
