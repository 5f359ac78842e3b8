"""JSON of every layout is read exactly, one broken row costs one row, and no input costs more than its size."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from json_layouts import BREAKS, LAYOUTS, Trickle, Value, line_of, rendered, rendered_with

from tasks.errors import DataError
from tasks.rows import DEPTH, MAX_ROW, RAW_CHARACTERS, Bad, Opened, Reading, Row, clip, open_rows
from tasks.rows.json_text import Reader

ADVERT = [
    {
        "content": f"类型#裙*颜色#{colour}*裙长#长裙",
        "summary": f'一条"{colour}"的裙子，// {{好看}}。\n',
    }
    for colour in ("白色", "红色", "蓝色", "黑色", "灰色")
]
CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"第 {number} 问：[1, 2] 是什么？"},
            {"role": "assistant", "content": "A list, e.g. {a: [1]}."},
            {"role": "user", "content": "再说一次"},
            {"role": "assistant", "content": f"第 {number} 答"},
        ]
    }
    for number in range(5)
]
NUMBERED = [
    {
        "id": number,
        "conversations": [{"id": turn, "from": "human"} for turn in range(3)],
        "tags": [],
    }
    for number in range(4)
]
ONE_LINE = "concatenated on one line"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes | str, size: int = 1 << 20, chunk: int = 1 << 20) -> list[Row | Bad]:
    encoded = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return list(Reader(pieces(encoded, size), chunk).rows())


def opened(data: bytes | str, reading: Reading | None = None, size: int = 1 << 20) -> Opened:
    stream = Trickle(data.encode() if isinstance(data, str) else data, size)
    return open_rows(stream, "train.json", reading or Reading(), lambda names: False)


def numbered(found: list[Row | Bad]) -> list[tuple[int, Value | Bad]]:
    """Return rows with their lines; whatever is no row stands out."""
    return [(each.line, each.value if isinstance(each, Row) else each) for each in found]


def values(found: list[Row | Bad]) -> list[Value]:
    return [each.value for each in found if isinstance(each, Row)]


def broken(found: list[Row | Bad]) -> list[Bad]:
    return [each for each in found if isinstance(each, Bad)]


def codes(data: bytes | str) -> list[str]:
    return [each.code if isinstance(each, Bad) else "row" for each in read(data)]


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_with_the_line_of_each_row(layout: str) -> None:
    for rows in (ADVERT, CHAT, NUMBERED, [{}], [{}, {"": {}}]):
        lines = [line_of(rows, layout, number) for number in range(len(rows))]
        for end in ("\n", "\r\n", "\r"):
            text = rendered(rows, layout).replace("\n", end)
            assert numbered(read(text)) == list(zip(lines, rows, strict=True)), end


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_at_the_edge_of_the_window_are_rows_like_others(layout: str) -> None:
    rows = [{"number": number, **row} for number in range(30) for row in (ADVERT[0], CHAT[0])]
    lines = [line_of(rows, layout, number) for number in range(len(rows))]
    for size, chunk in ((1, 64), (777, 1), (5000, 9000)):
        found = read(rendered(rows, layout), size, chunk)
        assert numbered(found) == list(zip(lines, rows, strict=True)), size


NAMES = st.text(max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=3), min_size=1, max_size=5)
ENCODINGS = {
    "utf-8": Reading(),
    "utf-8-sig": Reading(),
    "utf-16": Reading(),
    "utf-16-le": Reading(encoding="utf-16"),
    "gb18030": Reading(encoding="gb18030"),
}


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=ROWS,
    layout=st.sampled_from(sorted(LAYOUTS)),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    size=st.sampled_from([1, 7, 1 << 20]),
)
def test_what_was_written_is_read(
    rows: list[Value], layout: str, encoding: str, end: str, size: int
) -> None:
    text = rendered(rows, layout).replace("\n", end)
    found = opened(text.encode(encoding), ENCODINGS[encoding], size)
    assert found.container == "JSON"
    lines = [line_of(rows, layout, number) for number in range(len(rows))]
    assert numbered(list(found.rows)) == list(zip(lines, rows, strict=True))


def test_integers_of_any_length_are_kept_where_the_strict_reader_is_not_used() -> None:
    assert values(read('{"a": 123456789012345678901234567890,}')) == [
        {"a": 123456789012345678901234567890}
    ]


def test_arrays_objects_and_lines_may_follow_each_other_in_one_file() -> None:
    text = '[{"a": 1},\n{"a": 2}]\n{"a": 3}{"a": 4}\n[{"a": 5}][{"a": 6}]\n{\n"a": 7\n}\n{"a": 8}'
    lines = [1, 2, 3, 3, 4, 4, 5, 8]
    assert numbered(read(text)) == [(line, {"a": n}) for n, line in enumerate(lines, start=1)]


def test_files_glued_together_keep_their_byte_order_marks_out_of_the_rows() -> None:
    glued = b'{"a": 1}\xef\xbb\xbf{"a": 2}\n\xef\xbb\xbf{"a": 3}\n{"a": 4}\n'
    assert values(read(glued)) == [{"a": number} for number in (1, 2, 3, 4)]


def test_comments_between_rows_are_skipped_and_one_without_end_costs_its_line() -> None:
    text = '// one\n{"a": 1} // {"a": 0}\n/* {"a": 0}\n*/ {"a": 2}\n/* {"a": 0}\n{"a": 3}\n'
    found = read(text)
    assert values(found) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [(bad.line, bad.code) for bad in broken(found)] == [(5, "not-json")]


# Broken rows


def valid(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text.encode("utf-8", "surrogateescape")), dict)
    except orjson.JSONDecodeError:
        return False


def first_line(rows: list[Value], layout: str, number: int, text: str) -> int:
    """Return the line of what is left of a broken row; where its brace is gone, that is its first member's."""
    gone = text[: len(text) - len(text.lstrip())]
    return line_of(rows, layout, number) + gone.count("\n")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [ADVERT, CHAT, NUMBERED], ids=["advert", "chat", "numbered"])
