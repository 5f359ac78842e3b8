"""The rules by which a new model passes, and how sure each of them is.

A rule *holds*, is *broken*, or is *open*: the rows do not decide it. The verdict is *fail* when any rule is broken,
else *inconclusive* when any is open, else *pass*. Decisions:

* What must be shown is decided at the level 1 - confidence rule by rule: a pass needs every rule to hold, which is
  never more likely than the least likely of them. A fail needs only one broken rule of many, so there the p-values
  are corrected for their number (Holm).
* Two kinds of evidence must agree: the bootstrap interval of the paired difference, and the sign-flip test, which
  is exact where few rows make such intervals too narrow.
* A slice can only break the verdict, never leave it open: a few dozen rows seldom decide anything. It is compared
  with the champion, or with the base model where there is none.
* What is open says how large a difference these rows can show, and how many rows would decide it.

`tests/test_judging.py` simulates how often all this is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.metrics import statistics
from tasks.metrics.statistics import Floats

State = Literal["holds", "broken", "open"]
Outcome = Literal["pass", "fail", "inconclusive"]

INCUMBENTS = ("champion", "against")
"""Systems that the new model may not fall behind, by more than the margin."""
_FLIPS = 10_000
_FLIPS_OF_A_SLICE = 2_000


@dataclass(frozen=True)
class Rules:
    """What is asked of a new model."""

    beats: Sequence[str]
    metrics: Sequence[str]
    floors: Mapping[str, float]
    """Least mean by metric, percent."""
    champion_margin: float
    slice_margin: float
    """Points by which the worst slice may fall behind; below 0 asks nothing of slices."""
    min_rows: int
    max_empty: float
    confidence: float
    resamples: int
    seed: int


@dataclass(frozen=True)
class Finding:
    """What became of one rule."""

    rule: Literal["rows", "empty", "floor", "beats", "champion", "slice"]
    state: State
    told: str
    """For people: what was found."""


@dataclass(frozen=True)
class Difference:
    """The new model against one rival on one metric, over all rows or a slice of them."""

    rival: str
    metric: str
    mean: float
    low: float
    high: float
    needed: float | None
    """What the difference must exceed; None where no rule asks for anything."""
    p: float
    """How likely a difference this far from what is needed is by chance (sign-flip test, two-sided)."""
    rows: int
    spread: float
    """Standard deviation of the difference of a row."""
    slice: str = ""


Scored = Mapping[str, Floats]
"""The scores of each row, `(rows,)`, by metric."""


def differences(scored: Mapping[str, Scored], rules: Rules) -> list[Difference]:
    """Compare `tuned` with every other system, metric by metric."""
    return [
        _difference(rival, metric, scored["tuned"][metric] - scored[rival][metric], rules)
        for rival in sorted(scored)
        if rival != "tuned"
        for metric in rules.metrics
    ]


def by_slice(
    scored: Mapping[str, Scored], slices: Mapping[str, Sequence[int]], rules: Rules
) -> list[Difference]:
    """Compare `tuned` with the champion, or else its base, on parts of the rows."""
    rival = next((name for name in (*INCUMBENTS, "base") if name in scored), None)
    if rival is None or rules.slice_margin < 0:
        return []
    found = []
    for name, members in slices.items():
        for metric in rules.metrics:
            delta = scored["tuned"][metric] - scored[rival][metric]
            found.append(_difference(rival, metric, delta[list(members)], rules, name))
    return found


def _difference(rival: str, metric: str, delta: Floats, rules: Rules, part: str = "") -> Difference:
    needed = -rules.slice_margin if part else _needed(rival, rules)
    mean, low, high = statistics.interval(delta, rules.confidence, rules.resamples, rules.seed)
    flips = _FLIPS_OF_A_SLICE if part else _FLIPS
    nothing = np.zeros_like(delta)
    p = statistics.sign_flip(delta, nothing, -(needed or 0.0), flips, rules.seed)
    spread = float(delta.std(ddof=1)) if delta.size > 1 else 0.0
    return Difference(rival, metric, mean, low, high, needed, p, delta.size, spread, part)


def _needed(rival: str, rules: Rules) -> float | None:
    if rival in INCUMBENTS:
        return -rules.champion_margin
    return 0.0 if rival in rules.beats else None


def decide(
    tuned: Scored,
    empty: int,
    whole: Sequence[Difference],
    parts: Sequence[Difference],
    rules: Rules,
) -> tuple[Outcome, list[Finding]]:
    """Return the verdict, and what became of each rule: what decided it stands first.

    Args:
        tuned: Scores of the new model.
        empty: How many of its answers are empty.
        whole: What `differences` returned.
        parts: What `by_slice` returned.
        rules: What is asked.
    """
    rows = next(iter(tuned.values())).size
    asked = [one for one in whole if one.needed is not None]
    every = [*asked, *parts]
    corrected = statistics.holm([one.p for one in every])
    sure = dict(zip(map(id, every), corrected, strict=True))
    found = [_rows(rows, rules), _empty(rows, empty, rules), *_floors(tuned, rules)]
    found += [_beaten(one, sure[id(one)], rules) for one in asked]
    found += _worst(parts, sure, rules)
    broken = any(one.state == "broken" for one in found)
    open_ = any(one.state == "open" for one in found)
    outcome: Outcome = "fail" if broken else "inconclusive" if open_ else "pass"
    order = {"broken": 0, "open": 1, "holds": 2}
    return outcome, sorted(found, key=lambda one: order[one.state])


def _rows(rows: int, rules: Rules) -> Finding:
    enough = rows >= rules.min_rows
    told = f"{rows:,} rows were answered"
    told += "" if enough else f", {rules.min_rows:,} are needed"
    return Finding("rows", "holds" if enough else "open", told)


def _empty(rows: int, empty: int, rules: Rules) -> Finding:
    few = empty <= rules.max_empty * rows
    return Finding(
        "empty", "holds" if few else "broken", f"{empty:,} of {rows:,} answers are empty"
    )


def _floors(tuned: Scored, rules: Rules) -> Iterator[Finding]:
    for metric, floor in rules.floors.items():
        mean, low, high = statistics.interval(
            tuned[metric], rules.confidence, rules.resamples, rules.seed
        )
        state: State = "holds" if low > floor else "broken" if high <= floor else "open"
        words = {"holds": "is above", "broken": "is not above", "open": "is not surely above"}
        told = f"{_title(metric)} {mean:.1f} ({low:.1f} to {high:.1f}) {words[state]} {floor:g}"
        yield Finding("floor", state, told)


def _beaten(one: Difference, corrected: float, rules: Rules) -> Finding:
    level = 1 - rules.confidence
    needed = one.needed or 0.0
    state: State = "open"
    if one.low > needed and one.p <= level:
        state = "holds"
    elif one.high <= needed and (corrected <= level or one.spread == 0):
        state = "broken"
    rule: Literal["champion", "beats"] = "champion" if one.rival in INCUMBENTS else "beats"
    words = {
        "beats": {
            "holds": "beats",
            "broken": "does not beat",
            "open": "is not surely better than",
        },
        "champion": {
            "holds": "is no worse than",
            "broken": "is worse than",
            "open": "is not surely as good as",
        },
    }[rule][state]
    told = f"{words} {described(one, 'by ' if state == 'holds' and rule == 'beats' else '')}"
    return Finding(rule, state, told + (_deciding(one, rules) if state == "open" else ""))


def _deciding(one: Difference, rules: Rules) -> str:
    """Say what these rows can show, and how many would show what was found."""
    if one.rows < 2 or one.spread == 0:
        return ""
    pair = np.array([-1.0, 1.0]) * one.spread / 2**0.5  # two values of this spread
    least = statistics.detectable(pair, one.rows, rules.confidence)
    told = f"; {one.rows:,} rows show differences of {least:.1f} and more"
    over = abs(one.mean - (one.needed or 0.0))
    if over == 0:
        return told
    rows = statistics.rows_needed(pair, over, rules.confidence)
    return f"{told}, this one takes about {_rounded(rows):,}" if rows > one.rows else told


def _rounded(rows: int) -> int:
    """Round up to two digits: more would claim a knowledge that nobody has."""
    unit: int = 10 ** max(0, len(str(rows)) - 2)
    return -(-rows // unit) * unit


def _worst(
    parts: Sequence[Difference], sure: Mapping[int, float], rules: Rules
) -> Iterator[Finding]:
    """Yield what became of the slices: each broken one, or the worst."""
    if not parts:
        return
    level = 1 - rules.confidence
    broken = [one for one in parts if one.high <= -rules.slice_margin and sure[id(one)] <= level]
    for one in broken:
        yield Finding("slice", "broken", f"on {one.slice}, falls behind {described(one)}")
    if not broken:
        worst = min(parts, key=lambda one: one.mean)
        yield Finding(
            "slice", "holds", f"on its worst slice, {worst.slice}, next to {described(worst)}"
        )


def described(one: Difference, link: str = "") -> str:
    """Say a difference with its interval: who, on what, `by` or a colon, how much."""
    told = f"{one.mean:+.1f} ({one.low:+.1f} to {one.high:+.1f})"
    return f"{one.rival} on {_title(one.metric)}{f' {link}' if link else ': '}{told}"


def _title(metric: str) -> str:
    return metric.upper().replace("_", "-")
