"""Files as people have them: broken, strange, or just unusual, each with what must come of it.

    python tests/malformed.py        writes tests/data/malformed/, one file a case

A case is a training file. Six good rows are in it unless the case says otherwise; how many are read, which lines are
rejected and why, or the words with which the whole file is refused, stand beside it. Large cases are made where they
are needed and not kept.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data" / "malformed"
ROWS = [
    {"content": f"类型#裙*编号#{n}", "summary": f"第{n}条裙子，{'好看' * n}。"} for n in range(1, 7)
]
GOOD = [json.dumps(row, ensure_ascii=False) for row in ROWS]


@dataclass(frozen=True)
class Case:
    """One file."""

    name: str
    """Its file name, which decides nothing."""
    content: bytes
    kept: int = 6
    """Rows that are trained on."""
    rejected: tuple[tuple[int, str], ...] = ()
    """Line and code of each rejected row."""
    refused: str = ""
    """Words of the message when the whole file is refused."""
    encoding: str = "utf-8"
    """What the ledger says of it."""
    duplicates: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    """Knobs of `data` that a person would set."""
    stored: bool = True


def _text(*parts: str) -> bytes:
    return "".join(parts).encode()


def _with(bad: str, after: int = 3) -> bytes:
    """Return six good lines with a bad one among them."""
    return "\n".join([*GOOD[:after], bad, *GOOD[after:], ""]).encode("utf-8", "surrogatepass")


def _pretty(rows: list[Any]) -> str:
    return json.dumps(rows, ensure_ascii=False, indent=2)


def _table(delimiter: str = ",", end: str = "\n") -> str:
    rows = [f"{row['content']}{delimiter}{row['summary']}" for row in ROWS]
    return end.join([f"content{delimiter}summary", *rows, ""])


def _zip(names: dict[str, bytes], comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in names.items():
            archive.writestr(zipfile.ZipInfo(name), content)
        archive.comment = comment
    return out.getvalue()


def _tar(names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(out.getvalue(), mtime=0)


PLAIN = _text("\n".join(GOOD), "\n")


def encodings() -> Iterator[Case]:
    """Yield files in other encodings than UTF-8, or in none."""
    text = PLAIN.decode()
    yield Case("bom.json", codecs.BOM_UTF8 + PLAIN, encoding="utf-8 with BOM")
    yield Case("gbk.json", text.encode("gbk"), encoding="gb18030")
    yield Case("gb18030.json", text.replace("裙", "𬘭").encode("gb18030"), encoding="gb18030")
    yield Case("utf16.json", text.encode("utf-16"), encoding="utf-16-le")
    big = codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    yield Case("utf16be.json", big, encoding="utf-16-be")
    broken = _with('{"content": "@", "summary": "y"}').replace(b"@", b"\xff\xfe\x80")
    yield Case("bad-byte.json", broken, rejected=((4, "encoding"),))
    table = _table().encode("gbk").replace("编号#3".encode("gbk"), b"\xff\xff", 1)
    said = {"encoding": "gb18030"}
    yield Case("gbk-bad-byte.csv", table, 5, ((4, "encoding"),), encoding="gb18030", config=said)
    yield Case("gbk-or-not.csv", table, refused="data.encoding")
    latin = '{"content": "café", "summary": "naïve"}\n'.encode("latin-1") * 6
    yield Case("latin1.json", latin, refused="data.encoding")


def containers() -> Iterator[Case]:
    """Yield good rows that lie in a file in other ways than one a line."""
    yield Case("array.json", _text(json.dumps(ROWS, ensure_ascii=False)))
    yield Case("pretty-array.json", _text(_pretty(ROWS)))
    pretty = "\n".join(json.dumps(row, ensure_ascii=False, indent=4) for row in ROWS)
    yield Case("concatenated.json", _text(pretty))
    yield Case("glued.json", _text("".join(GOOD)))
    yield Case("comma-lines.json", _text(",\n".join(GOOD), ",\n"))
    yield Case("array-lines.json", _text("[\n", ",\n".join(GOOD), "\n]\n"))
    commas = _pretty(ROWS).replace('。"\n', '。",\n').replace("  }\n]", "  },\n]")
    yield Case("trailing-commas.json", _text(commas))
    comments = "// the rows\n[\n" + ",\n".join(f"/* {n} */ {row}" for n, row in enumerate(GOOD))
    yield Case("comments.json", _text(comments, " // the end\n]\n"))
    yield Case("blank-lines.json", _text("\n\n".join(GOOD), "\n \n\t\n"))
    yield Case("windows.json", PLAIN.replace(b"\n", b"\r\n"))
    yield Case("classic-mac.json", PLAIN.replace(b"\n", b"\r"))
    yield Case("no-last-line-end.json", PLAIN.rstrip())
    yield Case("rows.txt", PLAIN)
    yield Case("table-named-json.json", _text(_table()))
    yield Case("windows.csv", _text(_table(end="\r\n")))
    yield Case("tabs.tsv", _text(_table("\t")))
    yield Case("semicolons.csv", _text(_table(";")))
    yield Case("excel-says-so.csv", _text("sep=;\n", _table(";")))
    yield Case("unicode-text-of-excel.txt", _table("\t").encode("utf-16"), encoding="utf-16-le")
    quoted = _table().replace("好看。", '"好""看"。')
    yield Case("line-breaks-in-cells.csv", _text('content,summary\n"a\nb","c\r\nd"\n'), kept=1)
    yield Case("quote-inside.csv", _text(quoted), 6)
    yield Case("twice.json", PLAIN + PLAIN, duplicates=6)


def rows() -> Iterator[Case]:
    """Yield files of which one row or a few cannot be used."""
    yield Case("broken-line.json", _with("{oops"), rejected=((4, "not-json"),))
    yield Case("truncated.json", PLAIN + b'{"content": "x", "summ', rejected=((7, "unterminated"),))
    yield Case("missing-field.json", _with('{"content": "x"}'), rejected=((4, "missing-field"),))
    yield Case(
        "other-name.json",
        _with('{"content": "x", "sumary": "y"}'),
        rejected=((4, "missing-field"),),
    )
    yield Case(
        "number.json", _with('{"content": 123, "summary": "y"}'), rejected=((4, "not-text"),)
    )
    yield Case(
        "list.json", _with('{"content": ["x"], "summary": "y"}'), rejected=((4, "not-text"),)
    )
    yield Case("null.json", _with('{"content": null, "summary": "y"}'), rejected=((4, "not-text"),))
    yield Case(
        "empty-text.json", _with('{"content": "x", "summary": ""}'), rejected=((4, "blank"),)
    )
    yield Case(
        "blank-text.json",
        _with('{"content": "x", "summary": " \\u3000 "}'),
        rejected=((4, "blank"),),
    )
    yield Case("nul.json", _with('{"content": "x\\u0000", "summary": "y"}'), rejected=((4, "nul"),))
    yield Case(
        "raw-tab.json", _with('{"content": "x\ty", "summary": "y"}'), rejected=((4, "not-json"),)
    )
    yield Case(
        "half-character.json",
        _with('{"content": "\\ud83d", "summary": "y"}'),
        rejected=((4, "surrogate"),),
    )
    yield Case(
        "nan.json",
        _with('{"content": "x", "summary": "y", "p": NaN}'),
        rejected=((4, "not-finite"),),
    )
    yield Case(
        "single-quotes.json", _with("{'content': 'x', 'summary': 'y'}"), rejected=((4, "not-json"),)
    )
    yield Case(
        "unescaped-quote.json",
        _with('{"content": "a "b" c", "summary": "y"}'),
        rejected=((4, "not-json"),),
    )
    yield Case("array-row.json", _with("[1, 2]"), rejected=((4, "not-an-object"),))
    yield Case("bare-text.json", _with('"just a text"'), rejected=((4, "not-an-object"),))
    big = '{"content": "x", "summary": "y", "id": 123456789012345678901234567890}'
    yield Case("big-number.json", _with(big), kept=7)
    yield Case(
        "twice-the-key.json", _with('{"content": "x", "content": "z", "summary": "y"}'), kept=7
    )
    middle = _pretty(ROWS).replace('"content": "类型#裙*编号#3"', '"content" "类型#裙*编号#3"')
    yield Case("broken-in-pretty-array.json", _text(middle), 5, ((10, "not-json"),))
    open_ = _pretty(ROWS).replace('编号#3",', "编号#3,")
    yield Case("open-quote-in-pretty-array.json", _text(open_), 5, ((10, "not-json"),))
    one_line = json.dumps(ROWS, ensure_ascii=False).replace('编号#3",', "编号#3,")
    yield Case("open-quote-in-one-line.json", _text(one_line), 5, ((1, "not-json"),))
    unclosed = "\n".join([*GOOD[:3], '{"content": "x", "summary": "y"', *GOOD[3:]])
    yield Case("unclosed-object.json", _text(unclosed), rejected=((4, "not-json"),))
    yield Case("cells.csv", _text(_table(), "one,two,three\n"), rejected=((8, "cells"),))
    yield Case(
        "open-quote.csv",
        _text(_table().replace("类型#裙*编号#3", '"类型#裙*编号#3')),
        5,
        ((4, "quote"),),
    )
    long_ = '{"content": "x", "summary": "' + "长" * 3_000_000 + '"}'
    yield Case("too-long.json", _with(long_), rejected=((4, "too-long"),), stored=False)
    deep = '{"content": "x", "summary": "y", "z": ' + "[" * 100_000 + "]" * 100_000 + "}"
    yield Case("too-deep.json", _with(deep), rejected=((4, "too-deep"),), stored=False)


def files() -> Iterator[Case]:
    """Yield files that are no rows at all, or that leave it open which."""
    yield Case("empty.json", b"", refused="empty")
    yield Case("blanks.json", b" \n\t\n", refused="empty")
    yield Case("page.json", b"<!DOCTYPE html>\n<html><body>404</body></html>", refused="web page")
    yield Case(
        "error.json", b"<?xml version='1.0'?><Error>AccessDenied</Error>", refused="web page"
    )
    yield Case("report.json", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", refused="PDF")
    yield Case("old.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), refused="Office")
    book = {"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"}
    yield Case("book.csv", _zip(book), refused="CSV")
    yield Case("wrapped.json", _text(_pretty({"data": ROWS})), refused='inside field "data"')  # type: ignore[arg-type]
    yield Case(
        "prose.json",
        _text("Dear colleague,\nhere are the rows.\n"),
        refused="neither JSON nor a table",
    )
    two = '{"prompt": "a", "completion": "b", "question": "c", "answer": "d"}\n'
    yield Case("two-formats.json", _text(two * 6), refused="data.format")
    mixed = [*GOOD[:3], *[f'{{"question": "q{n}", "answer": "a{n}"}}' for n in range(3)]]
    yield Case("rows-disagree.json", _text("\n".join(mixed)), refused="disagree")
    unknown = '{"标题": "一", "正文": "二"}\n'
    yield Case("unknown-names.json", _text(unknown * 6), refused="data.columns.prompt")
    yield Case("two-delimiters.csv", _text("a,b;c\n1,2;3\n"), refused="data.delimiter")
    yield Case("same-header.csv", _text("content,content\n1,2\n"), refused="content")
    yield Case("torn.parquet", b"PAR1" + bytes(64), refused="Parquet")
    packed = gzip.compress(PLAIN, mtime=0)
    yield Case("torn.json.gz", packed[: len(packed) // 2], refused="cut")
    yield Case("torn.zip", _zip({"train.json": PLAIN})[:200], refused="zip")
    yield Case("pictures.zip", _zip({"a.png": b"x", "read.md": b"y"}), refused="a.png")


def archives() -> Iterator[Case]:
    """Yield archives that are read, whatever their members are called."""
    yield Case("rows.gz", gzip.compress(PLAIN, mtime=0))
    yield Case("rows.zip", _zip({"folder/train.json": PLAIN, "__MACOSX/._train.json": b"\0\5"}))
    yield Case("climbing.tar.gz", _tar({"../../etc/train.json": PLAIN, "._train.json": b"\0"}))
    yield Case("absolute.zip", _zip({"/etc/passwd.json": PLAIN}))
    yield Case("packed-twice.zip", _zip({"train.json.gz": gzip.compress(PLAIN, mtime=0)}))
    yield Case("not-named-so.json", _zip({"train.jsonl": PLAIN}))
    bomb = gzip.compress(b"[" + b" " * 300_000_000, 9, mtime=0)
    yield Case("bomb.json.gz", bomb, refused="200 times its size", stored=False)


CASES = [*encodings(), *containers(), *rows(), *files(), *archives()]


def write() -> None:
    """Write the files that are kept."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if case.stored:
            (FOLDER / case.name).write_bytes(case.content)


if __name__ == "__main__":
    write()
