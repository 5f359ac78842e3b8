"""Where it came from: what became of the rows, what the model was made of, how to do it again."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.reports.html.markup import Html, foreign, prose, row, table, tag, together
from tasks.reports.html.report import DataAccount, Lineage, Share
from tasks.reports.wording import percent

_REASONS = 40
"""Reasons of rejection that are shown; further ones are counted together."""


def data(given: DataAccount) -> Html:
    """Return what became of every row, and what training and evaluation share."""
    rejected = sum(given.rejected.values())
    lines = [row("read", f"{given.read:,}", "")]
    for split, count in given.kept.items():
        lines.append(_part(together("kept, ", foreign(split)), count, given.read))
    if given.beyond_limit:
        lines.append(_part(Html("left out by the limit"), given.beyond_limit, given.read))
    lines.append(_part(Html("duplicates"), given.duplicates, given.read))
    lines.append(_part(Html("rejected"), rejected, given.read))
    reasons = sorted(given.rejected.items(), key=lambda item: -item[1])
    for reason, count in reasons[:_REASONS]:
        lines.append(_part(together("rejected: ", foreign(reason)), count, given.read))
    if others := reasons[_REASONS:]:
        words = f"rejected: {len(others):,} other reasons"
        lines.append(_part(Html(words), sum(count for _, count in others), given.read))
    parts = [table("rows", "Where every row went.", ["rows", "number", "share"], lines)]
    if given.leaks:
        caption = "What evaluation rows share with training rows, or rows with each other."
        leaks = [_leak(each) for each in given.leaks]
        parts.append(table("leaks", caption, ["rows", "number", "of", "share"], leaks))
    return together(*parts, _facts("source", "The source.", given.facts))


def _part(what: Html, count: int, whole: int) -> Html:
    return row(what, f"{count:,}", percent(count / whole) if whole else "–")


def _leak(each: Share) -> Html:
    share = percent(each.rows / each.of) if each.of else "–"
    return row(foreign(each.what), f"{each.rows:,}", f"{each.of:,}", share)


def lineage(given: Lineage) -> Html:
    """Return what the model was made of, down to the digests."""
    seeds = {what: str(seed) for what, seed in given.seeds.items()}
    known = {"base revision": given.base_revision} if given.base_revision else {}
    known |= {f"seed, {what}": seed for what, seed in seeds.items()}
    return together(
        _facts("digests", "Digests: equal ones mean equal bytes.", given.digests),
        _facts("made", "Made with.", known | {"price": given.price or "unknown"}),
        _facts("spec", "What was asked for.", given.spec),
        _facts("versions", "Versions.", given.versions),
    )


def _facts(name: str, caption: str, facts: Mapping[str, str]) -> Html:
    if not facts:
        return Html("")
    lines = [row(foreign(what), tag("code", told)) for what, told in facts.items()]
    return table(name, caption, ["what", "value"], lines, "words")


def repeat(command: str) -> Html:
    """Return the command that does it again."""
    return tag("pre", tag("code", prose(command)), tabindex="0") if command.strip() else Html("")
