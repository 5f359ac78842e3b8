"""What the trainer prints is what its parent reads."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.trainer import events
from tasks.trainer.events import Failure, Metric, Progress

PROJECT = Path(__file__).parents[1]


@given(step=st.integers(0, 10**9), loss=st.floats(), rate=st.floats())
def test_any_number_survives_the_line(step: int, loss: float, rate: float) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "text", lines.append)
        events.metric(step, loss=loss, learning_rate=rate)
    found = events.parse(lines[0] + "\n")
    assert isinstance(found, Metric)
    assert found.step == step
    for name, sent in (("loss", loss), ("learning_rate", rate)):
        got = found.values[name]
        assert got == sent or (math.isnan(got) and math.isnan(sent))


def test_progress_and_failures_survive_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    events.progress(3, 150, "step")
    events.error("train.jsonl:3: no answer\n  (found nothing).")
    first, second = capsys.readouterr().out.splitlines()
    assert events.parse(first) == Progress(3, 150, "step")
    assert events.parse(second) == Failure("train.jsonl:3: no answer (found nothing).")


@pytest.mark.parametrize(
    "line",
    ["", "3 steps in 0.1 s", "[metric] loss=2.0", "[metric] loss=low step=3", "[progress] done=a"],
)
def test_other_lines_are_for_people(line: str) -> None:
    assert events.parse(line) is None


def test_the_lines_of_a_trainer_whose_parent_is_gone_go_nowhere() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = (
        "from tasks.trainer import events\n"
        "for i in range(3): events.text('hello')\n"
        "raise SystemExit(7)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (7, b"")
