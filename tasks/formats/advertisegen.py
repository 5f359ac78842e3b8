"""AdvertiseGen: `{"content": "类型#裙*颜色#白色", "summary": "这条裙子…"}`, one row a line.

Source: Shao et al. 2019, "Long and Diverse Text Generation with Planning-based Hierarchical
Variational Model" (https://arxiv.org/abs/1908.06605); the field names are those of ChatGLM-6B's
`ptuning` example (https://github.com/THUDM/ChatGLM-6B/tree/main/ptuning). Placeholders such as
`<UNK>` are kept as they are.
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message, text
from tasks.formats._conversation import exchange

FIELDS = ("content", "summary")


def claims(names: frozenset[str]) -> bool:
    """Say whether rows with these fields are AdvertiseGen's."""
    return "content" in names and "summary" in names


def messages(row: dict[str, Any]) -> list[Message]:
    """Return the attributes as the user's turn and the advert as the answer."""
    content, summary = text(row, "content"), text(row, "summary")
    if len(row) > 2:
        return exchange(row, content, summary)
    return [{"role": "user", "content": content}, {"role": "assistant", "content": summary}]
