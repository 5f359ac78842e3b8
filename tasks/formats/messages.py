"""Chat messages: `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}`.

Roles are `system` or `developer`, which may come first, `user` and `assistant`. Content may be a list
of text parts, `[{"type": "text", "text": "…"}]`, which are joined by line breaks. Tools, pictures and
sound are not supported. A `weight` is taken when it says what is done anyway: 1 for the assistant, 0
for all others.

Source: https://platform.openai.com/docs/guides/fine-tuning (the layout);
https://github.com/vllm-project/vllm, vllm/entrypoints/chat_utils.py (how text parts are joined).
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message, Unfit, kind, shown, text
from tasks.formats._conversation import Layout, chat

FIELDS = ("messages",)

_LAYOUT = Layout(
    turns="messages",
    speaker="role",
    said="content",
    roles={
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
    },
)


def claims(names: frozenset[str]) -> bool:
    """Say whether rows with these fields are chat messages."""
    return "messages" in names


def messages(row: dict[str, Any]) -> list[Message]:
    """Return the row's own messages, checked."""
    turns = row.get("messages")
    if isinstance(turns, list) and any(map(_is_in_parts, turns)):
        row = row | {"messages": [_joined(turn, index) for index, turn in enumerate(turns, 1)]}
    return chat(row, _LAYOUT)


def _is_in_parts(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("content"), list)


def _joined(turn: Any, index: int) -> Any:
    """Return the turn with its text parts as one text, if its content is in parts."""
    if not _is_in_parts(turn):
        return turn
    parts = turn["content"]
    for part in parts:
        sort = part.get("type") if isinstance(part, dict) else None
        if sort != "text":
            found = f"a part of type {shown(sort)}" if isinstance(part, dict) else kind(part)
            raise Unfit("not-text", f"turn {index}: every part must be text (found: {found})")
    return {**turn, "content": "\n".join(text(part, "text", index) for part in parts)}
