"""CSV, TSV and Parquet: careless tables, and what one broken row costs."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.errors import ConfigError, DataError
from tasks.rows import MAX_ROW, Bad, Reading, Row, delimited, open_rows, parquet, records

AUTO = Reading()


def known(names: frozenset[str]) -> bool:
    return names == {"prompt", "response"}


def read(texts: Iterable[str], name: str = "x.csv", reading: Reading = AUTO) -> list[Row | Bad]:
    return list(delimited.rows(iter(texts), name, reading, known)[1])


def told(text: str, **reading: str) -> list[tuple[int, Any]]:
    """Return the line of each outcome, with its cells or its code."""
    return [
        (each.line, tuple(each.value.values()) if isinstance(each, Row) else each.code)
        for each in read([text], reading=Reading(**reading))
    ]


def physical(text: str) -> list[str]:
    return list(io.StringIO(text, newline=""))


def rows_or_message(reading: Callable[[], list[Row | Bad]]) -> list[Row | Bad] | str:
    try:
        return reading()
    except DataError as error:
        return str(error)


class TestOneBrokenRowCostsOneRow:
    def test_too_few_or_too_many_cells_with_both_numbers(self) -> None:
        few, good, many = read(["prompt,response\na\nb,c\nd,e,f\n"])
        assert good == Row(3, {"prompt": "b", "response": "c"}, "b,c\n")
        assert few == Bad(2, "cells", "a row must have 2 cells, as the header (found: 1)", "a\n")
        assert isinstance(many, Bad)
        assert (many.line, many.raw) == (4, "d,e,f\n")
        assert "(found: 3)" in many.reason

    @pytest.mark.parametrize(
        ("text", "outcomes"),
        [
            ('a,"b\nc,d\ne,f\n', [(2, "quote"), (3, ("c", "d")), (4, ("e", "f"))]),
            ('"a,b\n"c",d\ne,f\n', [(2, "quote"), (3, ("c", "d")), (4, ("e", "f"))]),
            ('"a,b\nc,"d, e"\nf,g\n', [(2, "quote"), (3, ("c", "d, e")), (4, ("f", "g"))]),
            ('"a,b\n"c\nd",e\nf,g\n', [(2, "quote"), (3, ("c\nd", "e")), (5, ("f", "g"))]),
            ('"a,b\nc,", d"\ne,f\n', [(2, "quote"), (3, ("c", ", d")), (4, ("e", "f"))]),
            ('a,"b" c\nd,e\n', [(2, "quote"), (3, ("d", "e"))]),
            ('"a"b,c\nd,e\n', [(2, "quote"), (3, ("d", "e"))]),
            ('a,b\nc,"d', [(2, ("a", "b")), (3, "quote")]),
            ('a,"b\n\n\nc,d\n', [(2, "quote"), (5, ("c", "d"))]),
        ],
    )
    def test_a_stray_quote_costs_its_own_line(
        self, text: str, outcomes: list[tuple[int, Any]]
    ) -> None:
        assert told(f"prompt,response\n{text}") == outcomes

    @pytest.mark.parametrize(
        ("text", "outcomes"),
        [
            ('1,"say "hi" now\nYes, sure\nbye"\n2,x\n', [(2, "quote"), (5, ("2", "x"))]),
            ('1,"x\ny\n2,"z\nw"\n3,q\n', [(2, "quote"), (4, ("2", "z\nw")), (6, ("3", "q"))]),
            ('1,"x\nYes, sure\nbye', [(2, "quote")]),
            ('1,"x\ny",3\n4,5\n', [(2, "cells"), (4, ("4", "5"))]),
            ('1,"x\nsays "y", ok\nz"\n4,5\n', [(2, "quote"), (5, ("4", "5"))]),
        ],
    )
    def test_the_other_lines_of_a_broken_row_go_with_it_and_are_not_taken_for_rows(
        self, text: str, outcomes: list[tuple[int, Any]]
    ) -> None:
        assert told(f"prompt,response\n{text}") == outcomes

    def test_the_lines_that_went_with_it_are_told(self) -> None:
        (bad,) = read(['prompt,response\n1,"x\nYes, sure\nbye'])
        assert isinstance(bad, Bad)
        assert bad.reason == (
            "an opening quote is not closed (found: no end in 3 lines; lines 2 to 4 belong together)"
        )
        assert bad.raw == '1,"x\nYes, sure\nbye'

    def test_after_a_broken_row_the_end_of_a_cell_is_not_taken_for_a_row(self) -> None:
        text = 'prompt,response\n"a,b\nc,d\ne,f\nthe end, of"\ng,h\n'
        assert told(text) == [
            (2, "quote"),
            (3, ("c", "d")),
            (4, ("e", "f")),
            (5, "quote"),
            (6, ("g", "h")),
        ]

    def test_a_quote_inside_an_unquoted_cell_is_text(self) -> None:
        assert told('prompt,response\na 27" screen,b\n') == [(2, ('a 27" screen', "b"))]

    def test_what_cannot_be_decoded_costs_its_row(self) -> None:
        text = "prompt,response\na,b\nc,\udcff\ne,f\n"
        bad = read([text])[1]
        assert told(text) == [(2, ("a", "b")), (3, "encoding"), (4, ("e", "f"))]
        assert isinstance(bad, Bad)
        assert "(found: byte 0xff at character 2)" in bad.reason
        assert bad.raw == "c,\\udcff\n"

    @pytest.mark.parametrize("size", [MAX_ROW + 1, 2 * MAX_ROW])
    def test_a_line_that_is_too_long_costs_itself_also_when_it_comes_in_pieces(
        self, size: int
    ) -> None:
        long = "x" * size + ",y\r\n"
        for pieces in (
            [long],
            [long[start : start + 65536] for start in range(0, size + 4, 65536)],
        ):
            texts = ["prompt,response\r\n", "a,b\r\n", *pieces, "c,d\r\n"]
            good, bad, after = read(texts)
            assert (good.line, after.line) == (2, 4)
            assert isinstance(bad, Bad)
            assert (bad.line, bad.code) == (3, "too-long")
            assert len(bad.raw) < 3000

    def test_a_row_of_the_longest_length_is_a_row(self) -> None:
        (row,) = read(["prompt,response\n", "x" * (MAX_ROW - 3) + ",y\n"])
        assert isinstance(row, Row)
        assert len(row.value["prompt"]) == MAX_ROW - 3


class TestLines:
    def test_blank_lines_are_nothing_but_keep_their_numbers(self) -> None:
        assert told("\n\nprompt,response\n\n   \na,b\r\n\r\nc,d") == [
            (6, ("a", "b")),
            (8, ("c", "d")),
        ]

    def test_a_row_of_nothing_but_delimiters_is_a_row_of_empty_cells(self) -> None:
        assert told("prompt,response\n,\n") == [(2, ("", ""))]
        assert told("prompt\tresponse\n\t\n") == [(2, ("", ""))]

    def test_a_quoted_nothing_is_not_a_blank_line(self) -> None:
        assert told('prompt,response\n""\n') == [(2, "cells")]

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_every_end_of_line_is_one(self, end: str) -> None:
        text = end.join(["prompt,response", "a,b", f'"c{end}d",e', "f,g", ""])
        assert told(text) == [(2, ("a", "b")), (3, (f"c{end}d", "e")), (5, ("f", "g"))]

    def test_cells_keep_what_stands_in_them(self) -> None:
        text = 'prompt,response\nNA, null \n"","a ""b"""\n'
        assert told(text) == [(2, ("NA", " null ")), (3, ("", 'a "b"'))]


