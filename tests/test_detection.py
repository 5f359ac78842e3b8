"""Detection: one format or an error that says what to do; never a guess."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import plugins
from tasks.detection import detect
from tasks.errors import DataError

Row = dict[str, Any]

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SAID = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
ADVERT = {"content": "a", "summary": "b"}
PAIR = {"prompt": "a", "response": "b"}


def refused(*rows: Row) -> str:
    with pytest.raises(DataError) as caught:
        detect(rows, "train.json")
    told = str(caught.value)
    assert told.startswith("train.json: ")
    assert "(found" in told
    assert told.endswith(".")
    return told


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (ADVERT, "advertisegen"),
        (ADVERT | {"id": 7, "category": "裙"}, "advertisegen"),
        (PAIR, "pairs"),
        ({"prompt": "a", "completion": "b"}, "pairs"),
        ({"system": "s", "query": "a", "response": "b", "history": []}, "pairs"),
        ({"instruction": "a", "response": "b"}, "pairs"),
        ({"instruction": "a", "output": "b"}, "alpaca"),
        ({"instruction": "a", "input": "", "output": "b", "history": []}, "alpaca"),
        ({"question": "a", "answer": "b"}, "question"),
        ({"messages": TURNS}, "messages"),
        ({"messages": TURNS, "prompt": "a"}, "messages"),
        ({"id": "x", "conversations": SAID}, "sharegpt"),
        ({"conversations": [*SAID, {"value": "no speaker"}]}, "sharegpt"),
        ({"conversations": TURNS, "tools": []}, "chatglm3"),
        # fields are there although what they hold is bad: the reader rejects the row
        ({"content": None, "summary": 3}, "advertisegen"),
        ({"messages": "x"}, "messages"),
    ],
)
def test_names_of_fields_tell_the_format(row: Row, name: str) -> None:
    assert detect([row], "train.json") == name
    assert detect([row, row, {"broken": 1}], "train.json") == name


def test_a_few_rows_that_nobody_knows_are_left_to_the_reader() -> None:
    assert detect([ADVERT, {"a": 1}], "train.json") == "advertisegen"
    assert (
        detect([{"a": 1}, ADVERT, {"conversations": "x"}, ADVERT], "train.json") == "advertisegen"
    )
    assert "2 of the first 3 rows" in refused(ADVERT, {"a": 1}, {"content": "x"})


@pytest.mark.parametrize(
    ("row", "candidates"),
    [
        (ADVERT | PAIR, ("advertisegen (content + summary)", "pairs (prompt + response)")),
        ({"instruction": "a", "output": "b", "response": "c"}, ("alpaca", "pairs")),
        ({"messages": TURNS} | PAIR, ("messages", "pairs")),
        (
            {"conversations": [TURNS[0] | SAID[0]]},
            ('chatglm3 (conversations with "role")', 'sharegpt (conversations with "from")'),
        ),
        ({"conversations": SAID, "messages": TURNS}, ("messages", "sharegpt")),
    ],
)
def test_rows_that_fit_several_formats_are_refused_with_the_candidates(
    row: Row, candidates: tuple[str, ...]
) -> None:
    told = refused(row, row)
    assert all(each in told for each in candidates)
    assert "Set data.format" in told
    known = {name for name in plugins.names("formats") if f"{name} (" in told}
    assert len(known) == len(candidates)


def firsts(rows: list[Row]) -> list[tuple[int, str]]:
    """Number, from 1, the first row of each format."""
    found: dict[str, int] = {}
    for place, row in enumerate(rows, 1):
        found.setdefault(detect([row], "x"), place)
    return [(place, name) for name, place in found.items()]


@pytest.mark.parametrize(
    "rows",
    [
        [ADVERT, PAIR],
        [PAIR, PAIR, ADVERT, PAIR],
        [{"conversations": SAID}, {"conversations": TURNS}],
        [{"instruction": "a", "output": "b"}, {"instruction": "a", "response": "b"}],
    ],
)
def test_rows_that_disagree_are_not_guessed_at(rows: list[Row]) -> None:
    told = refused(*rows)
    assert "rows disagree" in told
    assert "row 1 is " in told
    formats = {
        row_format: f"row {place} is {row_format} with" for place, row_format in firsts(rows)
    }
    assert len(formats) == 2
    assert all(each in told for each in formats.values())
    assert "data.format" in told


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"data": [ADVERT, ADVERT]}, 'rows are inside field "data": save that list itself'),
        ({"version": "1", "train": [PAIR], "n": 1}, 'rows are inside field "train"'),
        ({"row_idx": 0, "row": ADVERT}, 'fields are inside field "row"'),
        (
            {"Prompt": "a", " Response ": "b"},
            "rename 'Prompt', ' Response ' to 'prompt', 'response'",
        ),
        (
            {"问题": "a", "回答": "b"},
            "data.columns.prompt: 问题 and data.columns.response: 回答",
        ),
        (
            {"id": 3, "kind": "NLI", "input": "a", "target": "b"},
            "data.columns.prompt: input and data.columns.response: target",
        ),
        (
            {"summary": "a", "attributes": "b"},
            "data.columns.prompt: attributes and data.columns.response: summary",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "data.columns.prompt: prompt and data.columns.response: chosen",
        ),
        (
            {"instruction": "a", "context": "c", "response": "b", "category": "qa"},
            'Field "context" would be lost',
        ),
        ({"question": "a", "choices": ["x", "y"], "answer": 1}, 'Field "choices" would be lost'),
        ({"instruction": "a", "input": "x", "response": "b"}, 'Field "input" would be lost'),
        (
            {"conversation": [{"human": "a", "assistant": "b"}]},
            'If field "conversation" is a conversation, save it as "messages"',
        ),
        ({"text": "a"}, 'One text a row has no answer to learn (field "text")'),
        ({"a": 1, "b": 2}, "Set data.columns.prompt and data.columns.response"),
        ({"x": "a", "y": "b", "z": "c"}, "Set data.columns.prompt and data.columns.response"),
        ({}, "found: nothing"),
        ({"conversations": "x"}, "Formats: "),
    ],
)
def test_rows_that_no_format_knows_come_with_advice(row: Row, advice: str) -> None:
    told = refused(row)
    assert advice in told, told
    assert "no format knows these rows" in told
    assert all(f"{name} (" in told for name in plugins.names("formats"))


def test_no_rows_are_an_error() -> None:
    assert "no rows to tell the format from" in refused()


def test_a_message_stays_short_however_many_fields_there_are() -> None:
    wide = {f"{number} \n\ud83d" * 50: "x" for number in range(10_000)}
    assert len(refused(wide, wide).encode()) < 3000
    assert len(refused(wide | PAIR | ADVERT)) < 3000
    assert len(refused(wide | PAIR, ADVERT)) < 3000


NAMES = st.sampled_from(
    [
        *("content", "summary", "prompt", "response", "messages", "conversations", "from", "role"),
        *("instruction", "output", "input", "context", "question", "answer", "text", "Prompt", ""),
    ]
) | st.text(st.characters(), max_size=3)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=6))
def test_whatever_the_rows_are_the_answer_is_one_format_or_a_sentence(rows: list[Row]) -> None:
    try:
        name = detect(rows, "train.json")
    except DataError as error:
        told = str(error)
    else:
        claims = plugins.load("formats", name).claims
        assert 2 * sum(claims(frozenset(row)) for row in rows) >= len(rows) > 0
        return
    assert told.startswith("train.json: ")
    assert told.endswith(".")
    assert told.isprintable()
    assert len(told) < 4000
