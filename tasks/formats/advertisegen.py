"""AdvertiseGen: `{"content": "类型#裙*颜色#白色", "summary": "这条裙子…"}`, one row a line.

Source: Shao et al. 2019, "Long and Diverse Text Generation with Planning-based Hierarchical
Variational Model"; the field names are those of ChatGLM-6B's `ptuning` example.
"""

from __future__ import annotations

from typing import Any

from tasks.formats import Message, text

FIELDS = ("content", "summary")


def messages(row: dict[str, Any]) -> list[Message]:
    """Return the attributes as the user's turn and the advert as the answer."""
    return [
        {"role": "user", "content": text(row, "content")},
        {"role": "assistant", "content": text(row, "summary")},
    ]