class TestDelimiter:
    @pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
    def test_it_is_found(self, delimiter: str) -> None:
        text = f"p{delimiter}r\na，b{delimiter}c；d\ne{delimiter}f\n"
        container, rows = delimited.rows(iter([text]), "x.txt", AUTO, known)
        assert container == ("TSV" if delimiter == "\t" else "CSV")
        assert all(isinstance(row, Row) for row in rows)

    def test_one_broken_row_at_the_beginning_does_not_hide_it(self) -> None:
        rows = read(["p;r\na;b;c\na;b\na;b\na;b\n"])
        assert [type(row) for row in rows] == [Bad, Row, Row, Row]

    def test_the_one_under_which_a_format_knows_the_names_wins(self) -> None:
        text = "prompt,response\n" + "a,b,c\n" * 5 + "a,b\n"
        assert [type(row) for row in read([text], "x")] == [Bad] * 5 + [Row]
        assert told("prompt,response;x\n1,2;3\n", delimiter=";")[0] == (2, ("1,2", "3"))

    def test_two_that_fit_are_not_guessed_at(self) -> None:
        with pytest.raises(
            DataError, match=r"x\.csv:1: more than one.*comma.*semicolon.*data\.delimiter"
        ):
            read(["a;b,c\n1;2,3\n"])
        assert told("a;b,c\n1;2,3\n", delimiter=";") == [(2, ("1", "2,3"))]

    @pytest.mark.parametrize("mark", ["sep=;\r\n", "SEP=;\n"])
    def test_that_of_excels_first_line_is_taken_and_the_line_is_no_row(self, mark: str) -> None:
        assert told(f"{mark}prompt;response\na,b;c\n") == [(3, ("a,b", "c"))]
        assert delimited.is_table(f"{mark}prompt;response\n", "x", AUTO, known)

    @pytest.mark.parametrize("delimiter", [", ", '"', "\n"])
    def test_what_cannot_be_one_is_refused(self, delimiter: str) -> None:
        with pytest.raises(ConfigError, match=r"data\.delimiter: not a delimiter \(found "):
            told("a,b\n1,2\n", delimiter=delimiter)

    def test_a_chosen_container_narrows_the_choice(self) -> None:
        text = "p\tr\n1,2\t3\n"
        assert told(text, container="tsv") == [(2, ("1,2", "3"))]
        assert told("p;r\n1;2\n", container="csv") == [(2, ("1", "2"))]


