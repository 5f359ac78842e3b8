"""What the terminal shows: the steps of a run, scores, answers, and what to do next.

The functions return parts that `show` prints together. Widths count Chinese characters as two
columns; in a pipe there are no colours; where the terminal's encoding lacks a character, a plainer
one stands for it, and output never fails.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tasks.reports.wording import duration, fitting, interval, title, visible

if TYPE_CHECKING:
    from tasks.artifacts import Scores, Verdict
    from tasks.judging import Difference
    from tasks.registry import Line
    from tasks.steps import StepLine

_STYLES = {
    "completed": "green",
    "cached": "cyan",
    "failed": "bold red",
    "crashed": "bold red",
    "cancelled": "yellow",
    "pass": "bold green",
    "fail": "bold red",
    "inconclusive": "bold yellow",
    "will run": "yellow",
    "depends": "dim",
}


def show(*parts: RenderableType, stream: TextIO | None = None, width: int | None = None) -> None:
    """Print parts to a stream, with colours when it is a terminal.

    Args:
        parts: What the functions of this file return, or plain strings.
        stream: Where to; None is standard output.
        width: Columns; None asks the terminal, and takes 80 in a pipe.
    """
    stream = stream or sys.stdout
    # emoji=False, markup=False: an answer that holds `:cat:` or `[red]` shows exactly that
    console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            # a pipe has no width: what it is read by finds a message only if it is one line
            whole = isinstance(part, str) and not console.is_terminal
            console.print(part, crop=False, soft_wrap=whole)
    text = "\n".join(line.rstrip(" ") for line in captured.get().split("\n"))
    stream.write(fitting(text, stream.encoding or "utf-8"))
    stream.flush()


def _plain(words: str, style: str = "") -> Text:
    return Text(visible(words, line_end="\n"), style=style)


def _table(heading: str = "") -> Table:
    return Table(
        title=_plain(heading, "bold") if heading else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
        header_style="bold",
    )


def step_line(line: StepLine) -> RenderableType:
    """Return the line of one step as it ends; lines that are printed one by one stay aligned."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=18, no_wrap=True)
    grid.add_column(min_width=9, no_wrap=True)
    grid.add_column(min_width=11, no_wrap=True, justify="right")
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(*_cells(line))
    return grid


def steps_table(lines: Sequence[StepLine]) -> RenderableType:
    """Return one line for each step: whether it ran, how long it took, and what came out."""
    table = _table()
    table.add_column("step", no_wrap=True)
    table.add_column("state", no_wrap=True)
    timed = any(line.seconds > 0 for line in lines)
    if timed:
        table.add_column("time", justify="right", no_wrap=True)
    table.add_column("result" if timed else "result or reason", overflow="fold")
    for line in lines:
        cells = _cells(line)
        table.add_row(*(cells if timed else (*cells[:2], cells[3])))
    if timed and len(lines) > 1:
        table.add_section()
        total = duration(sum(line.seconds for line in lines))
        table.add_row(_plain("total", "bold"), "", _plain(total, "bold"), "")
    return table


def _cells(line: StepLine) -> tuple[Text, Text, Text, Text]:
    spent = duration(line.seconds) if line.seconds > 0 else ""
    state = _plain(line.state, _STYLES.get(line.state.lower(), ""))
    return _plain(line.name), state, _plain(spent), _plain(line.produced)


