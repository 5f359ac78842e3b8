"""The page of a run: what a reader sees of it, what a stranger's text cannot do to it, and how large it gets."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.artifacts import Interval
from tasks.reports.html import drawings
from tasks.reports.html.answers import chosen
from tasks.reports.html.markup import Html, prose, tag
from tasks.reports.html.page import render
from tasks.reports.html.report import (
    TITLES,
    Answered,
    DataAccount,
    Decision,
    Difference,
    Group,
    Lineage,
    Override,
    Published,
    Run,
    RunReport,
    Scoreboard,
    Share,
    SideBySide,
    Slice,
    Slices,
    Spread,
    System,
    Training,
)
from tasks.reports.pictures import Point
from tasks.reports.wording import title, visible

unhurried = settings(deadline=None)  # a busy machine is no failure
VOID = {"meta", "link", "br", "input"}
NAN = Interval(mean=math.nan, low=math.nan, high=math.nan)
PROMPT = "类型#裙*版型#宽松*颜色#红*图案#红色碎花"


class Page(HTMLParser):
    """What a browser makes of a page: elements with their attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[list[str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[int] = []
        self._table = ""
        self.feed(text)
        self.close()
        assert not self._open, [self.elements[at] for at in self._open]

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attrs)))
        self.texts.append([])
        if name not in VOID:
            self._open.append(len(self.elements) - 1)
        if name == "tr":
            self.tables.setdefault(self._table, []).append([])

    def handle_startendtag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attrs)))
        self.texts.append([])

    def handle_endtag(self, name: str) -> None:
        at = self._open.pop()
        assert self.elements[at][0] == name
        if name == "caption":
            self._table = "".join(self.texts[at])
        if name in ("td", "th"):
            self.tables[self._table][-1].append("".join(self.texts[at]))

    def handle_data(self, data: str) -> None:
        for at in self._open:
            self.texts[at].append(data)

    def of(self, name: str, style: str = "") -> list[str]:
        """Return the texts of all elements of a name, or of those with a class."""
        return [
            "".join(words)
            for (element, attributes), words in zip(self.elements, self.texts, strict=True)
            if element == name and (not style or style in (attributes.get("class") or "").split())
        ]

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] or "" for _, found in self.elements if attribute in found]

    def table(self, caption: str) -> list[list[str]]:
        return next(rows for name, rows in self.tables.items() if name.startswith(caption))


def around(mean: float, half: float = 1.0) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def system(name: str, bleu: float, **changed: Any) -> System:
    metrics = {"rouge_2": around(bleu - 1), "bleu_4": around(bleu)}
    extras = {"attribute_coverage": 0.8, "length_ratio": 0.95, "width_mismatch": 0.0}
    return replace(System(name, 240, metrics, extras, 3, "chatglm2-v1"), **changed)


def answered(number: int, score: float = 10.0, **changed: Any) -> Answered:
    answers = {"base": f"原 {number}", "champion": "旧", "tuned": "宽松的裙，黑色"}
    scores = {"tuned": {"bleu_4": score, "rouge_2": 1.0}, "base": {"bleu_4": 2.0}}
    row = Answered(number, PROMPT, "参考", answers, scores, ("红",), ("黑色",), ("base",))
    return replace(row, **changed)


