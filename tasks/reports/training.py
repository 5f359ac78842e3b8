"""The page of a training run: the curve, what is remarkable about it, and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tasks.reports.markdown import escape, table
from tasks.reports.pictures import Point, curve, image, usable
from tasks.reports.wording import number

if TYPE_CHECKING:
    from tasks.trainer.job import TrainSpec

_WORSE = 1.02
"""A dev loss that ends this much above its lowest is worth a word; below lies the noise of few rows."""


def training_page(
    points: Sequence[Point], spec: TrainSpec, facts: Mapping[str, str] | None = None
) -> str:
    """Return the page of a training run.

    Args:
        points: What was measured, in the order of the steps.
        spec: What was asked for; knobs that are not at their default stand out.
        facts: Anything else that a person may want to know, such as the pace.
    """
    ordered = sorted(points, key=lambda point: point.step)
    train = [(p.step, p.loss) for p in ordered if p.loss is not None]
    dev = [(p.step, p.dev_loss) for p in ordered if p.dev_loss is not None]
    summary = _summary(train, dev)
    parts = [f"**{summary}**", *_remarks(train, dev), image(curve(ordered), summary)]
    rows = [[escape(name), escape(value)] for name, value in (facts or {}).items()]
    parts += [table(["measured", ""], rows)] if rows else []
    parts += ["## What was asked for", _knobs(spec), "Bold: not the default."]
    return "\n\n".join(parts) + "\n"


def _summary(train: Sequence[tuple[int, float]], dev: Sequence[tuple[int, float]]) -> str:
    if not train:
        return "No loss was recorded."
    last = train[-1][0]
    words = f"{last:,} {'step' if last == 1 else 'steps'}: loss {number(train[0][1], 2)} → {number(train[-1][1], 2)}"
    good = [(value, at) for at, value in dev if usable(value)]
    if not good:
        return f"{words}. No dev loss was measured."
    lowest, at = min(good)
    return f"{words}, dev loss {number(dev[-1][1], 2)} (lowest {number(lowest, 2)} at step {at:,})"


def _remarks(train: Sequence[tuple[int, float]], dev: Sequence[tuple[int, float]]) -> list[str]:
    remarks = []
    if broken := [at for at, value in (*train, *dev) if not usable(value)]:
        remarks.append(
            f"Not finite: {len(broken):,} of {len(train) + len(dev):,} measured losses, first at "
            f"step {min(broken):,}. Lower the learning rate, or train in float32."
        )
    start, end = [value for _, value in train[:5]], [value for _, value in train[-5:]]
    if not broken and len(train) >= 10 and sum(end) >= sum(start):
        remarks.append(
            "The loss did not fall: check the learning rate and the answers in the data."
        )
    if train and train[-1][1] == 0:
        remarks.append("The loss is exactly 0: no token of an answer was scored.")
    good = [(value, at) for at, value in dev if usable(value)]
    if good and good[-1][0] > min(good)[0] * _WORSE:
        remarks.append(
            f"The dev loss rose after step {min(good)[1]:,}: "
            "fewer epochs, or more rows, would have served better."
        )
    return [f"- {remark}" for remark in remarks]


def _knobs(spec: TrainSpec) -> str:
    chosen, usual = _flat(asdict(spec)), _flat(asdict(type(spec)(method=type(spec.method)())))
    rows = []
    for name, value in chosen.items():
        shown = escape(str(value))
        rows.append([escape(name), shown if value == usual[name] else f"**{shown}**"])
    return table(["knob", "value"], rows)


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if not isinstance(value, Mapping):
            flat[name] = value
            continue
        flat[name] = value.get("kind", "")
        flat |= {f"{name}.{key}": inner for key, inner in value.items() if key != "kind"}
    return flat
