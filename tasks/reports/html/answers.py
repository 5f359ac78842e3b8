"""The answers themselves: the worst, the best and some drawn at random, with all systems side by side.

What the prompt asks for and the answer leaves out is marked in the prompt, what the answer says
against it in the answer; both are also said in words. A text is cut where the page would grow too
large; what is cut off first folds away, and only what exceeds the room of the page is left out and
counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from tasks.reports.html.markup import Html, foreign, language, prose, tag, together
from tasks.reports.html.report import NEW, Answered, Group, SideBySide
from tasks.reports.html.scores import called, union
from tasks.reports.wording import number, title

_ROOM = 80_000
"""Characters of prompts and answers on a page: 240 kB of Chinese."""
_LIMITS = (4000, 2000, 1000, 500, 250, 120)
"""Lengths that a text may be cut to, so that all fit into the room."""
_OPEN = 600
"""Characters of a text that are seen before it is unfolded."""
_MARKS = 30
"""Parts of a text that are marked and named; the rest is counted."""


def chosen(
    rows: Sequence[Answered],
    worst: int = 20,
    best: int = 10,
    drawn: int = 20,
    by: str = "bleu_4",
    seed: int = 17,
) -> SideBySide:
    """Choose the worst and best rows by a score of the new model, and some of the rest by a seed.

    No row is chosen twice.
    """
    order = sorted(range(len(rows)), key=lambda index: (_score(rows[index], by), index))
    low = order[:worst]
    high = order[worst:][-best:][::-1] if best else []
    rest = sorted(set(order) - set(low) - set(high))
    some = sorted(random.Random(seed).sample(rest, min(drawn, len(rest))))
    named = {"Worst": low, "Best": high, "Drawn at random": some}
    groups = [
        Group(f"{name} {len(picked)}", [rows[index] for index in picked])
        for name, picked in named.items()
        if picked
    ]
    return SideBySide(groups, len(rows), by, seed)


def _score(row: Answered, by: str) -> float:
    value = row.scores.get(NEW, {}).get(by, math.nan)
    return value if math.isfinite(value) else -math.inf


def side_by_side(given: SideBySide) -> Html:
    """Return the answers, group by group; empty without any."""
    groups = [group for group in given.groups if group.rows]
    if not groups:
        return Html("")
    limit = _limit(groups)
    names = union(row.scores.get(NEW, {}) for group in groups for row in group.rows)
    told = (
        f"{sum(len(group.rows) for group in groups):,} of {given.of:,} answers, ordered by "
        f"{title(given.by)} of the new model; the random ones are drawn with seed {given.seed}. "
    )
    signs = together(
        tag("mark", "left out", class_="missed"),
        " stands in the prompt and not in the answer, ",
        tag("mark", "not asked for", class_="against"),
        " in the answer and not in the prompt.",
    )
    return together(
        tag("p", told, signs, class_="note"),
        _tools(names),
        *(
            tag(
                "section",
                tag("h3", group.title, id=f"group-{place}"),
                *(_row(row, limit, names) for row in group.rows),
                class_="group",
                aria_labelledby=f"group-{place}",
            )
            for place, group in enumerate(groups, start=1)
        ),
    )


def _limit(groups: Sequence[Group]) -> int:
    """Return the length of the longest texts that all fit on the page with."""
    sizes = [len(text) for group in groups for row in group.rows for text in _texts(row)]
    fitting = (limit for limit in _LIMITS if sum(min(size, limit) for size in sizes) <= _ROOM)
    return next(fitting, _LIMITS[-1])


def _texts(row: Answered) -> Iterator[str]:
    yield row.prompt
    yield row.reference
    yield from row.answers.values()
    yield from (text for _, text in row.history)


def _tools(names: Sequence[str]) -> Html:
    """Return what the script shows and uses; without it, it stays hidden."""
    choices = [tag("option", "as chosen", value="")]
    for place, name in enumerate(names):
        choices.append(tag("option", f"{title(name)}, lowest first", value=f"+{place}"))
        choices.append(tag("option", f"{title(name)}, highest first", value=f"-{place}"))
    return tag(
        "form",
        tag("label", "Only rows with ", tag("input", type="search", id="filter")),
        tag("label", "Order ", tag("select", *choices, id="order")),
        tag("output", id="found", for_="filter"),
        class_="tools",
        id="tools",
        hidden=True,
    )


def _row(row: Answered, limit: int, names: Sequence[str]) -> Html:
    asked = _said("prompt", "prompt", _text(row.prompt, limit, row.missed, "missed"))
    parts = [_said("reference", "reference", _text(row.reference, limit))]
    for system, answer in row.answers.items():
        marks = row.contradicted if system == NEW else ()
        told = [_text(answer, limit, marks, "against"), _measured(row, system)]
        if system in row.cut:
            told.append(tag("p", "… ended at the token limit", class_="fact"))
        if system == NEW:
            told += [_named("left out", row.missed), _named("not asked for", row.contradicted)]
        parts.append(_said(called(system), "new" if system == NEW else "answer", *told))
    return tag(
        "article",
        tag("h4", f"Row {row.number:,}"),
        _history(row, limit),
        tag("dl", asked, class_="asked"),
        tag("dl", *parts, class_="answers"),
        data_scores=" ".join(_sortable(row, name) for name in names),
    )


def _said(who: str, style: str, *parts: Html) -> Html:
    return tag("div", tag("dt", who), tag("dd", *parts), class_=style)


def _sortable(row: Answered, name: str) -> str:
    value = row.scores.get(NEW, {}).get(name, math.nan)
    return f"{value:.4f}" if math.isfinite(value) else "none"


def _text(text: str, limit: int, marks: Sequence[str] = (), style: str = "") -> Html:
    if not text.strip():
        words = f"nothing but {len(text):,} white-space characters" if text else "nothing"
        return tag("p", tag("em", words), class_="fact")
    seen, marks, tongue = min(limit, _OPEN), marks[:_MARKS], language(text[:_OPEN])
    shown = _paragraph(text[:seen], marks, style, tongue)
    folded = text[seen:limit]
    beyond = len(text) - limit
    lost = tag("p", f"… {beyond:,} more characters, not on this page", class_="fact")
    ended = lost if beyond > 0 else Html("")
    if not folded:
        return together(shown, ended)
    summary = tag("summary", f"{len(folded):,} more characters")
    return together(shown, tag("details", summary, _paragraph(folded, marks, style, tongue)), ended)


def _paragraph(text: str, marks: Sequence[str], style: str, tongue: str) -> Html:
    return tag("p", prose(text, marks, style), class_="text", dir="auto", lang=tongue)


def _measured(row: Answered, system: str) -> Html:
    scores = row.scores.get(system, {})
    if not scores:
        return Html("")
    shown = [f"{title(name)} {number(value)}" for name, value in scores.items()]
    words = [part for each in shown for part in (tag("span", each, class_="whole"), " · ")][:-1]
    return tag("p", *words, class_="fact")


def _named(what: str, parts: Sequence[str]) -> Html:
    if not parts:
        return Html("")
    words: list[str] = [piece for part in parts[:_MARKS] for piece in (foreign(part), ", ")][:-1]
    more = len(parts) - _MARKS
    words += [f" and {more:,} more"] if more > 0 else []
    return tag("p", tag("strong", f"{what}: "), *words, class_="fact")


def _history(row: Answered, limit: int) -> Html:
    if not row.history:
        return Html("")
    count = len(row.history)
    messages = [_said(foreign(role), "turn", _text(text, limit)) for role, text in row.history]
    told = f"{count:,} earlier {'message' if count == 1 else 'messages'}"
    return tag("details", tag("summary", told), tag("dl", *messages))