class TestHeader:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("prompt,,response\n1,2,3\n", r"column 2 of the header has no name"),
            (",prompt,response\n0,1,2\n", r"column 1 of the header has no name"),
            ("prompt,prompt \n1,2\n", r'the header has "prompt" twice'),
            ('prompt, "response"\n1,2\n', r"a quote in the header does not begin its cell"),
            ('prompt,"response\n1,2\n', r"x\.csv:1: the header cannot be read as CSV"),
            ("prompt,resp\udcffonse\n1,2\n", r"x\.csv:1: the header cannot be decoded"),
            ("", r"no header"),
            ("\n \r\n", r"no header"),
        ],
    )
    def test_one_that_cannot_be_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(DataError, match=rf"{message}.*\(found:? "):
            read([text])

    def test_names_lose_the_spaces_around_them(self) -> None:
        (row,) = read([" prompt , response\n a ,b\n"])
        assert row == Row(2, {"prompt": " a ", "response": "b"}, " a ,b\n")

    def test_a_hundred_thousand_names_are_refused_quickly(self) -> None:
        with pytest.raises(DataError, match="twice") as raised:
            read([",".join(["x"] * 100_000) + "\n"])
        assert len(str(raised.value)) < 500

    def test_one_column_is_a_table_only_if_somebody_says_so(self) -> None:
        text = "text\na\nb\n"
        assert told(text) == [(2, ("a",)), (3, ("b",))]
        assert len(read([text], "x", Reading(container="csv"))) == 2
        assert not delimited.is_table(text, "x", AUTO, known)
        with pytest.raises(DataError, match=r"no delimiter splits the header \(found: text\)"):
            read([text], "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt,response\n", True),
        ("prompt,response\na\nb\n", True),
        ("a;b\n1;2\n3;4\n", True),
        ("a,b\n", False),
        ("a,b\n1\n2\n", False),
        ("Dear all,\nplease find, attached, the rows.\n", False),
        ("just text\n", False),
        ("", False),
    ],
)
def test_a_text_is_a_table_when_its_names_are_known_or_its_rows_agree(
    text: str, expected: bool
) -> None:
    assert delimited.is_table(text, "rows", AUTO, known) is expected
    assert delimited.is_table(text, "rows.CSV", AUTO, known)


def test_a_table_in_gbk_from_windows_is_read_whole() -> None:
    text = "prompt;response\r\n类型#裙;这条裙子\r\n风格#甜美;“甜美”，一\r\n"
    opened = open_rows(io.BytesIO(text.encode("gb18030")), "x.txt", AUTO, known)
    assert (opened.container, opened.encoding) == ("CSV", "gb18030")
    assert [row.line for row in opened.rows] == [2, 3]


# Properties

CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text(
    'ab,;\t|"\r\n ', max_size=8
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def written(draw: st.DrawFn) -> tuple[list[list[str]], str, str]:
    """Return cells, the text that csv writes for them, and its delimiter."""
    width = draw(st.integers(1, 4))
    cells = draw(st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=8))
    delimiter = draw(st.sampled_from(",;\t|"))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    # before Python 3.13 a carriage return is quoted only where it is part of the end of a line
    end = draw(ENDS) if quoting != csv.QUOTE_MINIMAL else "\r\n"
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerow([f"name{index}" for index in range(width)])
    writer.writerows(cells)
    return cells, file.getvalue(), delimiter


@settings(deadline=None, max_examples=200)
@given(written(), st.lists(st.integers(0, 400), max_size=6))
def test_what_csv_writes_is_read_back_in_any_pieces(
    table: tuple[list[list[str]], str, str], cuts: list[int]
) -> None:
    cells, text, delimiter = table
    marks = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(marks)]
    rows = read(pieces, reading=Reading(delimiter=delimiter))
    assert [list(row.value.values()) for row in rows if isinstance(row, Row)] == cells
    assert len(rows) == len(cells)


PLAIN = st.text("abc,\" 'é中", min_size=1, max_size=6).map("x{}".format)
LONG = st.lists(PLAIN, min_size=1, max_size=3).map("\n".join)


def line_of(cells: list[str], quoting: int) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, quoting=cast(Any, quoting), lineterminator="\n").writerow(cells)
    return file.getvalue()


BREAKS: dict[str, Callable[[str], str]] = {
    "a stray quote before it": lambda line: '"' + line,
    "a stray quote in its last cell": lambda line: line.rpartition(",")[0] + ',"y\n',
    "a cell too many": lambda line: line[:-1] + ",z\n",
    "text after a quote": lambda line: '"a" b,' + line,
    "half of it": lambda line: '"half of it',
}


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(LONG, LONG), max_size=8),
    st.tuples(st.text("abc", min_size=1), st.text("abc", min_size=1)),
    st.integers(0, 8),
    st.sampled_from(sorted(BREAKS)),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_one_row_that_is_broken_is_one_bad_row_and_every_other_is_read(
    good: list[tuple[str, str]], row: tuple[str, str], place: int, how: str, quoting: int
) -> None:
    lines = [line_of(list(cells), quoting) for cells in good]
    broken = BREAKS[how](line_of(list(row), csv.QUOTE_MINIMAL))
    if not broken.endswith("\n"):
        broken += "\n"
    place = min(place, len(good))
    text = "".join(["p,r\n", *lines[:place], broken, *lines[place:]])
    rows = read([text], reading=Reading(delimiter=","))
    assert [tuple(each.value.values()) for each in rows if isinstance(each, Row)] == good
    (bad,) = [each for each in rows if isinstance(each, Bad)]
    assert bad.raw == broken
    assert bad.line == 2 + sum(line.count("\n") for line in lines[:place])


@settings(deadline=None, max_examples=300)
@given(st.text('ab,"\n', max_size=80) | st.text('ab,;\t|" \r\n\udcff中', max_size=60))
@example('"\n\n"')
@example('a,"\n",\n"\n')
def test_every_line_belongs_to_exactly_one_outcome(text: str) -> None:
    rows = read([f"p,r\n{text}"], reading=Reading(delimiter=","))
    lines = [line for line in records.physical(iter([f"p,r\n{text}"]))]
    starts = [row.line - 1 for row in rows]
    assert starts == sorted(set(starts))
    assert not "".join(lines[1 : starts[0] if starts else None]).strip()
    for row, (start, end) in zip(rows, pairwise([*starts, len(lines)]), strict=True):
        own = lines[start:end]
        if isinstance(row, Bad):
            shown = "".join(own).encode("utf-8", "backslashreplace").decode()
            assert shown.startswith(row.raw)
            assert not shown.removeprefix(row.raw).strip()
        else:
            first, *others = csv.reader(own, strict=True)
            assert first == list(row.value.values())
            assert not "".join(map("".join, others)).strip()


@settings(deadline=None, max_examples=200)
@given(st.text(), st.sampled_from(["x", "x.csv", "x.tsv"]), st.sampled_from(["auto", "csv", "tsv"]))
def test_any_text_is_rows_or_a_data_error(text: str, name: str, container: str) -> None:
    reading = Reading(container=container)
    assert delimited.is_table(text, name, reading, known) in (True, False)
    found = rows_or_message(lambda: read([text], name, reading))
    assert "(found" in found if isinstance(found, str) else all(row.line >= 2 for row in found)


