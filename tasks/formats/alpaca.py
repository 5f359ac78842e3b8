"""Alpaca: `{"instruction": "…", "input": "…", "output": "…"}`; the input may be blank or absent.

A given input stands on the line below the instruction, in the same prompt. A given `context`
is part of the question, too: such a row is unfit.

    history    optional: [[question, answer], …] or [{"role", "content"}, …], also as JSON text
    system     optional: text

Source: https://github.com/tatsu-lab/stanford_alpaca (the fields);
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (the join, history, system).
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message, optional, refuse_unread, text
from tasks.formats._conversation import exchange

FIELDS = ("instruction", "output")


def claims(names: frozenset[str]) -> bool:
    """Say whether rows with these fields are Alpaca's."""
    return {"instruction", "output"} <= names and "context" not in names


def messages(row: dict[str, Any]) -> list[Message]:
    """Return system text and history if there are any, the instruction, and the output."""
    refuse_unread(row, ("context",))
    instruction, given = text(row, "instruction"), optional(row, "input")
    prompt = f"{instruction}\n{given}" if given else instruction
    return exchange(row, prompt, text(row, "output"))