def test_one_broken_row_costs_one_row(layout: str, rows: list[Value]) -> None:
    write, _ = LAYOUTS[layout]
    for way, number, choice in product(BREAKS, range(len(rows)), (0, 11)):
        if layout == ONE_LINE and way in ("cut", "no first brace"):
            continue  # nothing tells where the row before it ends
        if rows is NUMBERED and (number == 0 or way == "cut"):
            continue  # its turns begin as it does, and half a turn tells no more than that
        text = BREAKS[way](write(rows[number]), choice)
        if text == write(rows[number]) or valid(text):
            continue  # it has no such place
        found = read(rendered_with(rows, layout, number, text))
        assert values(found) == rows[:number] + rows[number + 1 :], (way, number, text)
        assert [bad.line for bad in broken(found)] == [first_line(rows, layout, number, text)]


# A brace in a text becomes structure when the quote before it is lost, so what is a row is not decided then.
PLAIN = st.text(st.characters(exclude_characters="{}[]", exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(st.tuples(PLAIN, PLAIN), min_size=2, max_size=4),
    chat=st.booleans(),
    layout=st.sampled_from(
        sorted(LAYOUTS.keys() - {ONE_LINE, "comments and trailing commas"}),
    ),
    way=st.sampled_from(sorted(BREAKS)),
    choice=st.integers(0, 1000),
    number=st.integers(0, 3),
)
def test_one_broken_row_costs_one_row_whatever_the_rows_say(
    texts: list[tuple[str, str]], chat: bool, layout: str, way: str, choice: int, number: int
) -> None:
    rows: list[Value] = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": two}]}
        if chat
        else {"content": one, "summary": two}
        for one, two in texts
    ]
    number %= len(rows)
    write, _ = LAYOUTS[layout]
    text = BREAKS[way](write(rows[number]), choice)
    assume(not valid(text))
    found = read(rendered_with(rows, layout, number, text))
    assert values(found) == rows[:number] + rows[number + 1 :]
    assert [bad.line for bad in broken(found)] == [first_line(rows, layout, number, text)]


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (
            '{"a": "x" "b": 1}',
            "not-json",
            "not JSON from byte 10 of the row on (found: '\"b\": 1}')",
        ),
        ("{'a': 1}", "not-json", "not JSON from byte 1 of the row on (found: \"'a': 1}\")"),
        ('{"a": "x\ny"}', "not-json", "not JSON from byte 6 of the row on (found: '\"x')"),
        ('{"a": 1}}', "not-json", "text after the object (found: '}')"),
        ('{"a": nul}', "not-json", "not JSON: Expecting value (found: '{\"a\": nul}')"),
        ('{"a": "\\x"}', "not-json", "Invalid \\escape"),
        ('{"a": "\t"}', "not-json", "Invalid control character"),
        ('{"a": ' + "9" * 5000 + ",}", "not-json", "a number that is too long"),
        ('{"a": 1', "unterminated", "(found: the end of the file)"),
        ('{"a": [1, {"b": 2', "unterminated", "(found: the end of the file)"),
        ('{"a": -Infinity}', "not-finite", "a number that is not finite (found: -Infinity)"),
        ('{"a": [NaN]}', "not-finite", "(found: NaN)"),
        ('{"a": 1e999}', "not-finite", "(found: 1e999)"),
        ('{"a": "\\ud83d x"}', "surrogate", "half a pair of surrogates (found: \\ud83d …)"),
        ('{"a": "\udcb0"}', "encoding", "(found: 0xb0 at byte 7 of the row)"),
        ('{"a": "\udcb0, "b": 1}', "encoding", "(found: 0xb0 at byte 7 of the row)"),
        ('{"a": ' + "[" * DEPTH + "]" * DEPTH + "}", "too-deep", f"nested {DEPTH} deep"),
        ('{"a": ' * 100_000, "too-deep", f"nested {DEPTH} deep"),
        ('{"a": ' + "[" * 100_000, "too-deep", f"nested {DEPTH} deep"),
        ('{"a": "' + "x" * MAX_ROW + '"}', "too-long", f"a row may have {MAX_ROW} bytes (found: "),
        ('{"a": "' + "x" * 36_000_000 + '"}', "too-long", "(found: 36000009)"),
        ('{"a": "' + "x" * 36_000_000, "too-long", "(found: 36000007)"),
        ("1, 2]", "not-an-object", "a row must be an object (found: '1, 2]')"),
        ('"text {with} a brace"', "not-an-object", "(found: '\"text {with} a brace\"')"),
        ("null", "not-an-object", "(found: 'null')"),
        ("hello world", "not-json", "not an object (found: 'hello world')"),
        ('"a": 1}', "not-json", "not an object (found: '\"a\": 1}')"),
        ("你好", "not-json", "not an object (found: '你好')"),
        ("}", "not-json", "not an object (found: '}')"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_is_wrong_has_a_code_and_a_reason(text: str, code: str, reason: str) -> None:
    found = read(f'{{"a": 1}}\n{text}\n{{"a": 2}}')
    if code == "unterminated":  # alone at the end; a row that follows would be in it
        found = read(f'{{"a": 1}}\n{text}')
    assert values(found) == [{"a": 1}, {"a": 2}][: len(found) - 1]
    bad = found[1]
    assert isinstance(bad, Bad)
    assert (bad.line, bad.code) == (2, code)
    assert reason in bad.reason
    assert bad.raw[:20] == clip(text.encode("utf-8", "surrogateescape"))[:20]
    assert len(bad.raw) < RAW_CHARACTERS + 40


def test_values_that_are_no_objects_are_one_for_each_line() -> None:
    assert codes('[1, 2]\n"x"\n\nnull, true\n[[3],\n[4]]\n') == ["not-an-object"] * 5
    assert codes('[1, {"a": 1}, "x", {"a": 2}]') == ["not-an-object", "row"] * 2


def test_loose_text_costs_its_line_while_rows_stand_on_a_line_each() -> None:
    text = '{"a": 1}\nhello\n{"a": 2}\nworld, {"a": 0}\n#\n{"a": 3}\n'
    found = read(text)
    assert values(found) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [(bad.line, bad.raw) for bad in broken(found)] == [
        (2, "hello"),
        (4, 'world, {"a": 0}'),
        (5, "#"),
    ]


def test_rows_that_differ_are_found_behind_a_broken_one_on_lines() -> None:
    found = read('{"a": 1}\n{"a": [1,\n{"b": {"a": 2}}\n{"c": 3}\n{"d": "x}\n{"e": 5}\n')
    assert values(found) == [{"a": 1}, {"b": {"a": 2}}, {"c": 3}, {"e": 5}]
    assert [bad.line for bad in broken(found)] == [2, 5]


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {ONE_LINE}))
@pytest.mark.parametrize("rows", [ADVERT, CHAT], ids=["advert", "chat"])
def test_several_broken_rows_cost_as_many(layout: str, rows: list[Value]) -> None:
    write, join = LAYOUTS[layout]
    texts = [write(row) for row in rows]
    for number in (1, 2, 4):
        texts[number] = BREAKS["no closing quote"](texts[number], 1)
    found = read(join(texts))
    assert values(found) == [rows[0], rows[3]]
    assert [bad.line for bad in broken(found)] == [line_of(rows, layout, n) for n in (1, 2, 4)]


