"""The head of the page: the verdict with its reasons, and what this run is."""

from __future__ import annotations

from tasks.reports.html.markup import Html, foreign, listed, tag, together
from tasks.reports.html.report import Decision, Override, Run

SIGNS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}
"""Before the word, so that neither colour nor language is needed to tell them apart."""


def head(run: Run, verdict: Decision | None) -> Html:
    """Return the head of the page."""
    named = together(foreign(run.name), f", version {run.version}" if run.version else "")
    if verdict is None:
        return tag("header", tag("h1", named), _what(run))
    kind = verdict.outcome if verdict.outcome in SIGNS else "inconclusive"
    state = tag("span", f"{SIGNS[kind]} {verdict.outcome}", class_="state")
    return tag(
        "header",
        tag("h1", state, " ", named),
        listed(foreign(reason) for reason in verdict.reasons),
        _override(verdict.override) if verdict.override else "",
        _what(run),
        class_=f"verdict {kind}",
    )


def _override(override: Override) -> Html:
    parts: list[str] = [tag("strong", "Overridden by a person: "), foreign(override.decision)]
    if override.by:
        parts += [", by ", foreign(override.by)]
    if override.date:
        parts += [", ", foreign(override.date)]
    parts += [". Reason: ", foreign(override.reason)] if override.reason else [". No reason given."]
    return tag("p", *parts, class_="override")


def _what(run: Run) -> Html:
    rows = ", ".join(f"{count:,} {split}" for split, count in run.rows.items())
    facts = {"base": run.base, "method": run.method, "rows": rows, "date": run.date}
    given = [together(f"{what} ", foreign(told)) for what, told in facts.items() if told]
    words = [part for each in given for part in (each, " · ")][:-1]
    return tag("p", *words, class_="what") if words else Html("")
