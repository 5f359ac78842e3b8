"""ShareGPT: `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}`.

Speakers are `human` or `user`, `gpt` or `assistant`, and `system`, which may come first; the row may
have a field `system` instead. A conversation begins with the human and ends with an answer. Turns of
tools (`function_call`, `observation`) are not supported.

Source: https://github.com/lm-sys/FastChat/blob/main/data/dummy_conversation.json;
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (system, tools).
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message
from tasks.formats._conversation import Layout, chat

FIELDS = ("conversations",)
TURN = ("conversations", "from")

_LAYOUT = Layout(
    turns="conversations",
    speaker="from",
    said="value",
    roles={
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "system": "system",
    },
)


def claims(names: frozenset[str]) -> bool:
    """Say whether rows with these fields may be ShareGPT's; `TURN` tells them from ChatGLM3's."""
    return "conversations" in names


def messages(row: dict[str, Any]) -> list[Message]:
    """Return the row's conversation, checked."""
    return chat(row, _LAYOUT)