FULL = RunReport(
    run=Run("sample", "3", "tiny", "lora, rank 16", {"train": 2400, "dev": 240}, "2026-11-22"),
    verdict=Decision(
        "inconclusive",
        ["is not surely better than champion"],
        Override("deployed", "Li Si", "a demonstration", "2026-11-23"),
    ),
    scores=Scoreboard(
        [system("tuned", 12), system("champion", 11, note="version 2"), system("other", 5)],
        [Difference("champion", "bleu_4", around(1.0, 2.0), 0.31)],
        {"segmenter": "jieba-0.42.1"},
        0.95,
        ["The references were cut."],
        [Published("ChatGLM-6B", "references cut to 64 tokens", {"bleu_4": 8.1})],
    ),
    training=Training([Point(10, 4.0), Point(20, 2.0, 2.5)], ["It was short."]),
    slices=Slices([Slice("attribute", "颜色", 40, {"bleu_4": around(9)})], "bleu_4", 30),
    spreads=[Spread("bleu_4", [1.0, 5.0, 9.0], [0.0, 1.0])],
    answers=SideBySide(
        [Group("Worst 1", [answered(7, history=(("system", "Be brief."),))])], 240, "bleu_4", 17
    ),
    data=DataAccount(
        100,
        {"train": 80, "dev": 10},
        5,
        {"blank": 3},
        [Share("dev rows whose prompt is trained on", 2, 10)],
        {"format": "advertisegen"},
        2,
    ),
    lineage=Lineage(
        {"model": "f62c" * 16},
        "9a8b7c",
        {"learning_rate": "0.005"},
        {"training": 17},
        {"torch": "2.13.0"},
        "1.25 USD",
    ),
    repeat="python -m flows.finetune \\\n  --name sample",
)
SECTIONS = {
    "scores": ["Scores", "Intervals", "Beside the scores"],
    "training": ["Training"],
    "slices": ["Slices"],
    "spreads": ["Row scores"],
    "answers": ["Answers side by side"],
    "data": ["Data"],
    "lineage": ["Lineage"],
    "repeat": ["Repeat it"],
}


def page(report: RunReport = FULL) -> Page:
    return Page(render(report))


def filled(value: Any, text: str, met: dict[str, str]) -> Any:
    """Return a value with each of its texts, but for the names of systems, replaced by a foreign one."""
    if isinstance(value, str):
        return value if value in TITLES else met.setdefault(value, f"t{len(met)} {text}")
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: filled(getattr(value, f.name), text, met) for f in fields(value)}
        return type(value)(**changed)
    if isinstance(value, Mapping):
        return {filled(key, text, met): filled(each, text, met) for key, each in value.items()}
    if isinstance(value, Sequence):
        return tuple(filled(each, text, met) for each in value)
    return value


def skeleton(found: Page) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """Return elements and attributes, but for the language, which is that of the text."""
    return [
        (name, sorted((key, value) for key, value in attributes.items() if key != "lang"))
        for name, attributes in found.elements
    ]


