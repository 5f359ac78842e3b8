"""What the trainer prints is what its parent reads."""

from __future__ import annotations

import math
import os
import re
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


@given(step=st.integers(0, 10**9), loss=st.floats(), rate=st.floats(), dev=st.floats())
def test_the_definitions_find_what_was_printed(
    step: int, loss: float, rate: float, dev: float
) -> None:
    lines: list[str] = []
    sent = {"loss": loss, "learning_rate": rate, "dev_loss": dev}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "text", lines.append)
        events.metric(step, **sent)
    for definition in events.definitions():
        found = re.search(definition["Regex"], f"2026-11-22 12:00:00 {lines[0]}\n")
        if definition["Name"] not in sent:
            assert found is None
            continue
        assert found is not None
        value = sent[definition["Name"]]
        assert float(found[1]) == value or math.isnan(value)


def test_definitions_look_at_metric_lines_alone() -> None:
    for line in ("loss=2.0", "[progress] done=1 total=2 unit=loss=2.0", "the rate: loss=3"):
        assert not any(re.search(each["Regex"], line) for each in events.definitions())
    # SageMaker's own bounds on a metric definition
    assert all(
        len(each["Regex"]) <= 500 and len(each["Name"]) <= 255 for each in events.definitions()
    )


def test_progress_and_failures_survive_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    events.progress(3, 150, "step")
    events.error("train.jsonl:3: no answer\n  (found nothing).")
    first, second = capsys.readouterr().out.splitlines()
    assert events.parse(first) == Progress(3, 150, "step")
    assert events.parse(second) == Failure("train.jsonl:3: no answer (found nothing).")


@pytest.mark.parametrize(
    "line",
    ["", "3 steps in 0.1 s", "[metric] loss=2.0", "[metric] step=3 loss=low", "[progress] done=a"],
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
