"""Chat messages: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}`.

The layout of OpenAI's fine-tuning files. A system turn may come first; user and assistant alternate,
and the assistant has the last word.
"""

from __future__ import annotations

from typing import Any, cast

from tasks.formats import Message, text

FIELDS = ("messages",)


def messages(row: dict[str, Any]) -> list[Message]:
    """Return the row's own messages, checked."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise ValueError(
            f'field "messages" must be a list of turns (found: {type(turns).__name__})'
        )
    checked = [_turn(index, turn) for index, turn in enumerate(turns)]
    roles = [turn["role"] for turn in checked if turn["role"] != "system"]
    alternating = ["user", "assistant"] * (len(roles) // 2)
    if not roles or roles != alternating:
        raise ValueError(
            f"user and assistant must alternate, assistant last (found: {', '.join(roles)})"
        )
    if any(turn["role"] == "system" for turn in checked[1:]):
        raise ValueError("a system turn may only come first (found: one later)")
    return checked


def _turn(index: int, turn: Any) -> Message:
    if not isinstance(turn, dict):
        raise ValueError(f"turn {index} must be an object (found: {type(turn).__name__})")
    role = turn.get("role")
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"turn {index}: role must be system, user or assistant (found: {role!r})")
    return cast(Message, {"role": role, "content": text(turn, "content")})