foreign = st.text(
    st.one_of(
        st.sampled_from("<>&\"'`=/-!#;{}()[]\\|*\n\r\t\x00\x1b\u2028\u202e\u2066\ud800\ufeff"),
        st.sampled_from("aZ 裙，日の한عא"),
        st.characters(),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=30)  # each is a whole page, 20 ms
@given(foreign)
@example("</script><script>alert(1)</script>")
@example("</style><style>*{display:none}</style>")
@example('" onload="alert(1)" x="')
@example("'><img src=http://a.b/c onerror=alert(1)>")
@example("<!-- ]]> --> <![CDATA[ &lt; &#60; &amp; <svg/onload=x> <UNK>")
@example("javascript:alert(1) http://a.b/ data:text/html,x")
@example("a\r\nb\x00\x1b[31m\u202egnp\u2066\ud83d")
def test_foreign_text_shows_as_it_is_and_changes_nothing_else(text: str) -> None:
    met: dict[str, str] = {}
    written = render(filled(FULL, text, met)).encode("utf-8").decode("utf-8")
    found = Page(written)
    assert skeleton(found) == skeleton(Page(render(filled(FULL, "plain", {}))))
    seen = "".join(found.texts[0])
    assert len(met) > 50
    for field, words in met.items():
        shown = {visible(words), visible(words, "\n"), visible(title(words))}
        assert any(each in seen for each in shown), field


def test_signs_that_reorder_or_control_are_seen_and_halves_of_characters_can_be_written() -> None:
    report = RunReport(Run("a\u202eb\u2067c\x07\ud800"))
    assert page(report).of("h1") == ["a\ufffdb\ufffdc␇\ufffd"]
    assert render(report).encode("utf-8")


@unhurried
@given(foreign)
@example('"><script>')
def test_foreign_text_stays_within_its_attribute(text: str) -> None:
    found = Page(tag("p", "x", title=text, class_="c", hidden=True, lang=False))
    assert found.elements == [("p", {"title": visible(text), "class": "c", "hidden": None})]
    assert found.of("p") == ["x"]


def test_a_string_that_only_looks_like_html_is_escaped_again() -> None:
    made = Html("<b>x</b>")
    assert tag("p", made) == "<p><b>x</b></p>"
    assert tag("p", f"{made}!") == "<p>&lt;b&gt;x&lt;/b&gt;!</p>"


def test_the_page_forbids_everything_but_its_own_style_and_script() -> None:
    text = render(FULL)
    found = page()
    ((at, policy),) = [
        (at, each["content"] or "")
        for at, (_, each) in enumerate(found.elements)
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    names = [name for name, _ in found.elements]
    assert at < min(names.index("style"), names.index("script"), names.index("link"))
    assert (names.count("style"), names.count("script")) == (1, 1)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for inline in ("style", "script"):
        (code,) = found.of(inline)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{inline}-src 'sha256-{digest}'" in policy
        assert f"<{inline}>{code}</{inline}>" in text


def test_nothing_is_asked_of_anybody() -> None:
    found = page()
    assert not found.values("src")
    assert not found.values("style")
    assert not [key for _, each in found.elements for key in each if key.startswith("on")]
    assert all(href.startswith("#") or href == "data:," for href in found.values("href"))
    assert not [v for _, each in found.elements for v in each.values() if v and "//" in v]
    assert not re.search(r"url\(|@import|https?:|expression", found.of("style")[0])


def test_the_page_is_built_as_a_reader_of_structure_expects() -> None:
    found = page()
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    named = found.values("aria-labelledby") + found.values("for")
    assert set(named) | {href[1:] for href in found.values("href") if href[0] == "#"} <= set(ids)
    levels = [int(n[1]) for n, _ in found.elements if re.fullmatch("h[1-6]", n)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(found.of("caption")) == len(found.of("table")) >= 8
    assert all(each.get("scope") for name, each in found.elements if name == "th")
    assert all(len(row) == len(rows[0]) for rows in found.tables.values() for row in rows)
    assert {"lang": "en"} in [each for name, each in found.elements if name == "html"]


def test_the_sections_come_in_the_order_that_a_reader_needs() -> None:
    order = [
        "Scores",
        "Intervals",
        "Training",
        "Slices",
        "Beside the scores",
        "Row scores",
        "Answers side by side",
        "Data",
        "Lineage",
        "Repeat it",
    ]
    found = page()
    assert found.of("h2") == order
    assert found.of("a") == order
    assert found.elements[[name for name, _ in found.elements].index("body") + 1][0] == "header"


@pytest.mark.parametrize("part", SECTIONS)
def test_what_is_not_given_is_not_shown(part: str) -> None:
    nothing: Any = {"repeat": "", "spreads": ()}.get(part)
    without = page(replace(FULL, **{part: nothing})).of("h2")
    assert set(page().of("h2")) - set(without) == set(SECTIONS[part])
    alone = page(replace(RunReport(FULL.run), **{part: getattr(FULL, part)}))
    assert alone.of("h2") == SECTIONS[part]


def test_a_name_alone_is_a_page() -> None:
    found = page(RunReport(Run("sample")))
    assert found.of("h1") == ["sample"]
    assert found.of("title") == ["sample"]
    assert not found.of("h2") + found.of("nav") + found.of("script")


@pytest.mark.parametrize(
    "empty",
    [
        {"scores": Scoreboard([])},
        {"scores": Scoreboard([System("tuned", 0)])},
        {"scores": Scoreboard([system("tuned", 1, rows=0)])},
        {"training": Training([])},
        {"training": Training([Point(1)])},
        {"slices": Slices([], "bleu_4", 30)},
        {"slices": Slices([Slice("length", "x", 0, {})], "bleu_4", 30)},
        {"spreads": [Spread("bleu_4", [])]},
        {"spreads": [Spread("bleu_4", [3.0]), Spread("rouge_1", [math.nan], [math.inf])]},
        {"answers": chosen([])},
        {"answers": chosen([Answered(1, "", "", {})])},
        {"data": DataAccount(0, {}, 0, {})},
        {"lineage": Lineage()},
        {"repeat": "\n"},
    ],
    ids=str,
)
def test_no_rows_and_one_row_are_pages_too(empty: dict[str, Any]) -> None:
    found = page(replace(RunReport(Run("x")), **empty))
    assert all(len(rows) > 1 for rows in found.tables.values())
    assert len(found.of("h1")) == 1


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("pass", "✓ pass"), ("fail", "✗ fail"), ("inconclusive", "? inconclusive")],
)
def test_the_verdict_comes_first_in_word_and_sign(outcome: str, words: str) -> None:
    found = page(replace(FULL, verdict=Decision(outcome, ["because | of <this>"])))
    assert found.of("h1") == [f"{words} sample, version 3"]
    assert found.of("header", outcome)
    assert found.of("title")[0] == f"{outcome}: sample, version 3"
    assert "because | of <this>" in found.of("header")[0]
    assert not found.of("p", "override")


def test_an_override_tells_who_what_and_why() -> None:
    (told,) = page().of("p", "override")
    expected = "deployed, by Li Si, 2026-11-23. Reason: a demonstration"
    assert told == f"Overridden by a person: {expected}"
    verdict = Decision("fail", (), Override("deployed"))
    (told,) = page(replace(FULL, verdict=verdict)).of("p", "override")
    assert told == "Overridden by a person: deployed. No reason given."


def test_one_line_says_what_the_run_is() -> None:
    (told,) = page().of("p", "what")
    expected = "base tiny · method lora, rank 16 · rows 2,400 train, 240 dev · date 2026-11-22"
    assert told == expected
    assert "date" not in page(replace(FULL, run=Run("x", base="b"))).of("p", "what")[0]


def test_scores_stand_with_intervals_and_the_best_is_named() -> None:
    rows = page().table("Scores in percent")
    assert rows == [
        ["system", "rows", "ROUGE-2", "BLEU-4"],
        ["new model", "240", "★\u00a011.0 best10.0–12.0", "★\u00a012.0 best11.0–13.0"],
        ["championversion 2", "240", "10.09.0–11.0", "11.010.0–12.0"],
        ["other", "240", "4.03.0–5.0", "5.04.0–6.0"],
    ]
    alone = replace(FULL, scores=Scoreboard([system("tuned", 3)]))
    assert "best" not in "".join(page(alone).table("Scores in percent")[1])


def test_scores_that_could_not_be_computed_say_so_and_are_never_best() -> None:
    systems = [
        system("tuned", 1, metrics={"bleu_4": NAN}),
        system("base", 1, metrics={"bleu_4": Interval(mean=2, low=math.nan, high=math.nan)}),
        system("random", 1, metrics={}),
    ]
    found = page(replace(FULL, scores=Scoreboard(systems, [Difference("base", "bleu_4", NAN)])))
    cells = [row[2] for row in found.table("Scores in percent")[1:]]
    assert cells == ["n/a", "★\u00a02.0 bestno interval", "–"]
    assert found.table("Differences")[1] == ["base model", "BLEU-4", "n/a", "–", "– not known"]
    drawn = [v for _, each in found.elements for v in each.values() if v]
    assert not [value for value in drawn if "nan" in value or "inf" in value.split()]


def test_differences_read_by_interval_and_chance() -> None:
    given_ = [
        Difference("base", "bleu_4", around(5), 0.0002),
        Difference("champion", "bleu_4", around(-5), 0.0312),
        Difference("x", "bleu_4", around(0.5), math.nan),
    ]
    rows = page(replace(FULL, scores=Scoreboard([system("tuned", 5)], given_)))
    assert rows.table("Differences")[1:] == [
        ["base model", "BLEU-4", "+5.0 (+4.0 to +6.0)", "< 0.001", "▲ better"],
        ["champion", "BLEU-4", "-5.0 (-6.0 to -4.0)", "0.031", "▼ worse"],
        ["x", "BLEU-4", "+0.5 (-0.5 to +1.5)", "n/a", "≈ no clear difference"],
    ]


def test_the_protocol_is_named_and_two_are_called_not_comparable() -> None:
    notes = " ".join(page().of("p", "note"))
    assert "Protocol chatglm2-v1; segmenter jieba-0.42.1." in notes
    assert "comparable only with their own settings" in notes
    assert "The references were cut." in page().of("div", "warning")
    mixed = [system("tuned", 1), system("champion", 1, protocol="other-v2")]
    found = page(replace(FULL, scores=Scoreboard(mixed)))
    assert found.of("p", "warning") == [
        "Not comparable: several protocols (chatglm2-v1, other-v2)."
    ]
    assert not page().of("p", "warning")


def test_published_figures_stand_beside_their_settings() -> None:
    rows = page().table("Published figures")
    assert rows == [
        ["published", "BLEU-4", "their settings"],
        ["ChatGLM-6B", "8.10", "references cut to 64 tokens"],
    ]


def test_measures_beside_the_protocol_are_explained_and_the_width_is_warned_of_in_words() -> None:
    wide = system("tuned", 5, extras={"width_mismatch": 1.0, "cut": 0.25}, empty=None)
    found = page(replace(FULL, scores=Scoreboard([wide, system("base", 3)])))
    rows = {row[0]: row[1:] for row in found.table("Measures beside")}
    assert rows["measure"] == ["new model", "base model"]
    assert rows["cutanswers that ended at the token limit"] == ["25.0%", "–"]
    assert rows["emptyanswers without a character; they score 0"] == ["–", "3\u00a0(1.2%)"]
    (warned,) = found.of("div", "warning")
    assert warned.startswith("Punctuation differsnew model: answers and references write marks")
    assert not page(replace(FULL, scores=Scoreboard([system("tuned", 3)]))).of("div", "warning")


def test_slices_come_worst_first_and_those_of_few_rows_last() -> None:
    parts = [
        Slice("attribute", "领型", 90, {"bleu_4": around(9)}),
        Slice("length", "tiny", 4, {"bleu_4": around(1)}),
        Slice("language", "en", 50, {"bleu_4": around(3)}),
        Slice("language", "?", 60, {"bleu_4": NAN}),
    ]
    found = page(replace(FULL, slices=Slices(parts, "bleu_4", 30)))
    rows = found.table("The new model by slice")
    assert [row[0] for row in rows[1:]] == [
        "enlanguage",
        "领型attribute",
        "?language",
        "tinylength",
    ]
    assert rows[4][1] == "4◌ few rows"
    assert len(found.of("tr", "few")) == 1
    many = [replace(parts[0], name=str(n)) for n in range(100)]
    found = page(replace(FULL, slices=Slices(many, "bleu_4", 30)))
    assert len(found.table("The new model by slice")) == 61
    assert "40 further slices are not shown" in " ".join(found.of("p", "note"))


def numbers(svg: str, pattern: str) -> list[float]:
    return [float(each) for each in re.findall(pattern, svg)]


def test_dots_and_whiskers_lie_where_their_values_are() -> None:
    values = [("new", around(30, 2), True), ("a", around(20, 4), False), ("b", NAN, False)]
    svg = drawings.whiskers("BLEU-4", values)
    (new,) = numbers(svg, r'class="ka" d="M([\d.]+)')
    (old,) = numbers(svg, r'<circle class="hollow" cx="([\d.]+)"')
    ends = re.findall(r'class="(?:a|axis) line" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)"', svg)
    whole = [(float(x1), float(x2)) for x1, _, x2 in ends if x1 != x2]
    per_point = (new - old) / 10
    assert per_point > 10
    assert whole[0] == pytest.approx((new - 2 * per_point, new + 2 * per_point), abs=0.2)
    assert whole[1] == pytest.approx((old - 4 * per_point, old + 4 * per_point), abs=0.2)
    assert len(whole) == 2
    assert ">30.0 (28.0–32.0)<" in svg
    assert ">n/a<" in svg


def test_a_long_name_does_not_run_into_its_numbers() -> None:
    for name in ("系" * 60, "x" * 60, "mixed 混合 " * 9):
        svg = drawings.whiskers("m", [(name, around(30), True)])
        (words,) = re.findall(r'class="title">([^<]+…)<', svg)
        assert 8 < sum(2 if ord(one) > 0x2E80 else 1 for one in words) < 28
    assert ">short<" in drawings.whiskers("m", [("short", around(30), True)])


@unhurried
@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=60), st.lists(st.floats(0, 100), max_size=60)
)
def test_the_bars_of_a_compared_histogram_hold_every_row(
    new: list[float], base: list[float]
) -> None:
    svg = drawings.compared("BLEU-4", new, base)
    heights = numbers(svg, r'<rect class="bar" [^>]*height="([\d.]+)"')
    floor, ceiling = 190, 66
    grid = re.findall(r'class="grid" [^>]*y1="([\d.]+)"[^>]*/><text [^>]*>([\d.,]+)<', svg)
    tops = {float(label.replace(",", "")): float(y) for y, label in grid}
    top = max(tops)
    assert tops[top] == pytest.approx(ceiling, abs=0.1)
    assert sum(heights) / (floor - ceiling) * top == pytest.approx(100, abs=0.1 * len(heights))
    assert ("base, median" in svg) == bool(base)


