"""The learning rate: what is usual for a method, and how it moves over the steps.

A prefix learns at two hundred times the rate of adapters, and full fine-tuning at a tenth of it; the
commonest failed runs are one method at the rate of another: ChatGLM3's P-Tuning at 5e-5 does not move,
full fine-tuning at 2e-2 ends in noise. A rate of 0 therefore asks for the usual one of method and
family, and a rate far from it is said before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from . import events, families
from .families import Family
from .job import TrainSpec

_FAR = 10.0


def usual(spec: TrainSpec, family: Family) -> float:
    """Return the usual peak rate of a method on models of a family."""
    rates = cast("Mapping[str, float]", families.option(family, "RATES"))
    return rates[spec.method.kind]


def resolved(spec: TrainSpec, family: Family) -> TrainSpec:
    """Return the spec with a learning rate: its own, or the usual one where it says 0."""
    if spec.learning_rate:
        return spec
    return replace(spec, learning_rate=usual(spec, family))


def say(spec: TrainSpec, family: Family) -> None:
    """Say it when the rate is ten times the usual one, or a tenth of it, or further away."""
    expected = usual(spec, family)
    times = spec.learning_rate / expected
    # a hair of room: 1e-4 * 10 is not 1e-3 in floating point
    if 1 / _FAR * 1.001 < times < _FAR * 0.999:
        return
    what, whose = ("not be stable", times) if times > 1 else ("hardly move", 1 / times)
    word = "above" if times > 1 else "below"
    events.text(
        f"warning: learning_rate {spec.learning_rate:g} is {whose:,.0f} times {word} what is usual for "
        f"{spec.method.kind} on this model ({expected:g}): the loss may {what}"
    )


def learning_rate(step: int, steps: int, spec: TrainSpec) -> float:
    """Return the rate of a step, counted from 0: it rises linearly, then decays towards 0."""
    warm = round(spec.warmup * steps)
    if step < warm:
        return spec.learning_rate * (step + 1) / warm
    done = (step - warm) / (steps - warm)
    shape = {
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - done,
        "constant": 1.0,
    }
    return spec.learning_rate * shape[spec.decay]
