"""What the terminal shows: as text of a pipe, on a real pseudo-terminal, and in poor encodings."""

from __future__ import annotations

import io
import re
import unicodedata

import pytest
from pseudo_terminal import opened

from tasks.artifacts import Interval, Scores, Verdict
from tasks.reports import terminal
from tasks.steps import StepLine

COPY = "高领的设计把寒风挡在外面，酒红色衬得肤色格外白皙；灯笼袖在袖口处收紧，抬手之间多了一点复古的浪漫。"


LINES = [
    StepLine("fetch", "Cached", 0.01, "2 files"),
    StepLine("train-lora", "Completed", 7384.0, "loss 7.96 → 2.44 [red]ohne Farbe[/red] :cat:"),
    StepLine("predict", "Failed", 61.0, f"JobFailed: {COPY * 3}\nlast line"),
]


def printed(*parts: object, width: int | None = None) -> str:
    stream = io.StringIO()
    terminal.show(*parts, stream=stream, width=width)  # type: ignore[arg-type]
    return stream.getvalue()


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in line)


def measured(count: int) -> dict[str, Scores]:
    value = Interval(mean=24.14, low=22.91, high=25.31)
    names = ["tuned", "base", "retrieval", "template", "random", "champion"]
    metrics = dict.fromkeys(("rouge_1", "rouge_2", "rouge_l", "bleu_4")[:count], value)
    return {
        name: Scores.model_construct(protocol="chatglm2-v1", rows=1070, metrics=metrics)
        for name in names
    }


VERDICT = Verdict.model_construct(outcome="fail", reasons=("ties with retrieval",), comparisons=())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_the_width_with_chinese_text(width: int) -> None:
    text = printed(
        *map(terminal.step_line, LINES),
        terminal.steps_table(LINES),
        terminal.score_table(measured(4), VERDICT),
        terminal.answers(COPY * 4, COPY, COPY, COPY * 2),
        width=width,
    )
    assert max(columns(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    assert COPY * 4 in "".join(text.split()).replace("prompt", "")


def test_steps_show_their_state_time_and_result_and_add_up() -> None:
    text = printed(terminal.steps_table(LINES), width=120)
    assert re.search(
        r"train-lora +Completed +2 h 03 min +loss 7.96 → 2.44 \[red]ohne Farbe\[/red] :cat:", text
    )
    assert re.search(r"total +2 h 04 min", text)
    plan = printed(
        terminal.steps_table([StepLine("train", "will run", 0.0, "learning_rate: 1 → 2")])
    )
    assert re.search(r"step +state +result or reason\n", plan)
    assert re.search(r"train +will run +learning_rate: 1 → 2\n", plan)


def test_lines_of_steps_stay_aligned_when_they_are_printed_one_by_one() -> None:
    lines = [printed(terminal.step_line(line), width=100).splitlines()[0] for line in LINES]
    assert [
        line.index(word) for line, word in zip(lines, ("2 files", "loss", "Job"), strict=True)
    ] == [44] * 3


def test_scores_stand_with_their_intervals_on_one_line_at_80_columns() -> None:
    text = printed(terminal.score_table(measured(4), VERDICT), width=80)
    assert re.search(r"tuned( +24\.1 \(22\.9–25\.3\)){4}\n", text)
    assert (
        text.index("tuned")
        < text.index("base")
        < text.index("champion")
        < text.index("verdict: fail")
    )
    assert "chatglm2-v1, 1,070 rows" in text
    assert "ties with retrieval" in text


def test_an_answer_cannot_command_the_terminal() -> None:
    text = printed(terminal.answers("p", "r", "", "\x1b[2J[bold]x[/bold]\r\nzweite"))
    assert "\x1b" not in text
    assert "␛[2J[bold]x[/bold]\n" in text
    assert "base       (nothing)\n" in text
    assert "base" not in printed(terminal.answers("p", "r", None, "t"))


def test_commands_and_messages_are_never_broken_in_a_pipe() -> None:
    command = "python -m flows.finetune " + "--train.learning_rate 1e-4 " * 8 + "end"
    assert f"\n  {command}\n" in printed(terminal.next_steps([command]))
    assert printed(f"error: [red] :cat: {command}") == f"error: [red] :cat: {command}\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk"])
def test_a_poor_encoding_gets_plainer_signs(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    terminal.show(
        terminal.steps_table(LINES), terminal.score_table(measured(2)), stream=stream, width=80
    )
    text = raw.getvalue().decode(encoding)
    dash = "–" if encoding == "gbk" else "-"
    assert f"24.1 (22.9{dash}25.3)" in text
    assert ("高领的设计" in text) == (encoding == "gbk")
    assert "─" not in text


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with opened() as shown:
        terminal.show(terminal.steps_table(LINES), stream=shown.stream)
    assert "\x1b[32mCompleted" in shown.text()