def test_many_drawings_share_a_page_without_touching_each_other_or_it() -> None:
    found = page()
    assert len(found.of("svg")) == 4
    assert all(
        name == "svg" or "id" not in each
        for name, each in found.elements
        if name in ("rect", "path", "line", "text", "circle", "tspan")
    )
    (css,) = found.of("style")
    used = {
        word
        for name, each in found.elements
        for word in (each.get("class") or "").split()
        if name in ("rect", "path", "line", "text", "circle", "tspan")
    }
    assert used
    assert all(re.search(rf"\.drawing \.{word}\b", css) for word in used)
    selectors = re.findall(r"([^{}]+)\{[^{}]*\}", drawings.STYLE)
    assert len(selectors) > 20
    assert all(one.strip().startswith(".drawing ") for s in selectors for one in s.split(","))


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(theme: int) -> None:
    (css,) = page().of("style")
    root = re.findall(r":root \{([^}]*--paper[^}]*)\}", css)[theme]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", root))
    behind = {
        "paper": "text muted accent pass fail open",
        "raised": "text muted accent",
        "new": "text muted",
        "pass-back": "text pass",
        "fail-back": "text fail",
        "open-back": "text open",
    }
    for back, fronts in behind.items():
        for front in fronts.split():
            light, dark = sorted(luminance(colours[each]) for each in (front, back))[::-1]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