@pytest.mark.parametrize(
    "layout",
    ["lines", "array on one line", "array, indented by 2", "array, braces on a line", ONE_LINE],
)
def test_a_row_that_is_too_long_costs_one_row_in_every_layout(layout: str) -> None:
    long = {"content": "x" * (MAX_ROW + 1), "summary": "y"}
    rows: list[Value] = [ADVERT[0], long, ADVERT[1]]
    found = read(rendered(rows, layout))
    assert values(found) == ADVERT[:2]
    assert [(bad.line, bad.code) for bad in broken(found)] == [
        (line_of(rows, layout, 1), "too-long")
    ]


def test_a_row_that_swallows_those_behind_it_costs_one_row() -> None:
    """A list that is not closed takes every row up to the end of the file for its items."""
    row = b'{"m": [{"r": "' + b"x" * 1000 + b'"}]}, '
    found = read(b'[{"m": [{"r": 1}]}, {"m": [{"r": 2}, ' + row * 10_000 + b"]")
    assert len(found) == 10_002
    assert [(each.line, each.code) for each in found if isinstance(each, Bad)] == [(1, "too-long")]


# Any bytes

FRAGMENTS = [
    *(bytes([each]) for each in b'{}[],:"\\/* \n\r\t'),
    *(b"//", b"/*", b"*/", b"\r\n"),
    *(
        b" ",
        b"\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        "裙".encode(),
        b"null",
        b"-1.5e3",
    ),
    *(
        b'{"a": 1}',
        b'"a"',
        b'"a":',
        b'{"a": [',
        b"NaN",
        b'"\\ud83d"',
        b"text",
        b"'",
        b'{"a": {"b": "c"}}',
    ),
]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=30),
    times=st.sampled_from([1, 1, 1, 200]),
    size=st.sampled_from([1, 100]),
)
def test_no_bytes_make_the_reader_fail_or_depend_on_how_they_arrive(
    parts: list[bytes], times: int, size: int
) -> None:
    data = b"".join(parts) * times
    reader = Reader(pieces(data, 1 << 20))
    found = list(reader.rows())
    assert read(data, size, chunk=1) == found
    lines = [each.line for each in found]
    assert lines == sorted(lines)
    assert all(1 <= line <= 1 + len(re.findall(rb"[\r\n]", data)) for line in lines)
    for each in found:
        assert isinstance(each, Row) or (each.code and each.reason and each.raw.encode())
    if data.strip(b" \t\r\n,[]\xef\xbb\xbf") and not re.search(rb"/[/*]", data):
        assert found, "something was there, and is not accounted for"


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200) | st.lists(st.sampled_from(FRAGMENTS)).map(b"".join))
def test_any_file_is_rows_or_one_error(data: bytes) -> None:
    told = ""
    found: list[Row | Bad] = []
    try:
        found = list(opened(data).rows)
    except DataError as reason:
        told = str(reason)
    assert not told or told.startswith("train.json")
    assert all(isinstance(each, Row | Bad) for each in found)


