"""Questions: `{"question": "…", "answer": "…"}`.

    history    optional: [[question, answer], …] or [{"role", "content"}, …], also as JSON text
    system     optional: text

A given `context`, `options` or `choices` is part of the question: such a row is unfit.

Source: https://huggingface.co/datasets/openai/gsm8k is a set of this layout.
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message, refuse_unread, text
from tasks.formats._conversation import exchange

FIELDS = ("question", "answer")

_CONTEXT = ("context", "options", "choices")


def claims(names: frozenset[str]) -> bool:
    """Say whether rows with these fields are questions and answers."""
    return "question" in names and "answer" in names and names.isdisjoint(_CONTEXT)


def messages(row: dict[str, Any]) -> list[Message]:
    """Return system text and history if there are any, the question, and its answer."""
    refuse_unread(row, _CONTEXT)
    return exchange(row, text(row, "question"), text(row, "answer"))
