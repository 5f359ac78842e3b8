"""The formats: one contract for every file, and what each takes and refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import plugins
from tasks.config import DataConfig
from tasks.formats import Code, Message, Unfit, text

Row = dict[str, Any]

USER: Message = {"role": "user", "content": "类型#裙"}
TOLD: Message = {"role": "assistant", "content": "一条裙子。"}
SYSTEM: Message = {"role": "system", "content": "写广告。"}

# A row of each format; its messages are USER and TOLD.
EXAMPLES: dict[str, Row] = {
    "advertisegen": {"content": "类型#裙", "summary": "一条裙子。"},
    "alpaca": {"instruction": "类型#裙", "input": "", "output": "一条裙子。"},
    "chatglm3": {"conversations": [dict(USER), dict(TOLD)]},
    "messages": {"messages": [dict(USER), dict(TOLD)]},
    "pairs": {"prompt": "类型#裙", "response": "一条裙子。"},
    "question": {"question": "类型#裙", "answer": "一条裙子。"},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "类型#裙"},
            {"from": "gpt", "value": "一条裙子。"},
        ]
    },
}


def read(name: str, row: Row) -> list[Message]:
    messages: list[Message] = plugins.load("formats", name).messages(row)
    return messages


def unfit(name: str, row: Row) -> Unfit:
    with pytest.raises(Unfit) as caught:
        read(name, row)
    return caught.value


class TestEveryFormat:
    """The contract of `tasks/formats`, for each file that is there."""

    @pytest.fixture(params=plugins.names("formats"))
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_it_says_what_it_needs_and_refuses_what_lacks_it(self, name: str) -> None:
        chosen = plugins.load("formats", name)
        assert chosen.__doc__
        assert "Source:" in chosen.__doc__
        assert chosen.FIELDS
        assert chosen.claims(frozenset(chosen.FIELDS))
        assert not chosen.claims(frozenset())
        refused = unfit(name, {})
        assert refused.code == "missing-field"
        assert "(found: nothing)" in str(refused)

    def test_it_is_a_choice_of_the_configuration(self, name: str) -> None:
        assert DataConfig.model_validate({"format": name}).format == name

    def test_it_reads_its_example_and_leaves_the_row_as_it_was(self, name: str) -> None:
        row = copy.deepcopy(EXAMPLES[name])
        assert read(name, row) == [USER, TOLD]
        assert row == EXAMPLES[name]

    def test_it_claims_its_own_rows_and_no_other_format_does(self, name: str) -> None:
        names = frozenset(EXAMPLES[name]) | {"id"}
        claiming = [
            each for each in plugins.names("formats") if plugins.load("formats", each).claims(names)
        ]
        rivals = [each for each in claiming if each != name]
        assert name in claiming
        for rival in rivals:
            mine, its = (plugins.load("formats", each) for each in (name, rival))
            assert mine.FIELDS == its.FIELDS
            assert mine.TURN != its.TURN

    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            (3, "not-text"),
            (True, "not-text"),
            (None, "not-text"),
            ({"a": 1}, "not-text"),
            ("", "blank"),
            (" \u3000\u200b\n", "blank"),
            ("\ufeff", "blank"),
            ("裙\ud83d", "surrogate"),
            ("\udc00", "surrogate"),
            ("裙\0子", "nul"),
        ],
        ids=ascii,
    )
    def test_an_answer_that_is_no_text_to_learn_is_refused(
        self, name: str, bad: object, code: str
    ) -> None:
        row = copy.deepcopy(EXAMPLES[name])
        holder, field = next(
            (holder, field) for holder, field, value in leaves(row) if value == TOLD["content"]
        )
        holder[field] = bad
        refused = unfit(name, row)
        assert refused.code == code
        assert f'"{field}"' in str(refused)

    def test_every_white_space_alone_is_blank(self, name: str) -> None:
        row = copy.deepcopy(EXAMPLES[name])
        holder, field = next(
            (holder, field) for holder, field, value in leaves(row) if value == USER["content"]
        )
        holder[field] = "".join(one for one in map(chr, range(0x110000)) if one.isspace())
        assert unfit(name, row).code == "blank"


def leaves(value: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield each text with what holds it and under which name."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from leaves(inner)
        elif isinstance(inner, str):
            yield value, key, inner


def test_every_format_has_an_example_here() -> None:
    assert set(EXAMPLES) == set(plugins.names("formats"))


HISTORY = [["红的？", "有。"], ["蓝的？", "没有。"]]
TOLD_BEFORE = [
    {"role": "user", "content": "红的？"},
    {"role": "assistant", "content": "有。"},
    {"role": "user", "content": "蓝的？"},
    {"role": "assistant", "content": "没有。"},
]


@pytest.mark.parametrize("name", ["pairs", "alpaca", "question"])
@pytest.mark.parametrize(
    "history",
    [HISTORY, TOLD_BEFORE, json.dumps(HISTORY), json.dumps(TOLD_BEFORE, ensure_ascii=False)],
)
def test_earlier_turns_and_a_system_text_come_first(name: str, history: object) -> None:
    row = EXAMPLES[name] | {"history": history, "system": SYSTEM["content"]}
    assert read(name, row) == [SYSTEM, *TOLD_BEFORE, USER, TOLD]


@pytest.mark.parametrize("name", ["pairs", "alpaca", "question"])
@pytest.mark.parametrize("empty", [None, "", "  ", [], "[]", " [] ", "null"])
def test_no_earlier_turns_are_none(name: str, empty: object) -> None:
    assert read(name, EXAMPLES[name] | {"history": empty}) == [USER, TOLD]
    blank = empty if empty is None or not str(empty).strip() else ""
    assert read(name, EXAMPLES[name] | {"system": blank}) == [USER, TOLD]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("pairs", {"prompt": "类型#裙", "completion": "一条裙子。"}),
        ("pairs", {"query": "类型#裙", "response": "一条裙子。", "id": 7}),
        ("pairs", {"instruction": "类型#裙", "response": "一条裙子。", "input": " "}),
        ("pairs", {"prompt": "类型#裙", "response": "一条裙子。", "completion": "一条裙子。"}),
        ("pairs", {"prompt": "类型#裙", "response": None, "completion": "一条裙子。"}),
        ("pairs", {"prompt": "", "query": "类型#裙", "response": "一条裙子。"}),
        ("alpaca", {"instruction": "类型#裙", "output": "一条裙子。"}),
        ("alpaca", {"instruction": "类型#裙", "output": "一条裙子。", "input": None}),
        ("question", {"question": "类型#裙", "answer": "一条裙子。", "context": ""}),
        (
            "messages",
            {"messages": [USER | {"content": [{"type": "text", "text": "类型#裙"}]}, TOLD]},
        ),
        ("messages", {"messages": [USER, TOLD | {"weight": 1, "tool_calls": None, "name": ""}]}),
        ("messages", {"messages": [USER | {"weight": 0}, TOLD], "tools": []}),
        ("chatglm3", {"conversations": [USER | {"loss": False}, TOLD | {"loss": True}]}),
        ("chatglm3", {"conversations": [USER, TOLD | {"metadata": ""}], "tools": "[]"}),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "user", "value": "类型#裙"},
                    {"from": "assistant", "value": "一条裙子。"},
                ]
            },
        ),
    ],
)
def test_other_spellings_say_the_same(name: str, row: Row) -> None:
    assert read(name, row) == [USER, TOLD]


def test_a_given_input_stands_below_the_instruction() -> None:
    row = {"instruction": "写广告", "input": "类型#裙", "output": "一条裙子。"}
    assert read("alpaca", row) == [{"role": "user", "content": "写广告\n类型#裙"}, TOLD]


def test_parts_of_text_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"messages": [{"role": "user", "content": parts}, TOLD]}
    assert read("messages", row)[0]["content"] == "a\nb"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, USER, TOLD]},
        {"messages": [SYSTEM | {"role": "developer"}, USER, TOLD]},
        {"messages": [USER, TOLD], "system": SYSTEM["content"]},
    ],
)
def test_a_system_turn_may_come_first(row: Row) -> None:
    assert read("messages", row) == [SYSTEM, USER, TOLD]


HUMAN = {"from": "human", "value": "a"}
GPT = {"from": "gpt", "value": "b"}


@pytest.mark.parametrize(
    ("name", "row", "code", "told"),
    [
        ("advertisegen", {"content": "x", "sumary": "y"}, "missing-field", "content, sumary"),
        ("pairs", {"prompt": "x", "text": "y"}, "missing-field", 'no field "response"'),
        (
            "pairs",
            {"prompt": "x", "response": "y", "completion": "z"},
            "conflict",
            '(found: "response" and "completion")',
        ),
        ("pairs", {"prompt": "x", "query": "y", "response": "z"}, "conflict", '"query"'),
        ("pairs", {"prompt": "x", "response": "", "completion": None}, "blank", '"response"'),
        ("pairs", {"instruction": "x", "context": "y", "response": "z"}, "unread-field", "context"),
        ("pairs", {"query": "x", "input": "y", "response": "z"}, "unread-field", '"input"'),
        ("pairs", {"prompt": "x", "response": "y", "system": 3}, "not-text", '"system"'),
        ("alpaca", {"instruction": "x", "output": "y", "input": ["z"]}, "not-text", '"input"'),
        ("alpaca", {"instruction": " ", "output": "y", "input": "z"}, "blank", '"instruction"'),
        ("question", {"question": "x", "answer": ["y"]}, "not-text", "(found: a list)"),
        ("question", {"question": "x", "answer": "y", "choices": ["z"]}, "unread-field", "choices"),
        ("messages", {"messages": "x"}, "turns", "(found: text)"),
        ("messages", {"messages": []}, "turns", "(found: an empty list)"),
        ("messages", {"messages": ["x"]}, "turns", "turn 1 must be an object"),
        ("messages", {"messages": [USER]}, "roles", "last turn must be by the assistant"),
        ("messages", {"messages": [SYSTEM]}, "roles", "(found: system)"),
        ("messages", {"messages": [TOLD, USER]}, "roles", "turn 1 must be by the user"),
        ("messages", {"messages": [USER, USER, TOLD]}, "roles", "turn 2 must be by the assistant"),
        ("messages", {"messages": [USER, TOLD, TOLD]}, "roles", "turn 3 must be by the user"),
        ("messages", {"messages": [USER, SYSTEM, TOLD]}, "roles", "turn 2"),
        ("messages", {"messages": [SYSTEM, SYSTEM, USER, TOLD]}, "roles", "turn 2"),
        ("messages", {"messages": [SYSTEM, USER, TOLD], "system": "x"}, "roles", "two system"),
        ("messages", {"messages": [USER | {"role": "bot"}, TOLD]}, "roles", "'bot'"),
        ("messages", {"messages": [USER | {"role": None}, TOLD]}, "roles", "null"),
        (
            "messages",
            {"messages": [{"content": "x"}, TOLD]},
            "missing-field",
            'turn 1: no field "role"',
        ),
        ("messages", {"messages": [USER, {"role": "assistant"}]}, "missing-field", "turn 2"),
        ("messages", {"messages": [USER, TOLD | {"role": "tool"}]}, "tools", "a turn by 'tool'"),
        ("messages", {"messages": [USER, TOLD | {"tool_calls": [{}]}]}, "tools", '"tool_calls"'),
        (
            "messages",
            {"messages": [USER, TOLD | {"function_call": {"name": "f"}}]},
            "tools",
            "call",
        ),
        ("messages", {"messages": [USER | {"name": "Li"}, TOLD]}, "tools", '"name"'),
        (
            "messages",
            {"messages": [USER, TOLD], "tools": [{"type": "function"}]},
            "tools",
            '"tools"',
        ),
        ("messages", {"messages": [USER, TOLD | {"weight": 0}]}, "loss", '"weight" is 0'),
        ("messages", {"messages": [USER | {"weight": 1}, TOLD]}, "loss", "for the user"),
        ("messages", {"messages": [USER, TOLD | {"weight": "1"}]}, "loss", "every answer"),
        ("messages", {"messages": [USER, TOLD | {"reasoning": "x"}]}, "unread-field", "reasoning"),
        (
            "messages",
            {"messages": [USER | {"content": [{"type": "image_url", "image_url": {}}]}, TOLD]},
            "not-text",
            "a part of type 'image_url'",
        ),
        ("messages", {"messages": [USER | {"content": ["x"]}, TOLD]}, "not-text", "found: text"),
        ("messages", {"messages": [USER | {"content": []}, TOLD]}, "blank", '"content"'),
        ("sharegpt", {"conversations": [GPT, HUMAN, GPT]}, "roles", "turn 1 must be by the user"),
        ("sharegpt", {"conversations": [HUMAN, GPT, HUMAN]}, "roles", "last turn"),
        (
            "sharegpt",
            {"conversations": [HUMAN, {"from": "function_call", "value": "{}"}]},
            "tools",
            "a turn by 'function_call'",
        ),
        (
            "sharegpt",
            {"conversations": [HUMAN, GPT, {"from": "observation", "value": "3"}, GPT]},
            "tools",
            "turn 3",
        ),
        ("sharegpt", {"conversations": [HUMAN, GPT], "tools": '[{"name": "f"}]'}, "tools", "tools"),
        ("sharegpt", {"conversations": [USER, TOLD]}, "missing-field", '"from"'),
        ("chatglm3", {"conversations": [HUMAN, GPT]}, "missing-field", '"role"'),
        ("chatglm3", {"conversations": [USER, TOLD], "tools": [{}]}, "tools", '"tools"'),
        ("chatglm3", {"conversations": [USER, {"role": "tool", "name": "f"}]}, "tools", "'tool'"),
        ("chatglm3", {"conversations": [USER, TOLD | {"metadata": "f"}]}, "tools", "metadata"),
        ("chatglm3", {"conversations": [USER, TOLD | {"loss": False}]}, "loss", "is False"),
        ("chatglm3", {"conversations": [USER | {"loss": True}, TOLD]}, "loss", "for the user"),
    ],
)
def test_what_a_format_cannot_take_is_refused_with_its_reason(
    name: str, row: Row, code: str, told: str
) -> None:
    refused = unfit(name, row)
    assert (refused.code, told in str(refused)) == (code, True), str(refused)


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (3, "must be a list (found: a number)"),
        ({"a": "b"}, "must be a list (found: an object)"),
        ("[['a', 'b']]", "is not JSON (found: \"[['a', 'b']]\")"),
        ('"a"', "must be a list (found: text)"),
        ("[[", "is not JSON"),
        ([["a"]], "turn 1 must be a pair of question and answer (found: 1 items)"),
        (["a", "b"], "turn 1 must be a pair of question and answer (found: text)"),
        ([["a", "b"], ["", "c"]], 'turn 2: field "question" is blank'),
        ([["a", None]], 'field "answer" must be text (found: null)'),
        ([{"from": "human", "value": "a"}], 'turn 1: no field "role"'),
        ([{"role": "tool", "content": "a"}], "tools and named speakers"),
    ],
)
def test_earlier_turns_that_cannot_be_read_are_refused(history: object, told: str) -> None:
    refused = unfit("pairs", EXAMPLES["pairs"] | {"history": history})
    assert (refused.code, told in str(refused)) == ("history", True), str(refused)


def test_an_earlier_turn_without_its_answer_is_in_the_wrong_order() -> None:
    refused = unfit("pairs", EXAMPLES["pairs"] | {"history": [{"role": "user", "content": "a"}]})
    assert refused.code == "roles"


TEXTS = st.text(min_size=1, max_size=12).filter(lambda each: each.strip() and "\0" not in each)
TEXTS = TEXTS.filter(lambda each: any(one.isalnum() for one in each))
TALKS = st.tuples(st.none() | TEXTS, st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
Talk = tuple[str | None, list[tuple[str, str]]]


def rendered(talk: Talk) -> Iterator[tuple[str, Row]]:
    """Write a conversation down in every way that it can be written in."""
    system, rounds = talk
    *earlier, (prompt, answer) = rounds
    lead = {"system": system} if system else {}
    history = [list(each) for each in earlier]
    pairs: list[tuple[str, Row]] = [
        ("pairs", {"prompt": prompt, "response": answer}),
        ("pairs", {"prompt": prompt, "completion": answer}),
        ("pairs", {"query": prompt, "response": answer}),
        ("alpaca", {"instruction": prompt, "output": answer}),
        ("question", {"question": prompt, "answer": answer}),
    ]
    for name, row in pairs:
        yield name, row | lead | {"history": history}
        yield name, row | lead | {"history": json.dumps(history)}
        yield name, row | lead | {"history": said("role", "content", earlier)}
    if not earlier and not system:
        yield "advertisegen", {"content": prompt, "summary": answer}
    first = [{"role": "system", "content": system}] if system else []
    for name, field in (("messages", "messages"), ("chatglm3", "conversations")):
        yield name, {field: [*first, *said("role", "content", rounds)]}
        yield name, {field: said("role", "content", rounds)} | lead
    named = {"user": "human", "assistant": "gpt"}
    turns = [each | {"from": named[each["from"]]} for each in said("from", "value", rounds)]
    yield "sharegpt", {"conversations": turns} | lead
    yield (
        "sharegpt",
        {"conversations": [{"from": "system", "value": system}] * bool(system) + turns},
    )


def said(speaker: str, what: str, rounds: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {speaker: role, what: each}
        for pair in rounds
        for role, each in zip(("user", "assistant"), pair, strict=True)
    ]


@settings(deadline=None)
@given(TALKS)
def test_a_conversation_is_the_same_in_every_format(talk: Talk) -> None:
    system, rounds = talk
    first = [{"role": "system", "content": system}] if system else []
    for name, row in rendered(talk):
        assert read(name, row) == [*first, *said("role", "content", rounds)], name


FIELDS = sorted(
    {
        *("prompt", "response", "completion", "query", "instruction", "input", "output", "history"),
        *("system", "content", "summary", "question", "answer", "conversations", "messages"),
        *("role", "from", "value", "loss", "weight", "tools", "tool_calls", "metadata", "type"),
        *("text", "context", "name"),
    }
)
WORDS = st.sampled_from(
    ["user", "assistant", "system", "human", "gpt", "tool", "text", "", "[]", "裙"]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    WORDS,
    st.text(st.characters(), max_size=6),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(FIELDS) | st.text(st.characters(), max_size=3), inner),
    ),
    max_leaves=12,
)
ROWS = st.dictionaries(st.sampled_from(FIELDS) | st.text(st.characters(), max_size=3), VALUES)


NAMED = {name: st.fixed_dictionaries(dict.fromkeys(EXAMPLES[name], VALUES)) for name in EXAMPLES}


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(NAMED)).flatmap(NAMED.__getitem__), ROWS)
def test_whatever_json_a_row_is_it_is_read_or_refused_with_a_reason(
    named: Row, others: Row
) -> None:
    for name in plugins.names("formats"):
        refused = None
        try:
            found = read(name, others | named)
        except Unfit as unfit_:
            refused = unfit_
        if refused is None:
            roles = [each["role"] for each in found if each["role"] != "system"]
            assert roles == ["user", "assistant"] * (len(roles) // 2) != []
            assert all(each["content"].encode().strip() for each in found)
            continue
        reason = str(refused)
        assert refused.code in get_args(Code)
        assert "(found: " in reason
        assert len(reason) < 2000
        assert reason.isprintable()


def test_a_reason_stays_short_however_large_the_row() -> None:
    wide = {f"field {number}" * 100: "x" for number in range(10_000)}
    for row in (wide, {"content": " " * 1_000_000}, {"content": "\0" * 1_000_000, "summary": "x"}):
        assert len(str(unfit("advertisegen", row))) < 2000


def test_a_field_of_text_is_given_as_it_stands() -> None:
    for value in ("  裙 \n", "\u200b裙", "👗", "a\tb", "\x01a"):
        assert text({"field": value}, "field") is value


def made(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("name", plugins.names("formats"))
def test_deep_nesting_is_refused_without_recursion(name: str) -> None:
    for wrap in (lambda inner: [inner], lambda inner: {"role": inner}):
        deep = made(1000, wrap)
        for field in EXAMPLES[name]:
            row = EXAMPLES[name] | {field: deep, "history": deep, "tools": deep, "system": deep}
            unfit(name, row)


@pytest.mark.parametrize(
    ("name", "beside", "code"),
    [
        ("pairs", {"context": "c"}, "unread-field"),
        ("pairs", {"input": "c"}, "unread-field"),
        ("pairs", {"images": ["x.png"]}, "unread-field"),
        ("pairs", {"label": False}, "loss"),
        ("alpaca", {"kto_tag": True}, "loss"),
        ("alpaca", {"videos": ["x"]}, "unread-field"),
        ("messages", {"images": ["x.png"]}, "unread-field"),
        ("messages", {"label": False}, "loss"),
        ("advertisegen", {"image": "x.png"}, "unread-field"),
    ],
)
def test_what_would_be_left_out_in_silence_is_refused(name: str, beside: Row, code: str) -> None:
    rows: dict[str, Row] = {
        "pairs": {"prompt": "q", "response": "a"},
        "alpaca": {"instruction": "q", "output": "a"},
        "messages": {"messages": [USER, TOLD]},
        "advertisegen": {"content": "q", "summary": "a"},
    }
    chosen = plugins.load("formats", name)
    assert chosen.messages(rows[name] | {"id": 7, "label": "a text", "images": []})
    with pytest.raises(Unfit) as caught:
        chosen.messages(rows[name] | beside)
    assert caught.value.code == code


def test_advertisegen_keeps_history_and_system() -> None:
    row = {"content": "q", "summary": "a", "history": [["x", "y"]], "system": "s"}
    found = plugins.load("formats", "advertisegen").messages(row)
    assert [turn["content"] for turn in found] == ["s", "x", "y", "q", "a"]
