"""The bar: on a real pseudo-terminal, and its plain lines by a clock that the test turns."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest
from pseudo_terminal import Screen, opened

from tasks.reports.progress import Bar


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ansi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.usefixtures("ansi")
def test_lines_of_old_handlers_stay_whole_above_the_bar_and_the_bar_leaves_nothing() -> None:
    with opened() as shown:
        handler = logging.StreamHandler(shown.stream)
        with Bar("训练 [red]", shown.stream, patience=0.0) as bar:
            bar.update(1, 4, "step")
            shown.wait_for("1/4 steps")
            for index in range(3):
                handler.emit(logging.makeLogRecord({"msg": f"第 {index} 步 损失 [2.{index}]"}))
                bar.update(2 + index, 4, "step")
                shown.wait_for(f"{2 + index}/4 steps")
            print("half a line", end="", file=shown.stream)
        print("after", file=shown.stream)
    screen = Screen()
    screen.feed(shown.text())
    assert [line.rstrip() for line in screen.lines if line.strip()] == [
        "第 0 步 损失 [2.0]",
        "第 1 步 损失 [2.1]",
        "第 2 步 损失 [2.2]",
        "half a line",
        "after",
    ]
    assert "训练 [red]" in shown.text()


@pytest.mark.usefixtures("ansi")
def test_the_bar_appears_by_itself_while_the_first_update_is_awaited() -> None:
    with opened() as shown, Bar("loading", shown.stream, patience=0.0):
        shown.wait_for("loading")


@pytest.mark.usefixtures("ansi")
def test_short_work_shows_nothing_on_a_terminal() -> None:
    with opened() as shown, Bar("short", shown.stream) as bar:
        bar.update(1, 1, "row")
    assert shown.text() == ""


def test_a_pipe_gets_a_line_after_two_seconds_and_then_every_ten() -> None:
    clock, stream = Clock(), io.StringIO()
    with Bar("answering", stream, clock=clock) as bar:
        for second in range(24):
            clock.now = 1000.0 + second
            bar.update(500 + 2 * second, 1000, "row")
    assert stream.getvalue().splitlines() == [
        "answering: 504/1,000 rows, 50.4%, 2.0 rows/s, 4 min 08 s left",
        "answering: 524/1,000 rows, 52.4%, 2.0 rows/s, 3 min 58 s left",
        "answering: 544/1,000 rows, 54.4%, 2.0 rows/s, 3 min 48 s left",
    ]


def test_work_that_ends_within_two_seconds_leaves_a_pipe_empty() -> None:
    clock, stream = Clock(), io.StringIO()
    with Bar("scoring", stream, clock=clock) as bar:
        clock.now += 1.9
        bar.update(10, 10, "row")
    assert stream.getvalue() == ""


def test_an_unknown_total_shows_the_amount_alone() -> None:
    clock, stream = Clock(), io.StringIO()
    with Bar("reading", stream, clock=clock) as bar:
        bar.update(0, None, "row")
        clock.now += 4
        bar.update(2000, None, "row")
    assert stream.getvalue() == "reading: 2,000 rows, 500 rows/s\n"


def test_one_bar_shows_at_a_time_and_the_next_takes_over() -> None:
    clock, first, second = Clock(), io.StringIO(), io.StringIO()
    with Bar("second", second, clock=clock) as waiting:
        with Bar("first", first, clock=clock) as bar:
            clock.now += 5
            bar.update(1, 2, "row")
            waiting.update(1, 2, "row")
        assert "first: 1/2 rows" in first.getvalue()
        assert second.getvalue() == ""
        waiting.update(2, 2, "row")
    assert second.getvalue().startswith("second: 2/2 rows, 100.0%")


def test_a_reader_that_left_does_not_end_the_work() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    clock = Clock()
    stream = os.fdopen(writing, "w")
    with Bar("training", stream, clock=clock) as bar:
        clock.now += 5
        bar.update(1, 2, "step")
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_an_error_takes_the_bar_down_for_the_next_one() -> None:
    clock, stream = Clock(), io.StringIO()
    with pytest.raises(KeyError), Bar("first", io.StringIO(), clock=clock) as bar:
        clock.now += 5
        bar.update(1, 2, "row")
        raise KeyError
    with Bar("next", stream, clock=clock) as bar:
        clock.now += 5
        bar.update(1, 2, "row")
    assert stream.getvalue().startswith("next: 1/2 rows")


def test_the_streams_of_the_process_are_left_as_they_were() -> None:
    with opened() as shown:
        with Bar("x", shown.stream, patience=0.0) as bar:
            bar.update(1, 2, "row")
        assert "write" not in vars(shown.stream)
    assert "write" not in vars(sys.stderr)