@dataclass(frozen=True)
class _Snug:
    """A table whose columns stand closer together where they would not fit else."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.table.padding = (0, 1)
        needed = console.measure(self.table, options=options.update_width(1000)).maximum
        if needed > options.max_width:
            self.table.padding = (0, 0)
        yield self.table


def score_table(scores: Mapping[str, Scores], verdict: Verdict | None = None) -> RenderableType:
    """Return the scores of each system with their intervals, and the verdict beneath.

    Args:
        scores: By the name to show, in the order to show; `tuned` stands out.
        verdict: What was decided on them.
    """
    table = _table()
    table.add_column("system", no_wrap=True)
    names = list(dict.fromkeys(name for one in scores.values() for name in one.metrics))
    for name in names:
        table.add_column(_plain(title(name)), justify="right", overflow="fold")
    for system, one in scores.items():
        shown = [interval(one.metrics[name]) if name in one.metrics else "–" for name in names]
        style = "bold" if system == "tuned" else ""
        table.add_row(*(_plain(cell, style) for cell in (system, *shown)))
    parts: list[RenderableType] = [_Snug(table)]
    if protocols := sorted({f"{one.protocol}, {one.rows:,} rows" for one in scores.values()}):
        parts.append(_plain("percent, with interval · " + " · ".join(protocols), "dim"))
    if verdict:
        outcome = Text.assemble("verdict: ", (verdict.outcome, _STYLES.get(verdict.outcome, "")))
        parts += ["", outcome, *(_bullet(reason) for reason in verdict.reasons)]
    return Group(*parts)


def lines_table(lines: Mapping[str, Line]) -> RenderableType:
    """Return one line for each name: its champion, and how many versions there are."""
    if not lines:
        return _plain("nothing is registered yet")
    table = _columns("name", "champion", "versions", "since", "because")
    for name, line in lines.items():
        last = line.changes[-1] if line.changes else None
        cells = (name, str(line.champion or "–"), f"{len(line.entries):,}")
        table.add_row(*map(_plain, cells), *map(_plain, (last.at, last.why) if last else ("", "")))
    return table


def versions_table(line: Line) -> RenderableType:
    """Return every version of a name, and how its champion changed."""
    scores = sorted({metric for entry in line.entries for metric in entry.scores})
    table = _columns("version", "model", "rows of", *map(title, scores), "verdict", "")
    bases: dict[str, list[str]] = {}
    for entry in line.entries:
        means = (f"{entry.scores[name]:.1f}" if name in entry.scores else "–" for name in scores)
        mark = "champion" if entry.version == line.champion else ""
        mark = mark or ("rolled back" if entry.withdrawn else "")
        base = entry.lineage.get("base from") or entry.lineage.get("base", "")[:8]
        bases.setdefault(base, []).append(str(entry.version))
        cells = (str(entry.version), entry.digest[:8], entry.dataset[:8])
        table.add_row(
            *map(_plain, (*cells, *means)),
            _plain(entry.outcome, _STYLES.get(entry.outcome, "")),
            _plain(mark, "bold"),
        )
    # an address has no length that a column could hold
    told = [f"base of {', '.join(of)}: {base}" for base, of in bases.items() if base]
    told += [f"{one.at}  version {one.version}: {one.why}" for one in line.changes]
    return Group(_Snug(table), "", *map(_bullet, told))


def differences_table(differences: Sequence[Difference]) -> RenderableType:
    """Return the difference of two systems on each metric, with interval and p-value."""
    table = _columns("score", "first minus second, points", "p", "rows")
    for one in differences:
        by = f"{one.mean:+.1f} ({one.low:+.1f} to {one.high:+.1f})"
        table.add_row(*map(_plain, (title(one.metric), by, f"{one.p:.3f}", f"{one.rows:,}")))
    return table


def _columns(*names: str) -> Table:
    table = _table()
    for name in names:
        table.add_column(_plain(name), overflow="fold")
    return table


def _bullet(words: str) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row("  -", _plain(words))
    return grid


def answers(
    prompt: str, reference: str, base_answer: str | None, tuned_answer: str
) -> RenderableType:
    """Return one prompt with the answers to it; a base answer of None is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    told = {"prompt": prompt, "reference": reference, "base": base_answer, "tuned": tuned_answer}
    for name, words in told.items():
        if words is not None:
            style = "bold" if name == "tuned" else ""
            grid.add_row(
                name, _plain(words, style) if words.strip() else _plain("(nothing)", "dim")
            )
    return grid


def next_steps(lines: Sequence[str]) -> RenderableType:
    """Return what a person can do next; a command is never broken, so that it can be copied."""
    shown = [Text(f"  {visible(line)}", no_wrap=True, overflow="ignore") for line in lines]
    return Group(Text("Next", style="bold"), *shown)