def test_paper_is_white_whatever_the_screen_is() -> None:
    (css,) = page().of("style")
    dark = re.findall(r"@media[^{]*prefers-color-scheme[^{]*\{", css)
    assert len(dark) == 2
    assert all("screen and" in each for each in dark)


def test_worst_best_and_drawn_rows_are_chosen_once_and_by_seed() -> None:
    rows = [answered(n + 1, float((n * 37) % 100)) for n in range(100)]
    rows[50] = answered(51, math.nan)
    given_ = chosen(rows)
    shown = {group.title: [row.number for row in group.rows] for group in given_.groups}
    assert list(shown) == ["Worst 20", "Best 10", "Drawn at random 20"]
    every = [number for some in shown.values() for number in some]
    assert len(set(every)) == 50
    assert shown["Worst 20"][0] == 51
    assert [rows[n - 1].scores["tuned"]["bleu_4"] for n in shown["Best 10"]] == [
        99.0 - n for n in range(10)
    ]
    assert chosen(rows) == given_ != chosen(rows, seed=3)
    assert [len(group.rows) for group in chosen(rows[:25]).groups] == [20, 5]


def test_a_row_shows_every_answer_its_scores_and_what_is_wrong_with_it() -> None:
    found = page()
    assert found.of("h3") == ["Worst 1"]
    assert found.of("h4") == ["Row 7"]
    names = ["system", "prompt", "reference", "base model", "champion", "new model"]
    assert found.of("dt") == names
    said = dict(zip(names, found.of("dd"), strict=True))
    assert said["prompt"] == PROMPT
    assert said["system"] == "Be brief."
    assert said["base model"] == "原 7BLEU-4 2.0… ended at the token limit"
    assert said["new model"] == (
        "宽松的裙，黑色BLEU-4 10.0 · ROUGE-2 1.0left out: 红not asked for: 黑色"
    )
    assert found.of("mark", "missed")[1:] == ["红"]  # the first explains the sign
    assert found.of("mark", "against")[1:] == ["黑色"]


