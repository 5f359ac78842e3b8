"""ChatGLM3 conversations: `{"conversations": [{"role": "user", "content": "…"}, …]}`.

Roles are `system`, which may come first, `user` and `assistant`. Tools (the field `tools`, turns of
role `tool` or `observation`, a call in `metadata`) are not supported. A mark `loss` is taken when it
says what is done anyway: true for the assistant, false for all others.

Source: https://github.com/THUDM/ChatGLM3/blob/main/finetune_demo/README.md.
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message, Unfit, given
from tasks.formats._conversation import Layout, chat

FIELDS = ("conversations",)
TURN = ("conversations", "role")

_LAYOUT = Layout(
    turns="conversations",
    speaker="role",
    said="content",
    roles={"system": "system", "user": "user", "assistant": "assistant"},
)


def claims(names: frozenset[str]) -> bool:
    """Say whether rows with these fields may be ChatGLM3's; `TURN` tells them from ShareGPT's."""
    return "conversations" in names


def messages(row: dict[str, Any]) -> list[Message]:
    """Return the row's conversation, checked."""
    read = chat(row, _LAYOUT)
    for index, turn in enumerate(row["conversations"], 1):
        if "metadata" in turn and given(turn["metadata"]):
            told = f"turn {index}: tools are not supported"
            raise Unfit("tools", f'{told} (found: a call in field "metadata")')
    return read