# Bounds

HOSTILE = {
    "every line opens a quote": ['x,"yyyy\n'],
    "every line opens one and closes another": ['x",y,"z\n'],
    "every line has an odd number": ['"5" screen",x\n'],
    "a stray quote in twenty lines": ['"5" screen",x\n', *["aaaaaaaaaa,bbbbbbbbbbbbb\n"] * 19],
    "a quote and blank lines": ['x,"y\n', "\n", "\n"],
    "never closed": ['x,"y\n', *["a,b\n"] * 2000],
    "sixteen quotes and a long line": [*['x",y,"z\n'] * 16, "y" * 10_000 + "\n"],
}


@pytest.mark.parametrize("how", HOSTILE)
def test_work_is_proportional_to_the_size_of_a_hostile_file(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = 0
    original = csv.reader

    def counted(lines: Iterator[str]) -> Iterator[str]:
        nonlocal handed
        for line in lines:
            handed += len(line)
            yield line

    def reader(lines: Iterable[str], *args: Any, **options: Any) -> Any:
        return original(counted(iter(lines)), *args, **options)

    monkeypatch.setattr(records.csv, "reader", reader)
    lines = HOSTILE[how] * (8_000 // len(HOSTILE[how]) + 1)
    size = sum(map(len, lines))
    count = sum(
        1 for _ in delimited.rows(iter(["p,r\n", *lines]), "x", Reading(delimiter=","), known)[1]
    )
    assert count >= len(lines) / (records.BELONG_LINES + 1)
    # a look of four MiB is free; each character pays for four more, and lines given up are looked at once more
    assert handed <= 10 * size + 2 * 4 * records.LOOK_CHARACTERS


def test_a_quote_that_never_closes_is_given_up_after_a_bounded_look() -> None:
    pulled = 0

    def lines() -> Iterator[str]:
        nonlocal pulled
        yield from ["prompt,response\n", 'a,"b\n']
        for _ in range(100_000):
            pulled += 1
            yield "c,d\n"

    _, rows = delimited.rows(lines(), "x", AUTO, known)
    assert next(rows)[:2] == (2, "quote")
    assert pulled <= records.LOOK_LINES + 1000
    assert sum(isinstance(row, Row) for row in rows) == 100_000


# Parquet


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def parquet_rows(data: bytes) -> list[Row | Bad]:
    return list(parquet.rows(io.BytesIO(data), "x.parquet"))


class OnlyForward(io.RawIOBase):
    """A stream that cannot seek, as one out of an archive."""

    def __init__(self, data: bytes):
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


class TestParquet:
    VALUES = (
        {
            "prompt": "类型#裙",
            "response": "a",
            "history": [["q", "a"]],
            "more": {"x": 1, "y": None},
        },
        {"prompt": "", "response": None, "history": [], "more": None},
        {"prompt": "c", "response": "a", "history": None, "more": {"x": 2, "y": "z"}},
    )

    def table(self) -> pa.Table:
        table = pa.Table.from_pylist([*self.VALUES] * 100)
        encoded = table["response"].dictionary_encode()
        large = table["prompt"].cast(pa.large_string())
        table = table.set_column(1, "response", encoded).set_column(0, "prompt", large)
        return table.append_column("nothing", pa.nulls(300))

    @pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
    def test_rows_are_what_was_written(self, compression: str) -> None:
        rows = parquet_rows(parquet_of(self.table(), compression=compression, row_group_size=70))
        wanted = [value | {"nothing": None} for value in self.VALUES] * 100
        assert rows == [Row(number, value) for number, value in enumerate(wanted, start=1)]

    def test_a_stream_that_cannot_seek_is_read(self) -> None:
        stream = cast(BinaryIO, io.BufferedReader(OnlyForward(parquet_of(self.table()))))
        assert len(list(parquet.rows(stream, "x"))) == 300

    def test_what_breaks_before_the_first_row_says_so(self) -> None:
        data = parquet_of(self.table())
        for broken in (b"", b"PAR1", data[:-9], data[:-4] + b"PARE"):
            with pytest.raises(
                DataError, match=r"x\.parquet: this Parquet file cannot be read before"
            ):
                parquet.rows(io.BytesIO(broken), "x.parquet")

    def test_what_breaks_in_the_middle_says_after_which_record(self) -> None:
        text = pa.table({"prompt": [f"{number:0100}" for number in range(2000)]})
        data = bytearray(
            parquet_of(text, compression="none", use_dictionary=False, row_group_size=512)
        )
        place = data.index(b"%0100d" % 1024) - 40
        data[place : place + 40] = b"\xff" * 40
        rows = parquet.rows(io.BytesIO(data), "x.parquet")
        seen = 0
        with pytest.raises(
            DataError, match=r"cannot be read after record 1,024 \(found: "
        ) as raised:
            for row in rows:
                seen = row.line
        assert seen == 1024
        assert "Fetch or write it again." in str(raised.value)

    def test_text_that_is_not_utf_8_costs_its_row(self) -> None:
        raw = pa.array([b"a", b"\xff\xfe", b"c"])
        column = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
        data = parquet_of(
            pa.table({"prompt": column}), use_dictionary=False, write_statistics=False
        )
        first, bad, last = parquet_rows(data)
        assert (first, last) == (Row(1, {"prompt": "a"}), Row(3, {"prompt": "c"}))
        assert isinstance(bad, Bad)
        assert (bad.line, bad.code) == (2, "encoding")
        assert "(found: byte 0xff at byte 0)" in bad.reason
        assert bad.raw == "prompt: \\xff\\xfe"

    def test_a_time_beyond_the_calendar_costs_its_row(self) -> None:
        times = pa.array([0, 2**60, 1], pa.timestamp("us"))
        first, bad, last = parquet_rows(parquet_of(pa.table({"when": times})))
        assert first == Row(1, {"when": datetime.datetime(1970, 1, 1)})
        assert isinstance(bad, Bad)
        assert (bad.line, bad.code, last.line) == (2, "value", 3)

    def test_a_row_that_is_too_long_costs_itself(self) -> None:
        text = ["a", "x" * (MAX_ROW + 1), "c"]
        first, bad, last = parquet_rows(parquet_of(pa.table({"prompt": text})))
        assert (first.line, last.line) == (1, 3)
        assert isinstance(bad, Bad)
        assert (bad.line, bad.code) == (2, "too-long")
        assert len(bad.raw) < 3000

    def test_columns_of_one_name_are_refused(self) -> None:
        table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
        with pytest.raises(DataError, match=r"the columns cannot be told apart \(found: x twice\)"):
            parquet_rows(parquet_of(table))
        with pytest.raises(DataError, match=r"\(found: none\)"):
            parquet_rows(parquet_of(pa.table({})))

    def test_one_that_unfolds_to_too_much_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet, "_FREE", 1 << 20)
        data = parquet_of(pa.table({"prompt": ["x" * 100_000] * 200}))
        with pytest.raises(DataError, match=r"unfolds to more than 200 times its size"):
            parquet_rows(data)
        empty = parquet_of(pa.table({"prompt": pa.nulls(50_000)}))
        with pytest.raises(DataError, match=r"unfolds to more than 200 times its size"):
            parquet_rows(empty)

    def test_few_rows_are_held_at_a_time(self) -> None:
        text = [f"{number:01000}" for number in range(20_000)]
        data = parquet_of(pa.table({"prompt": text}), compression="none", use_dictionary=False)
        before = pa.total_allocated_bytes()
        rows = parquet.rows(io.BytesIO(data), "x")
        held = [pa.total_allocated_bytes() - before for _ in rows]
        assert len(held) == 20_000
        assert max(held) < 4 << 20

    @settings(deadline=None, max_examples=150)
    @given(st.integers(0, 3000), st.binary(min_size=1, max_size=8))
    def test_damage_is_rows_or_a_data_error(self, place: int, damage: bytes) -> None:
        table = pa.Table.from_pylist([*self.VALUES] * 20)
        data = bytearray(parquet_of(table, compression="snappy"))
        place %= len(data)
        data[place : place + len(damage)] = damage
        found = rows_or_message(lambda: parquet_rows(bytes(data)))
        if isinstance(found, str):
            assert found.startswith("x.parquet: ")
        else:
            assert [row.line for row in found] == [*range(1, len(found) + 1)]


def test_a_plain_file_is_read_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet_of(pa.table({"prompt": ["a"], "response": ["b"]})))
    with path.open("rb") as file:
        opened = open_rows(file, path.name, AUTO, known)
        assert opened.container == "Parquet"
        assert list(opened.rows) == [Row(1, {"prompt": "a", "response": "b"})]