def test_nothing_said_is_called_nothing() -> None:
    row = answered(1, answers={"base": "", "tuned": " \n"})
    found = page(replace(FULL, answers=SideBySide([Group("g", [row])], 1, "bleu_4", 17)))
    assert found.of("em") == ["nothing", "nothing but 2 white-space characters"]


@unhurried
@given(foreign, st.lists(foreign, max_size=3))
def test_marks_do_not_change_the_text(text: str, marks: list[str]) -> None:
    found = Page(tag("p", prose(text, [*marks, text[1:4]], "missed")))
    assert "".join(found.texts[0]) == visible(text, "\n")


def test_the_lines_of_an_answer_stay_lines() -> None:
    found = Page(tag("p", prose("one\r\n  two\n\nthree")))
    assert found.of("p") == ["one\n  two\n\nthree"]


@pytest.mark.parametrize(
    ("text", "tongue"),
    [("红色的裙", "zh"), ("赤いドレス", "ja"), ("빨간 드레스", "ko"), ("a red dress", "")],
)
def test_characters_get_the_shapes_of_their_language(text: str, tongue: str) -> None:
    row = answered(1, prompt=text)
    found = page(replace(FULL, answers=SideBySide([Group("g", [row])], 1, "bleu_4", 17)))
    prompts = [each for name, each in found.elements if each.get("class") == "text"]
    assert prompts[0]["lang"] == tongue
    assert all(each["dir"] == "auto" for each in prompts)


