"""What formats of conversations share: lists of turns, earlier turns, and the order of the roles.

Nothing is mended: two turns of the same speaker are not glued together, a missing answer is not left
out, a mark that a turn must not be learned is not ignored. Such a row is unfit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from tasks.formats import (
    Message,
    Role,
    Unfit,
    given,
    kind,
    listed,
    optional,
    refuse_beside,
    shown,
    text,
)

_TOOLS = {"tool", "function", "function_call", "tool_call", "observation", "tool_response"}
_TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id", "name", "parameters", "observation")
_IN_TURN = ("user", "assistant")
_UNREAD = ("reasoning_content", "reasoning", "thinking", "refusal", "audio")


class Layout(NamedTuple):
    """Where a format keeps its turns, and what it calls the speakers."""

    turns: str
    speaker: str
    said: str
    roles: dict[str, Role]


_HISTORY = Layout(
    "history",
    "role",
    "content",
    {"system": "system", "user": "user", "assistant": "assistant"},
)


def exchange(row: dict[str, Any], prompt: str, answer: str) -> list[Message]:
    """Return a question and its answer, after the row's own `system` and `history` if it has any.

    Raises:
        Unfit: They cannot be read.
    """
    if len(row) > 2:
        refuse_beside(row)
    turns: list[Message] = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
    ]
    if "history" not in row and "system" not in row:
        return turns
    return _ordered([*_history(row), *turns], optional(row, "system"))


def _history(row: dict[str, Any]) -> list[Message]:
    """Read `[[question, answer], …]` or `[{role, content}, …]`, also as JSON text in a table's cell."""
    value = row.get("history")
    if not given(value):
        return []
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as reason:
            found = shown(row["history"])
            raise Unfit("history", f'field "history" is not JSON (found: {found})') from reason
    if not isinstance(value, list):
        raise Unfit("history", f'field "history" must be a list (found: {kind(value)})')
    try:
        return [message for index, item in enumerate(value, 1) for message in _round(item, index)]
    except Unfit as unfit:
        raise Unfit("history", f'field "history": {unfit}') from unfit


def _round(item: Any, index: int) -> list[Message]:
    if isinstance(item, dict):
        return [_turn(item, index, _HISTORY)]
    if isinstance(item, list) and len(item) == 2:
        sides = {"question": item[0], "answer": item[1]}
        return [
            {"role": "user", "content": text(sides, "question", index)},
            {"role": "assistant", "content": text(sides, "answer", index)},
        ]
    found = f"{len(item)} items" if isinstance(item, list) else kind(item)
    raise Unfit("turns", f"turn {index} must be a pair of question and answer (found: {found})")


def chat(row: dict[str, Any], layout: Layout) -> list[Message]:
    """Return the messages of a row that holds a list of turns, and perhaps a `system` text.

    Raises:
        Unfit: A turn or the order of the turns does not fit, tools are used, or a turn is not to be
            learned as its role is.
    """
    if layout.turns not in row:
        raise Unfit("missing-field", f'no field "{layout.turns}" (found: {listed(row)})')
    turns = row[layout.turns]
    if not isinstance(turns, list) or not turns:
        found = "an empty list" if turns == [] else kind(turns)
        raise Unfit("turns", f'field "{layout.turns}" must be a list of turns (found: {found})')
    if len(row) > 1:
        refuse_beside(row)
    for field in ("tools", "functions"):
        if field in row and given(row[field]):
            raise Unfit("tools", f'tools are not supported (found: field "{field}")')
    read = [_turn(turn, index, layout) for index, turn in enumerate(turns, 1)]
    return _ordered(read, optional(row, "system"))


def _turn(turn: Any, index: int, layout: Layout) -> Message:
    if not isinstance(turn, dict):
        raise Unfit("turns", f"turn {index} must be an object (found: {kind(turn)})")
    if layout.speaker not in turn:
        raise Unfit(
            "missing-field", f'turn {index}: no field "{layout.speaker}" (found: {listed(turn)})'
        )
    speaker = turn[layout.speaker]
    role = layout.roles.get(speaker) if isinstance(speaker, str) else None
    if len(turn) > 2 or role is None:
        _refuse_extras(turn, index, role, speaker)
    if role is None:
        known = " or ".join(layout.roles)
        found = shown(speaker)
        raise Unfit("roles", f'turn {index}: "{layout.speaker}" must be {known} (found: {found})')
    return {"role": role, "content": text(turn, layout.said, index)}


def _refuse_extras(turn: dict[str, Any], index: int, role: Role | None, speaker: Any) -> None:
    tools = [f'field "{field}"' for field in _TOOL_FIELDS if given(turn.get(field))]
    if isinstance(speaker, str) and speaker in _TOOLS:
        tools = [f"a turn by {speaker!r}", *tools]
    if tools:
        told = f"turn {index}: tools and named speakers are not supported"
        raise Unfit("tools", f"{told} (found: {', '.join(tools)})")
    for field in _UNREAD:
        if given(turn.get(field)):
            raise Unfit(
                "unread-field", f'turn {index}: "{field}" would be lost (found: {listed(turn)})'
            )
    for field in ("loss", "weight"):
        mark = turn.get(field)
        if role and mark is not None and mark != (role == "assistant"):
            told = f"turn {index}: every answer is learned, and nothing else"
            raise Unfit("loss", f'{told} (found: "{field}" is {shown(mark)} for the {role})')


def _ordered(turns: list[Message], system: str) -> list[Message]:
    """Return the turns, led by the system text if there is one, once their order is right."""
    lead = 1 if turns and turns[0]["role"] == "system" else 0
    if lead and system:
        raise Unfit("roles", 'two system texts (found: field "system", and turn 1)')
    for index in range(lead, len(turns)):
        wanted = _IN_TURN[(index - lead) % 2]
        if turns[index]["role"] != wanted:
            found = turns[index]["role"]
            raise Unfit("roles", f"turn {index + 1} must be by the {wanted} (found: {found})")
    if len(turns) == lead or (len(turns) - lead) % 2:
        last = turns[-1]["role"] if turns else "no turn"
        raise Unfit("roles", f"the last turn must be by the assistant (found: {last})")
    return [{"role": "system", "content": system}, *turns] if system else turns
