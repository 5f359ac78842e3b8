"""Puts the page of a run together: one file, no request, no script that it could not do without.

    text = render(report)                     then write it as UTF-8

Security policy: everything is forbidden but the style sheet and the script of this folder, which are
named by their hash. Hashes and not 'unsafe-inline', because then not even a slip in the escaping could
run or restyle anything; that is why no element has a `style` attribute and no drawing a style of its
own. The empty icon stops browsers from asking a server for one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tasks.reports.html import account, answers, decision, measures, scores
from tasks.reports.html.drawings import STYLE, inline
from tasks.reports.html.markup import Html, foreign, listed, tag, together
from tasks.reports.html.report import RunReport, Training
from tasks.reports.pictures import curve, usable
from tasks.reports.wording import number


class Section(NamedTuple):
    """A part of the page below its head."""

    name: str
    title: str
    body: Html


def render(report: RunReport) -> str:
    """Return the page: complete HTML that shows the same wherever it is opened."""
    sections = [each for each in _sections(report) if each.body]
    links = [tag("a", each.title, href=f"#{each.name}") for each in sections]
    contents = tag("nav", listed(links), aria_label="Sections") if links[1:] else Html("")
    main = [
        tag("section", tag("h2", each.title, id=each.name), each.body, aria_labelledby=each.name)
        for each in sections
    ]
    body = tag(
        "body",
        decision.head(report.run, report.verdict),
        contents,
        tag("main", *main),
        tag("script", _script()) if report.answers else "",
    )
    return f"<!doctype html>\n{tag('html', _head(report), body, lang='en')}\n"


def _sections(report: RunReport) -> Iterator[Section]:
    nothing = Html("")
    board = report.scores if report.scores and report.scores.systems else None
    yield Section("scores", "Scores", scores.board(board) if board else nothing)
    yield Section("intervals", "Intervals", scores.intervals(board) if board else nothing)
    yield Section("training", "Training", _training(report.training))
    yield Section("slices", "Slices", measures.slices(report.slices) if report.slices else nothing)
    yield Section("beside", "Beside the scores", measures.beside(board) if board else nothing)
    yield Section("spread", "Row scores", measures.spreads(report.spreads))
    shown = answers.side_by_side(report.answers) if report.answers else nothing
    yield Section("answers", "Answers side by side", shown)
    yield Section("data", "Data", account.data(report.data) if report.data else nothing)
    yield Section(
        "lineage", "Lineage", account.lineage(report.lineage) if report.lineage else nothing
    )
    yield Section("repeat", "Repeat it", account.repeat(report.repeat))


def _training(training: Training | None) -> Html:
    if not training or not training.points:
        return Html("")
    drawn = inline(curve(training.points, "Loss over the training"))
    told = tag("figcaption", _told(training), class_="note")
    return together(tag("figure", drawn, told), listed(map(foreign, training.remarks)))


def _told(training: Training) -> str:
    ordered = sorted(training.points, key=lambda point: point.step)
    losses = [(p.loss, p.step) for p in ordered if p.loss is not None]
    dev = [(p.dev_loss, p.step) for p in ordered if p.dev_loss is not None]
    parts = []
    if losses:
        last, at = losses[-1]
        parts.append(f"Loss {number(losses[0][0], 2)} → {number(last, 2)} at step {at:,}.")
    if finite := [each for each in dev if usable(each[0])]:
        lowest, at = min(finite)
        parts.append(
            f"Dev loss {number(dev[-1][0], 2)}, lowest {number(lowest, 2)} at step {at:,}."
        )
    return " ".join([*parts, *([] if dev else ["No dev loss was measured."])])


def _head(report: RunReport) -> Html:
    run, verdict = report.run, report.verdict
    named = f"{run.name}, version {run.version}" if run.version else run.name
    style = _style()
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, _script())),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="format-detection", content="telephone=no"),
        tag("title", f"{verdict.outcome}: {named}" if verdict else named),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    )


def _policy(*trusted: str) -> str:
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in trusted
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def _style() -> Html:
    return Html(_beside("style.css") + STYLE)


@cache
def _script() -> Html:
    return Html(_beside("order.js"))


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