@settings(deadline=None, max_examples=100)
@given(
    lines=st.lists(
        st.integers()
        | st.text(st.characters(exclude_characters="\r\n/", exclude_categories=["Cs"]))
    )
)
def test_every_line_is_accounted_for(lines: list[int | str]) -> None:
    """A row, a broken row or a blank: lines of text between rows on lines neither hide nor add any."""
    text = '{"n": 0}\n' + "".join(
        f"{json.dumps({'n': line}) if isinstance(line, int) else 'x' + line}\n" for line in lines
    )
    found = [each for each in read(text) if each.line > 1]
    expected = [isinstance(line, int) for line in lines]
    assert [isinstance(each, Row) for each in found] == expected
    assert [each.line for each in found] == list(range(2, len(lines) + 2))


# Work and memory

HOSTILE: dict[str, Callable[[int], bytes]] = {
    "lines that open a list": lambda n: b'{"a": [\n' * n,
    "lines that open an object": lambda n: b'{"a": 1,\n' * n,
    "objects in each other": lambda n: b'{"a":' * n,
    "lists in each other": lambda n: b'{"a":[' * n,
    "braces": lambda n: b"{" * (8 * n),
    "brackets": lambda n: b"[" * (8 * n),
    "closing braces": lambda n: b"}" * (8 * n),
    "quotes": lambda n: b'"' * (8 * n),
    "texts that are not closed": lambda n: b'{"a": "x\n' * n,
    "escapes that are not closed": lambda n: b'{"a": "\\' * n,
    "rows that swallow the next": lambda n: b'{"m": [{"r": 1},\n' * n,
    "rows that swallow the next, far apart": (
        lambda n: (b'{"m": [{"r": 1},\n' + b'{"m": [1]},\n' * 500) * (n // 500)
    ),
    "comments that hide each other": lambda n: b'{"a":1,//' * n + b"\n" + b'"b":2,\n' * n,
    "comments that are not closed": lambda n: b'{"a": /*\n' * n,
    "comments between that are not closed": lambda n: b"/* x\n" * n,
    "text behind rows": lambda n: b'{"a":1}x' * n,
    "values": lambda n: b"1, " * (3 * n),
    "texts with braces": lambda n: b'"x{", ' * n,
    "blank lines": lambda n: b" \n" * (4 * n),
    "blank lines in an object": lambda n: b"{\n" + b" \n" * (4 * n),
    "a quote that flips the rest": lambda n: b'[{"a":"x}, ' + b'{"a": "y"}, ' * n + b"]",
    "quotes that flip each other": lambda n: b'[{"a":"y"},' + b'{"a":"x}, ' * n + b"]",
    "words": lambda n: b"{a b\n" * n,
    "NULs": lambda n: b"\0" * (8 * n),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_work_is_proportional_to_the_file(kind: str) -> None:
    """A file four times as long is followed four times as far, and the window stays what it is."""
    walked = []
    for rows in (1_000, 4_000):
        data = HOSTILE[kind](rows)
        reader = Reader(pieces(data, 4096), chunk=4096)
        assert sum(1 for _ in reader.rows()) <= 4 * rows + 1
        walked.append(reader.walked)
        # what may be followed again: sixteen times what was read, and four rows of the greatest length
        assert reader.walked <= 17 * len(data) + 5 * MAX_ROW
    assert kind == "comments that hide each other" or walked[1] <= 5 * walked[0] + 65_536


@pytest.mark.parametrize("kind", ["escapes that are not closed", "text behind rows", "words"])
def test_a_broken_row_takes_no_longer_where_a_long_line_follows(kind: str) -> None:
    data = HOSTILE[kind](4_000)
    taken = []
    for after in (b"", b" " * (MAX_ROW - len(data))):
        reader = Reader(iter([data + after]), chunk=MAX_ROW)
        begun = time.process_time()
        assert sum(1 for _ in reader.rows()) >= 4_000
        taken.append(time.process_time() - begun)
    assert taken[1] <= 5 * taken[0] + 0.5


@pytest.mark.parametrize("filler", [b"{", b'"', b'{"a": "', b"x", b" ", b"[", b"1,", b"\0"])
def test_the_window_stays_bounded_where_no_row_ends(filler: bytes) -> None:
    data = b'{"a": "b"}\n{"a": "' + filler * (14 * (1 << 20) // len(filler))
    reader = Reader(pieces(data, 1 << 20))
    found = list(reader.rows())
    assert len(found) > 1
    assert reader.window.most <= MAX_ROW + 3 * (1 << 20)


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    line = rendered(ADVERT, "lines").encode()
    reader = Reader(line for _ in range(20_000))
    assert sum(isinstance(each, Row) for each in reader.rows()) == 100_000
    assert reader.window.most <= 3 * (1 << 20)


# Raw text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("x" * 3000, "x" * RAW_CHARACTERS + " … (3000 bytes)"),
        ("裙".encode() * 3000, "裙" * RAW_CHARACTERS + " … (9000 bytes)"),
        ("\udcff", "\\udcff"),
    ],
)
def test_raw_text_is_cut_and_can_always_be_written(text: Any, shown: str) -> None:
    assert clip(text) == shown
    assert orjson.dumps(clip(text))


def test_raw_text_of_a_long_row_tells_how_long_it_is() -> None:
    found = broken(read('{"a": "' + "x" * 100_000 + "\n"))
    assert found[0].raw.endswith(" … (100008 bytes)")
