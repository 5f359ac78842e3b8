"""The guard against divergence: silent on healthy curves, loud on broken ones, and in time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator

import pytest

from tasks.trainer.guard import Guard

VOCABULARY = 65_024
STEPS = 300


def healthy(seed: int) -> tuple[list[float], random.Random]:
    """A falling loss with the noise of anything from one row a step to many, and sometimes spikes."""
    draw = random.Random(seed)
    start, rest, time = draw.uniform(1.5, 11), draw.uniform(0.02, 0.9), draw.uniform(5, 200)
    noise = draw.choice([0.05, 0.1, 0.2, 0.4, 0.7, 0.9])
    spiky, hot = draw.random() < 0.5, 0
    losses = []
    for step in range(STEPS):
        mean = start * (rest + (1 - rest) * math.exp(-step / time))
        loss = mean * math.exp(draw.gauss(0, noise) - noise**2 / 2)
        if spiky and draw.random() < 0.01:
            hot = draw.randint(1, 3)
        if hot:
            hot, loss = hot - 1, loss + draw.uniform(1, 8)
        losses.append(loss)
    return losses, draw


def alarm(losses: list[float], vocabulary: int = VOCABULARY) -> int | None:
    """The step at which the guard speaks."""
    guard = Guard(vocabulary)
    for step, loss in enumerate(losses):
        if guard.look(loss, 1.0, step == len(losses) - 1):
            return step
    return None


def test_healthy_curves_raise_no_alarm() -> None:
    assert [seed for seed in range(250) if alarm(healthy(seed)[0]) is not None] == []


def diverging() -> Iterator[tuple[list[float], int]]:
    for seed in range(150):
        losses, draw = healthy(seed)
        begins = draw.randint(12, STEPS - 60)
        base = losses[begins - 1]
        yield [*losses[:begins], *(base * 1.3**i + 5 for i in range(1, 60))], begins


def test_an_explosion_is_seen_within_twenty_steps() -> None:
    late = [
        found - begins for losses, begins in diverging() if (found := alarm(losses)) is not None
    ]
    assert len(late) == 150
    assert max(late) < 20


def test_a_model_that_falls_back_to_guessing_is_seen() -> None:
    guessing = math.log(VOCABULARY)
    for lowest in (0.1, 1.0, 3.4, 5.0):
        draw = random.Random(1)
        losses = [lowest * draw.uniform(0.8, 1.2) for _ in range(50)]
        found = alarm([*losses, *[guessing] * 20])
        assert found is not None
        assert found - 50 < 10


def test_a_run_that_explodes_in_its_first_step_is_seen() -> None:
    assert alarm([4.8, *[40.0] * 20]) == 8


def test_a_spike_that_comes_down_again_is_none() -> None:
    assert alarm([3.0] * 30 + [20.0] * 7 + [3.0] * 30) is None
    assert alarm([3.0] * 30 + [20.0] * 5) == 34, "at the end nothing can come down any more"


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_ends_the_run_at_once(loss: float) -> None:
    assert Guard(VOCABULARY).look(loss, 1.0)
    assert Guard(VOCABULARY).look(1.0, loss)


def test_a_loss_of_zero_ends_the_run_after_ten_steps() -> None:
    assert alarm([2.0] * 5 + [0.0] * 30) == 14
    assert alarm([2.0] * 5 + [0.0] * 9 + [1.0] + [1e-9] * 9 + [1.0]) is None
    assert alarm([1e-5] * 50) is None


def test_rows_that_are_known_by_heart_are_said_once_and_end_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    guard = Guard(VOCABULARY)
    known = [max(2.5 * 0.8**step, 1e-9) for step in range(90)] + [0.0] * 60
    for loss in known[:100]:
        assert guard.look(loss, 0.1) == ""
    assert not guard.suspects, "its checkpoints are as good as any"
    again = Guard(VOCABULARY)
    again.restore(json.loads(json.dumps(guard.state())))
    for loss in known[100:]:
        assert again.look(loss, 0.0, last=True) == ""
    assert capsys.readouterr().out.count("knows its rows by heart") == 1


@pytest.mark.parametrize("before", [[], [11.0], [2.0] * 40, [0.3] * 40])
def test_a_loss_that_falls_to_zero_from_one_step_to_the_next_is_broken(before: list[float]) -> None:
    assert alarm([*before, *[0.0] * 30]) == len(before) + 9


def test_a_base_that_is_worse_than_guessing_may_learn() -> None:
    slow = [30 * 0.98**step for step in range(200)]
    assert slow[0] > 2 * math.log(420)
    assert alarm(slow, 420) is None
    assert alarm([30.0, *[60.0] * 20], 420) == 8
    guard = Guard(420)
    guard.look(slow[0], 1.0)
    again = Guard(420)
    again.restore(json.loads(json.dumps(guard.state())))
    assert not any(again.look(loss, 1.0) for loss in slow[1:])


def test_what_was_seen_survives_an_interruption() -> None:
    losses = [3.0] * 30 + [20.0] * 8
    for cut in range(1, len(losses)):
        guard = Guard(VOCABULARY)
        said = [guard.look(loss, 1.0) for loss in losses[:cut]]
        state = json.loads(json.dumps(guard.state()))
        again = Guard(VOCABULARY)
        again.restore(state)
        said += [again.look(loss, 1.0) for loss in losses[cut:]]
        assert [bool(one) for one in said] == [False] * 37 + [True]


def test_a_suspected_step_is_known_as_such() -> None:
    guard = Guard(VOCABULARY)
    suspected = []
    for loss in [3.0] * 12 + [20.0] * 2 + [3.0]:
        guard.look(loss, 1.0)
        suspected.append(guard.suspects)
    assert suspected == [False] * 12 + [True] * 2 + [False]
