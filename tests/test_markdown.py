"""Escaping, proved by what a CommonMark renderer makes of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rendered import Page

from tasks.reports.markdown import emphasise, escape, table
from tasks.reports.wording import visible

unhurried = settings(deadline=None)  # a busy machine is no failure
NASTY = (
    "# 标题\n1. 一 | `码` <UNK> **粗** _斜_ ![图](x) [链](y) $x$ &amp; \\| ~~删~~ <b>粗</b> www.a.b"
)

characters = st.one_of(
    st.sampled_from("#*<>|`_[]()!$&;~\\-+=1234567890.:/@'\"{}^%? \n\t"),
    st.sampled_from("类型裙，。！“”（）　Aa"),
    st.characters(),
)
foreign = st.text(characters, max_size=40).filter(lambda text: "␣" not in text)


def shown(text: str) -> str:
    """Return what `escape` promises to show, up to the signs that stand for white space."""
    return re.sub(r"\s", " ", visible(text))


def unsigned(text: str) -> str:
    return re.sub(r"\s", " ", text.replace("␣", " "))


@unhurried
@given(foreign)
@example(NASTY)
@example("    code")
@example("\\")
@example("\\|")
@example("|")
@example("　缩进")
@example("- x")
@example("a  b   c ")
@example("\ud800\u202e\x1b[31m")
def test_escaped_text_shows_as_it_is_in_cells_paragraphs_and_lists(text: str) -> None:
    in_table = Page(table(["prompt", "x"], [[escape(text), "1"], ["2", escape(text)]]))
    assert [[unsigned(cell) for cell in row] for row in in_table.tables[0][1:]] == [
        [shown(text), "1"],
        ["2", shown(text)],
    ]
    if text:
        listed = Page(f"{escape(text)}\n\n- {escape(text)}\n1. {escape(text)}")
        assert [unsigned(words) for words in listed.texts["p"]] == [shown(text)]
        assert [unsigned(words) for words in listed.texts["li"]] == [shown(text)] * 2


@unhurried
@given(st.text(st.sampled_from("#*<UNK>|`_[](!$&;~\\-1.类型裙，"), min_size=1, max_size=40))
def test_text_without_white_space_is_shown_character_by_character(text: str) -> None:
    assert Page(table(["x"], [[escape(text)]])).tables[0][1] == [text]


def test_control_characters_are_seen_and_cannot_act() -> None:
    assert visible("a\r\nb\nc\u2028d\te\x1b[31m\x00") == "a↵b↵c↵d⇥e␛[31m␀"
    assert visible("\ud83d\u202e") == "\ufffd\ufffd"
    assert visible("a\nb", line_end="\n") == "a\nb"


def test_parts_are_bold_only_where_they_stand_whole() -> None:
    page = Page(
        emphasise("类型#裙*颜色#红*颜色#红色*风格#简约", ["颜色#红", "风格#简约", "(x)", ""])
    )
    assert page.texts["p"] == ["类型#裙*颜色#红*颜色#红色*风格#简约"]
    assert page.texts["strong"] == ["颜色#红", "风格#简约"]
    assert Page(emphasise("我要红色裙子", ["红色"])).texts["strong"] == ["红色"]


@unhurried
@given(foreign.filter(str.strip), st.lists(foreign, max_size=3))
def test_bold_parts_do_not_change_the_text(text: str, parts: list[str]) -> None:
    assert unsigned(Page(emphasise(text, [*parts, text[1:4]])).texts["p"][0]) == shown(text)


def test_a_table_refuses_a_row_of_another_width() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], [["1"]])
