"""Which format rows have, told from the names of their fields; never guessed.

Each file of `formats/` says which names it claims. One format that claims the rows is the answer.
Several, none, or rows that disagree are an error that says what was found and what to write instead;
`data.format` in the configuration always wins and asks nobody. Rows that no format claims are left to
the reader, which rejects them one by one, as long as they are not more than half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks import plugins
from tasks.errors import DataError
from tasks.formats import listed, shown

Row = dict[str, Any]

_ASKED = ("prompt", "input", "question", "query", "instruction", "source", "src", "title", "q")
_ANSWERED = (
    *("response", "output", "answer", "completion", "target", "tgt", "summary", "reply", "chosen"),
    *("label", "a"),
)
_CONTEXT = ("context", "input", "options", "choices")


def detect(rows: Sequence[Row], what: str) -> str:
    """Return the name of the one format of the first rows of a file, which messages call `what`.

    Raises:
        DataError: No format, or several, claim the rows; or some rows are of one, some of another.
    """
    found: dict[tuple[str, ...], int] = {}
    lost: list[Row] = []
    for index, row in enumerate(rows):
        if claimants := _claimants(row):
            found.setdefault(claimants, index)
        else:
            lost.append(row)
    if not found or 2 * len(lost) > len(rows):
        raise _none(lost, len(rows), what)
    for several, index in found.items():
        if len(several) > 1:
            raise DataError(
                f"{what}: these rows fit several formats "
                f"(found: {_sorts(several)}; row {index + 1} has {listed(rows[index])}). "
                "Set data.format to the one that is meant."
            )
    if len(found) > 1:
        told = "; ".join(
            f"row {index + 1} is {one} with {listed(rows[index])}"
            for (one,), index in found.items()
        )
        raise DataError(
            f"{what}: the rows disagree about their format (found: {told}). "
            "Give each format a source of its own, or set data.format: the rows that do not fit "
            "are then rejected."
        )
    ((name,),) = found
    return name


def _claimants(row: Row) -> tuple[str, ...]:
    names = frozenset(row)
    return tuple(name for name in plugins.names("formats") if _claims(name, names, row))


def _claims(name: str, names: frozenset[str], row: Row) -> bool:
    chosen = plugins.load("formats", name)
    if not chosen.claims(names):
        return False
    if not hasattr(chosen, "TURN"):
        return True
    field, mark = chosen.TURN
    turns = row.get(field)
    return isinstance(turns, list) and any(
        isinstance(turn, dict) and mark in turn for turn in turns
    )


def _sorts(names: Sequence[str]) -> str:
    return ", ".join(f"{name} ({_fields(name)})" for name in names)


def _fields(name: str) -> str:
    chosen = plugins.load("formats", name)
    turn = f' with "{chosen.TURN[1]}"' if hasattr(chosen, "TURN") else ""
    return " + ".join(chosen.FIELDS) + turn


def _none(lost: Sequence[Row], looked_at: int, what: str) -> DataError:
    if not lost:
        return DataError(f"{what}: no rows to tell the format from (found 0). Give some rows.")
    names = dict.fromkeys(name for row in lost for name in row)
    many = "" if len(lost) == looked_at else f" in {len(lost)} of the first {looked_at} rows"
    return DataError(
        f"{what}: no format knows these rows (found: {listed(names)}{many}). {_advice(lost[0])} "
        f"Formats: {_sorts(plugins.names('formats'))}."
    )


def _advice(row: Row) -> str:
    """Say what to do about a row that no format claims."""
    for hint in (_wrapped, _misspelled, _with_context, _talk, _columns):
        if told := hint(row):
            return told
    return (
        "Set data.columns.prompt and data.columns.response to the fields to learn from, "
        "or save the rows in one of the formats."
    )


def _wrapped(row: Row) -> str:
    """Look for rows one level down: `{"data": [{…}, {…}]}`, `{"row": {…}}`."""
    for field, value in row.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and _claimants(inner):
            named = listed([field])
            if isinstance(value, list):
                return f'The rows are inside field "{named}": save that list itself as the file.'
            return f'The fields are inside field "{named}": save these objects as the rows.'
    return ""


def _misspelled(row: Row) -> str:
    """Look for names that differ by case and space only: `Prompt`, ` response`."""
    right = {name: name.strip().lower() for name in row}
    if not _claimants({right[name]: value for name, value in row.items()}):
        return ""
    wrong = [name for name in row if name != right[name]]
    return (
        f"Names must match exactly: rename {', '.join(shown(name) for name in wrong[:5])} to "
        f"{', '.join(shown(right[name]) for name in wrong[:5])}."
    )


def _with_context(row: Row) -> str:
    """Look for a question in two fields, of which a format takes one."""
    context = [name for name in _CONTEXT if name in row]
    rest = {name: value for name, value in row.items() if name not in context}
    if not context or not _claimants(rest):
        return ""
    return (
        f'Field "{context[0]}" would be lost: put it into the question, or set data.columns.prompt '
        "and data.columns.response to learn without it."
    )


def _talk(row: Row) -> str:
    """Look for a conversation in a layout of its own."""
    for field, value in row.items():
        if isinstance(value, list) and value and isinstance(value[0], dict | list):
            return (
                f'If field "{listed([field])}" is a conversation, save it as '
                '"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].'
            )
    return ""


def _columns(row: Row) -> str:
    """Look for two texts: by names that are usual elsewhere, or because there are only two."""
    texts = [name for name, value in row.items() if isinstance(value, str) and name]
    known = {name: name.strip().lower() for name in texts}
    prompt = next((name for name in texts if known[name] in _ASKED), "")
    response = next((name for name in texts if known[name] in _ANSWERED), "")
    if len(texts) == 2 and not (prompt and response):
        others = [name for name in texts if name not in (prompt, response)]
        prompt, response = prompt or others[0], response or others[-1]
    if prompt and response:
        return (
            f"If they are question and answer, set data.columns.prompt: {listed([prompt])} "
            f"and data.columns.response: {listed([response])}."
        )
    if len(texts) == 1:
        return (
            f'One text a row has no answer to learn (field "{listed(texts)}"): '
            "part it into a prompt and a response."
        )
    return ""
