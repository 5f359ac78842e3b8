"""Encodings are recognised or refused, never guessed; what cannot be decoded costs the row it stands in."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_layouts import LAYOUTS, Trickle, rendered

from tasks.errors import DataError
from tasks.rows import Bad, Opened, Reading, Row, open_rows
from tasks.rows.encodings import Encoding, as_text, as_utf8, sample, sniff

ROWS: list[dict[str, Any]] = [
    {
        "content": f"类型#裙*颜色#白色*裙长#长裙*第{number}条",
        "summary": f"这条裙子是白色的，很好看，适合在夏天穿{number}。",
    }
    for number in range(40)
]
SIMPLIFIED = "这条裙子的颜色是白色的，适合在夏天穿，非常时尚大方。中国人民的生活水平有了提高。"
TRADITIONAL = "這條裙子的顏色是白色的，適合在夏天穿，非常時尚大方。中國人民的生活水平有了提高。"
JAPANESE = "このスカートは白くて、夏に着るととてもおしゃれです。日本語の文章を読むことができますか。東京は晴れ。"
KOREAN = "이 치마는 흰색이며 여름에 입으면 매우 멋집니다. 한국어 문장을 읽을 수 있습니까? 서울의 날씨는 맑습니다."
FRENCH = "Une robe d'été très élégante, façonnée à la main. Où êtes-vous allés, mes chers élèves à Noël ?"
GERMAN = (
    "Schöne Grüße aus München: die Röcke für den Sommer sind weiß und müssen nicht gebügelt werden."
)
RUSSIAN = "Это белая юбка, очень красивая летом. Погода сегодня хорошая, мы идём гулять в парк."
THAI = "กระโปรงสีขาวตัวนี้สวยมากเหมาะสำหรับฤดูร้อน วันนี้อากาศดี เราไปเดินเล่นที่สวนสาธารณะ"


def opened(data: bytes, reading: Reading | None = None, size: int = 1 << 20) -> Opened:
    stream = Trickle(data, size)
    return open_rows(stream, "train.json", reading or Reading(), lambda names: "summary" in names)


def lines(text: str, count: int = 30) -> str:
    return "".join(
        json.dumps({"content": f"{text}{n}", "summary": text}, ensure_ascii=False) + "\n"
        for n in range(count)
    )


def values(found: Iterator[Row | Bad]) -> list[Any]:
    return [each.value if isinstance(each, Row) else each for each in found]


# Which encoding


@pytest.mark.parametrize("layout", ["lines", "array on one line", "array, indented by 2"])
@pytest.mark.parametrize(
    ("codec", "mark", "label"),
    [
        ("utf-8", b"", "utf-8"),
        ("utf-8", b"\xef\xbb\xbf", "utf-8 with BOM"),
        ("utf-16-le", b"\xff\xfe", "utf-16-le"),
        ("utf-16-be", b"\xfe\xff", "utf-16-be"),
        ("utf-16-le", b"", "utf-16-le"),
        ("utf-16-be", b"", "utf-16-be"),
        ("gb18030", b"", "gb18030"),
        ("gb18030", b"\x84\x31\x95\x33", "gb18030"),
        ("gbk", b"", "gb18030"),
    ],
)
def test_an_encoding_is_recognised_and_told(
    layout: str, codec: str, mark: bytes, label: str
) -> None:
    data = mark + rendered(ROWS, layout).encode(codec)
    for size in (1 << 20, 333):
        found = opened(data, size=size)
        assert (found.container, found.encoding) == ("JSON", label)
        assert values(found.rows) == ROWS


@pytest.mark.parametrize("text", [SIMPLIFIED, TRADITIONAL, JAPANESE, KOREAN, FRENCH, RUSSIAN, THAI])
def test_text_of_any_language_is_read_in_utf8(text: str) -> None:
    assert sniff(lines(text).encode(), True, "x").codec == "utf-8"


@pytest.mark.parametrize(("text", "codec"), [(SIMPLIFIED, "gb2312"), (TRADITIONAL, "gbk")])
def test_chinese_is_read_in_its_encodings_also_where_there_is_little_of_it(
    text: str, codec: str
) -> None:
    assert sniff(lines(text).encode(codec), True, "x").codec == "gb18030"
    assert sniff(lines("类型", 1).encode(codec), True, "x").codec == "gb18030"


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        (TRADITIONAL, "big5"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "euc_kr"),
        (FRENCH, "latin-1"),
        (GERMAN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (THAI, "tis-620"),
    ],
)
def test_another_encoding_is_refused_and_never_read_as_garbage(text: str, codec: str) -> None:
    with pytest.raises(DataError, match=r"train\.json: the encoding is not known .* UTF-8") as told:
        opened(lines(text).encode(codec))
    assert "Save the file as UTF-8, or set data.encoding" in str(told.value)


def test_a_file_of_ascii_needs_no_guess() -> None:
    data = json.dumps(ROWS).encode()
    assert (opened(data).encoding, values(opened(data).rows)) == ("utf-8", ROWS)


@pytest.mark.parametrize("layout", ["lines", "array on one line"])
def test_utf8_with_many_broken_rows_is_still_utf8(layout: str) -> None:
    rows = [dict(row) for row in ROWS]
    data = rendered(rows, layout).encode()
    for number in range(0, 40, 3):
        data = data.replace(f"穿{number}。".encode(), "穿".encode()[:2] + f"{number}。".encode())
    found = list(opened(data).rows)
    bad = [each for each in found if isinstance(each, Bad)]
    assert [each.code for each in bad] == ["encoding"] * 14
    assert len(found) == 40


def test_the_head_may_end_inside_a_character() -> None:
    data = "裙".encode() * 1000
    assert sniff(data[:-1], False, "x").codec == "utf-8"
    with pytest.raises(DataError):
        sniff(b"\xff" + data[:-1], True, "x")
    chinese = ("白色的裙子在夏天是时尚的，" * 50).encode("gb18030")
    assert sniff(chinese[:-1], False, "x").codec == "gb18030"


def test_an_explicit_encoding_wins_and_its_broken_rows_are_counted() -> None:
    data = lines(SIMPLIFIED, 3).encode("gb18030")
    found = opened(data, Reading(encoding="utf-8"))
    assert found.encoding == "utf-8"
    assert [each.code for each in found.rows if isinstance(each, Bad)] == ["encoding"] * 3
    assert opened(lines(FRENCH).encode("utf-8"), Reading(encoding="gb18030")).encoding == "gb18030"


@pytest.mark.parametrize(
    ("data", "wanted", "message"),
    [
        (
            b"\xff\xfe{\x00}\x00",
            "gb18030",
            r"train\.json: data\.encoding says gb18030, the byte-order mark says utf-16-le \(found: ff fe\)",
        ),
        (b"\xef\xbb\xbf{}", "utf-16", r"the byte-order mark says utf-8 \(found: ef bb bf\)"),
        (b"\xff\xfe\x00\x00{\x00\x00\x00", "auto", r"train\.json: UTF-32 is not read"),
        (b"\x00\x00\xfe\xff\x00\x00\x00{", "utf-8", r"train\.json: UTF-32 is not read"),
        (b'{"a": 1}', "utf-16", r"the order of its bytes is not clear"),
    ],
)
def test_a_choice_that_the_bytes_contradict_is_an_error(
    data: bytes, wanted: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(data, Reading(encoding=wanted))


def test_cyrillic_in_utf16_is_told_by_its_few_nuls() -> None:
    data = lines(RUSSIAN).encode("utf-16-le")
    assert sniff(data, True, "x").codec == "utf-16-le"
    assert sniff(data, True, "x", "utf-16").codec == "utf-16-le"


def test_random_bytes_and_nuls_in_a_text_are_not_taken_for_utf16() -> None:
    assert sniff(b'{"content": "a\0b"}', True, "x").codec == "utf-8"
    data = lines(SIMPLIFIED, 20).encode()
    assert sniff(data + b"\0" * 4096 + data, True, "x").codec == "utf-8"
    with pytest.raises(DataError, match="the encoding is not known"):
        opened(bytes(range(1, 256)) * 100)


# What cannot be decoded


@pytest.mark.parametrize(
    ("codec", "broken"),
    [
        ("utf-8", b"\xff"),
        ("utf-8", "裙".encode()[:2]),
        ("utf-8", b"\xed\xa0\x80"),
        ("gb18030", b"\xff"),
        ("gb18030", b"\x81"),
        ("utf-16-le", b"\x00\xd8"),
        ("utf-16-be", b"\xdc\x00"),
    ],
)
def test_bytes_that_cannot_be_decoded_cost_their_row(codec: str, broken: bytes) -> None:
    rows = [ROWS[0], {"content": "here", "summary": "MARK"}, ROWS[1], ROWS[2]]
    reading = Reading(encoding=codec[:6] if codec.startswith("utf-16") else codec)
    for layout, size in product(LAYOUTS, (1 << 20, 1)):
        data = rendered(rows, layout).encode(codec).replace("MARK".encode(codec), broken)
        found = list(opened(data, reading, size).rows)
        assert [each.value for each in found if isinstance(each, Row)] == [*ROWS[:3]], layout
        assert [each.code for each in found if isinstance(each, Bad)] == ["encoding"], layout


@settings(deadline=None, max_examples=60)
@given(
    at=st.integers(2, 9000),
    size=st.sampled_from([333, 1 << 20]),
    codec=st.sampled_from(["le", "be"]),
)
def test_a_byte_that_is_lost_in_utf16_costs_its_line_and_not_the_rest(
    at: int, size: int, codec: str
) -> None:
    data = ("\ufeff" + rendered(ROWS, "lines")).encode(f"utf-16-{codec}")
    at = min(at, len(data) - 1)
    found = list(opened(data[:at] + data[at + 1 :], size=size).rows)
    good = [each.value for each in found if isinstance(each, Row)]
    assert len(good) >= len(ROWS) - 2
    assert all(row in ROWS for row in good)
    assert len(found) - len(good) in (1, 2)


@settings(deadline=None, max_examples=200)
@given(
    data=st.binary(max_size=60),
    codec=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "gb18030"]),
    size=st.integers(1, 7),
)
def test_any_bytes_become_text_and_nothing_that_was_decodable_is_lost(
    data: bytes, codec: str, size: int
) -> None:
    def pieces() -> Iterator[bytes]:
        return (data[start : start + size] for start in range(0, len(data), size))

    encoding = Encoding(codec, 0)
    text = "".join(as_text(pieces(), encoding))
    assert b"".join(as_utf8(iter([data]), encoding)).decode("utf-8", "replace").count("\n") == (
        text.count("\n")
    )
    lone = [mark for mark in text if "\ud800" <= mark <= "\udfff"]
    try:
        assert text == data.decode(codec)
    except UnicodeDecodeError:
        assert lone
    else:
        assert not lone


@settings(deadline=None, max_examples=100)
@given(
    text=st.text(max_size=40),
    codec=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "gb18030"]),
    size=st.integers(1, 7),
)
def test_text_is_the_same_however_it_arrives(text: str, codec: str, size: int) -> None:
    data = text.encode(codec)
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    assert "".join(as_text(chunks, Encoding(codec, 0))) == text
    assert b"".join(as_utf8(iter([data]), Encoding(codec, 0))) == text.encode()


def test_lines_for_tables_keep_their_ends() -> None:
    chunks = iter(["一,二\r\n三".encode(), "\r四\n五".encode()])
    assert list(as_text(chunks, Encoding("utf-8", 0))) == ["一,二\r\n", "三", "\r四\n", "五"]


def test_the_sample_ends_with_a_line_where_more_follows() -> None:
    head = "一\n二\n三".encode()
    assert sample(head, Encoding("utf-8", 0), 9) == "一\n二\n"
    assert sample(head, Encoding("utf-8", 0), 100) == "一\n二\n三"


# Which container


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"train\.json: the file is empty \(found 0 bytes\)"),
        (b"\xef\xbb\xbf \r\n\0\0", r"train\.json: the file is empty \(found only blanks\)"),
        (
            b"\n <!DOCTYPE html><html>",
            r"train\.json:1: this is a web page \(found: '<!DOCTYPE html>",
        ),
        (b"<HTML><body>", r"train\.json:1: this is a web page"),
        (b'<?xml version="1.0"?><Error>', r"train\.json:1: this is a web page"),
        ("\ufeff<html>".encode("utf-16-le"), r"train\.json:1: this is a web page"),
        (b"PK\x03\x04xl/workbook.xml", r"Office document .*Save a spreadsheet as CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"an old Office document .*CSV UTF-8"),
        (b"%PDF-1.7", r"this is a PDF"),
        (b"\x89PNG\r\n\x1a\n", r"this is a picture"),
        (b"\xff\xd8\xff\xe0", r"this is a picture"),
        (b"\x1f\x8b\x08", r"compressed twice"),
        (b"SQLite format 3\0", r"this is a database"),
        (
            "你好，世界。\n".encode(),
            r"train\.json: neither JSON nor a table \(found: '你好，世界。",
        ),
        (b"\x00\x01\x02\x03", r"train\.json: neither JSON nor a table"),
    ],
)
def test_what_cannot_hold_rows_is_refused_with_advice(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(data)


def test_the_container_is_told_by_what_is_in_it() -> None:
    table = b"content,summary\na,b\n"
    assert opened(table).container == "CSV"
    assert values(opened(table).rows) == [{"content": "a", "summary": "b"}]
    assert opened(table.replace(b",", b"\t"), Reading(container="tsv")).container == "TSV"
    assert opened(b' // comment\n /* x */ [{"a": 1}]').container == "JSON"
    assert values(opened(b"[]").rows) == []


def test_a_json_file_whose_first_rows_are_broken_is_json() -> None:
    data = b'"content": "a", "summary": "b"}\n{"content": "c", "summary": "d"}\n'
    found = opened(data)
    assert found.container == "JSON"
    assert [type(each) for each in found.rows] == [Bad, Row]


def test_an_explicit_container_wins() -> None:
    found = opened(b"content,summary\na,b\n", Reading(container="json"))
    assert found.container == "JSON"
    assert [each.code for each in found.rows if isinstance(each, Bad)] == ["not-json"] * 2
    found = opened(b'{"content": 1},summary\na,b\n', Reading(container="csv"))
    assert found.container == "CSV"


@pytest.mark.parametrize("kind", ["file", "memory", "trickle", "buffered"])
def test_parquet_is_recognised_in_any_stream(kind: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    data = b"before" + path.read_bytes() if kind == "memory" else path.read_bytes()
    streams = {
        "memory": lambda: io.BytesIO(data),
        "file": lambda: path.open("rb"),
        "trickle": lambda: Trickle(data, 100),
        "buffered": lambda: io.BufferedReader(Trickle(data, 100)),
    }
    with streams[kind]() as stream:
        if kind == "memory":
            stream.read(len(b"before"))
        found = open_rows(stream, "x", Reading(), lambda names: True)
        assert (found.container, found.encoding) == ("Parquet", "")
        assert values(found.rows) == ROWS


def test_parquet_that_was_called_json_is_an_error() -> None:
    with pytest.raises(DataError, match=r"this is Parquet .* data\.container says json"):
        opened(b"PAR1....PAR1", Reading(container="json"))