def side(rows: int, text: str) -> RunReport:
    given_ = [
        answered(n, prompt=text, reference=text, answers=dict.fromkeys(("base", "tuned"), text))
        for n in range(rows)
    ]
    return replace(FULL, answers=chosen(given_))


def test_a_usual_page_is_small() -> None:
    assert len(render(side(240, "这款裙子" * 40)).encode()) < 400_000


def test_a_page_of_huge_texts_is_not_larger_and_counts_what_it_leaves_out() -> None:
    text = render(side(240, "长" * 100_000))
    assert len(text.encode()) < 400_000
    shown = Page(text).of("dd")[0]
    assert shown == "长" * 250 + "… 99,750 more characters, not on this page"


def test_a_long_text_folds_and_stays_whole() -> None:
    words = "".join(chr(0x4E00 + n) for n in range(2000))
    found = page(side(1, words))
    folded = Page(render(side(1, words))).of("details")[0]
    assert folded == "1,400 more characters" + words[600:]
    assert found.of("p", "text")[0] + found.of("p", "text")[1] == words


def test_the_script_finds_what_it_looks_for_and_is_not_needed() -> None:
    found = page()
    (script,) = found.of("script")
    assert set(re.findall(r'getElementById\("(\w+)"\)', script)) <= set(found.values("id"))
    assert ("form", {"class": "tools", "id": "tools", "hidden": None}) in found.elements
    names = [option for option in found.of("option") if "lowest" in option]
    scores = [each.split() for each in found.values("data-scores")]
    assert scores == [["10.0000", "1.0000"]]
    assert names == ["BLEU-4, lowest first", "ROUGE-2, lowest first"]
    assert [v for v in found.values("value")] == ["", "+0", "-0", "+1", "-1"]


def test_the_account_of_the_rows_adds_up() -> None:
    rows = page().table("Where every row went")
    assert rows[1:] == [
        ["read", "100", ""],
        ["kept, train", "80", "80.0%"],
        ["kept, dev", "10", "10.0%"],
        ["left out by the limit", "2", "2.0%"],
        ["duplicates", "5", "5.0%"],
        ["rejected", "3", "3.0%"],
        ["rejected: blank", "3", "3.0%"],
    ]
    leak = ["dev rows whose prompt is trained on", "2", "10", "20.0%"]
    assert page().table("What evaluation rows share")[1] == leak
    many = replace(FULL, data=DataAccount(1000, {}, 0, {f"r{n}": 1 for n in range(1000)}))
    rows = page(many).table("Where every row went")[4:]
    assert len(rows) == 41
    assert rows[-1] == ["rejected: 960 other reasons", "960", "96.0%"]


def test_the_lineage_goes_down_to_the_digests() -> None:
    found = page()
    assert found.table("Digests")[1:] == [["model", "f62c" * 16]]
    made = [["base revision", "9a8b7c"], ["seed, training", "17"], ["price", "1.25 USD"]]
    assert found.table("Made with")[1:] == made
    assert found.table("What was asked for")[1:] == [["learning_rate", "0.005"]]
    assert found.table("Versions")[1:] == [["torch", "2.13.0"]]
    unknown = page(replace(FULL, lineage=Lineage())).table("Made with")
    assert unknown[1:] == [["price", "unknown"]]


def test_the_command_can_be_copied_as_it_is() -> None:
    assert page().of("pre") == [FULL.repeat]


def test_the_same_report_is_the_same_page() -> None:
    assert render(FULL) == render(replace(FULL))
