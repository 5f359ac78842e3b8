"""The pages of a measurement: who scored what, whether that is good enough, and the answers themselves.

The verdict stands first, then the scores with their intervals, then what keeps a score honest: a
template that pastes the prompt together beats published models on ROUGE-1, and only coverage,
distinct-4 and repetition beside it show that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.reports.markdown import emphasise, escape, table
from tasks.reports.wording import (
    MEANINGS,
    clipped,
    difference,
    extra,
    interval,
    number,
    percent,
    reading,
    title,
)

if TYPE_CHECKING:
    from tasks.artifacts import Scores, Verdict


@dataclass(frozen=True)
class Answer:
    """One row as both models answered it."""

    prompt: str
    reference: str
    tuned: str
    base: str | None = None
    """None when the base model was not asked."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores of the tuned model's answer, in percent."""
    missed: Sequence[str] = ()
    """What the prompt asks for and the tuned model does not say, as it stands in the prompt."""


def score_table(
    scores: Mapping[str, Scores], verdict: Verdict | None = None, confidence: float = 0.95
) -> str:
    """Return the page that compares systems.

    Args:
        scores: By the name to show, in the order to show: `tuned`, `base`, `retrieval`, `champion`.
        verdict: What was decided on them.
        confidence: That of the intervals, from 0 to 1.
    """
    parts = _decision(verdict) if verdict else []
    parts += ["## Scores", _metrics(scores), _protocol(scores, confidence)]
    if verdict and verdict.comparisons:
        parts += ["## Difference to each rival, paired by row", _comparisons(verdict)]
    names = _union(one.extras for one in scores.values())
    parts += ["## What keeps the scores honest", _extras(scores, names), _legend(names)]
    return "\n\n".join(parts) + "\n"


def _decision(verdict: Verdict) -> list[str]:
    reasons = "\n".join(f"- {escape(reason)}" for reason in verdict.reasons)
    return [f"**Verdict: {escape(verdict.outcome)}**", *([reasons] if reasons else [])]


def _protocol(scores: Mapping[str, Scores], confidence: float) -> str:
    found = sorted({one.protocol for one in scores.values()})
    words = (
        "Percent; the brackets hold the bootstrap interval of the mean at "
        f"{confidence * 100:g}% confidence. Highest of each column in bold."
    )
    if len(found) > 1:
        mixed = ", ".join(escape(protocol) for protocol in found)
        return f"{words} **Not comparable: several protocols ({mixed}).**"
    return f"{words} Protocol: {escape(found[0])}." if found else words


def _metrics(scores: Mapping[str, Scores]) -> str:
    names = _union(one.metrics for one in scores.values())
    best = {
        name: max((value for value in _means(scores, name) if math.isfinite(value)), default=None)
        for name in names
    }
    rows = []
    for system, one in scores.items():
        cells = [escape(system), f"{one.rows:,}"]
        for name in names:
            shown = interval(one.metrics[name]) if name in one.metrics else "–"
            leads = name in one.metrics and one.metrics[name].mean == best[name]
            cells.append(f"**{shown}**" if leads and len(scores) > 1 else shown)
        rows.append(cells)
    return table(["system", "rows", *(escape(title(name)) for name in names)], rows, "lr")


def _means(scores: Mapping[str, Scores], name: str) -> list[float]:
    return [one.metrics[name].mean for one in scores.values() if name in one.metrics]


def _comparisons(verdict: Verdict) -> str:
    rows = [
        [
            escape(one.rival),
            escape(title(one.metric)),
            difference(one.difference),
            reading(one.difference),
        ]
        for one in verdict.comparisons
    ]
    return table(["rival", "score", "new minus rival, points", "the new model is"], rows, "llrl")


def _extras(scores: Mapping[str, Scores], names: Sequence[str]) -> str:
    rows = []
    for system, one in scores.items():
        shown = [extra(name, one.extras[name]) if name in one.extras else "–" for name in names]
        empty = (
            f"{one.empty:,}\u00a0({percent(one.empty / one.rows)})"
            if one.rows
            else f"{one.empty:,}"
        )
        rows.append([escape(system), *shown, empty])
    return table(["system", *(escape(title(name)) for name in names), "empty"], rows, "lr")


def _legend(names: Sequence[str]) -> str:
    told = [f"{title(name)}: {MEANINGS[name]}" for name in (*names, "empty") if name in MEANINGS]
    return escape("; ".join(told)) + "\\."


def _union(keys: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for some in keys for name in some))


def side_by_side(
    rows: Sequence[Answer],
    worst: int = 10,
    best: int = 5,
    drawn: int = 10,
    by: str = "bleu_4",
    seed: int = 17,
) -> str:
    """Return the page of the answers themselves: the worst, the best, and some drawn from the rest.

    No row stands there twice. What the tuned model left out is bold in the prompt.
    """
    order = sorted(range(len(rows)), key=lambda index: (_score(rows[index], by), index))
    low = order[:worst]
    high = order[worst:][-best:][::-1] if best else []
    rest = sorted(set(order) - set(low) - set(high))
    some = sorted(random.Random(seed).sample(rest, min(drawn, len(rest))))
    parts = [f"{len(rows):,} answers, ordered by {escape(title(by))} of the tuned model."]
    groups = {"Worst": low, "Best": high, "Drawn at random": some}
    for heading, chosen in groups.items():
        if chosen:
            parts += [f"## {heading} {len(chosen)}", *(_block(i, rows[i]) for i in chosen)]
    return "\n\n".join(parts) + "\n"


def _score(row: Answer, by: str) -> float:
    value = row.scores.get(by, math.nan)
    return value if math.isfinite(value) else -math.inf


def _block(index: int, row: Answer) -> str:
    """Return a row as a list: V1 of the UI does not break lines within tables."""
    scores = ", ".join(f"{title(name)} {number(value)}" for name, value in row.scores.items())
    lines = [f"prompt: {emphasise(clipped(row.prompt, 600), row.missed)}"]
    lines.append(f"reference: {_shown(row.reference)}")
    if row.base is not None:
        lines.append(f"base: {_shown(row.base)}")
    lines.append(f"**tuned**: {_shown(row.tuned)}")
    if row.missed:
        lines.append(f"left out: {escape(', '.join(row.missed))}")
    head = f"**Row {index + 1:,}** {escape(scores)}".rstrip()
    return head + "\n\n" + "\n".join(f"- {line}" for line in lines)


def _shown(text: str) -> str:
    return escape(clipped(text, 800)) if text.strip() else "*nothing*"
