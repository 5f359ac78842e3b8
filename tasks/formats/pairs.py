"""Pairs: `{"prompt": "…", "response": "…"}`, and the other usual names of the two.

    prompt + response, prompt + completion, query + response, instruction + response
    history    optional: [[question, answer], …] or [{"role", "content"}, …], also as JSON text
    system     optional: text

Blank and null fields count as absent where another name is given. Two names for the same thing with
different texts are a conflict. An `input` or `context` is part of the question, and no pair: such a row is
unfit, unless `data.columns` says which fields to learn.

Source: https://github.com/mosaicml/llm-foundry/tree/main/scripts/train (prompt and response or
completion), https://github.com/modelscope/ms-swift (query, response, history, system),
https://github.com/THUDM/ChatGLM-6B/tree/main/ptuning (history).
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message, Unfit, given, refuse_unread, text
from tasks.formats._conversation import exchange

FIELDS = ("prompt", "response")

_PROMPTS = ("prompt", "query", "instruction")
_ANSWERS = ("response", "completion")
_CONTEXT = ("input", "context")


def claims(names: frozenset[str]) -> bool:
    """Say whether rows with these fields are pairs."""
    answered = "response" in names or {"prompt", "completion"} <= names
    return answered and not names.isdisjoint(_PROMPTS) and names.isdisjoint(_CONTEXT)


def messages(row: dict[str, Any]) -> list[Message]:
    """Return system text and history if there are any, the question, and its answer."""
    refuse_unread(row, _CONTEXT)
    return exchange(row, _only(row, _PROMPTS), _only(row, _ANSWERS))


def _only(row: dict[str, Any], names: tuple[str, ...]) -> str:
    """Return the one text that a row gives under one or more of the names."""
    there = [name for name in names if name in row]
    if len(there) < 2:
        return text(row, there[0] if there else names[0])
    texts = [text(row, name) for name in there if given(row[name])]
    if not texts:
        return text(row, there[0])
    if any(other != texts[0] for other in texts):
        found = " and ".join(f'"{name}"' for name in there)
        raise Unfit("conflict", f"fields for the same thing differ (found: {found})")
    return texts[0]
