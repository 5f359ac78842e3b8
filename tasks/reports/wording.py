"""How texts and numbers read, the same on every page and in the terminal.

A value that is not finite reads `n/a`: a broken run must still be reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.artifacts import Interval

METRICS = {"rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L", "bleu_4": "BLEU-4"}
"""Titles of the scores of the protocol."""

RATIOS = ("length_ratio", "relative_coverage")
FLAGS = ("width_mismatch",)
"""Extras that are ratios around 1, and such that are 0 or 1; all others are shares from 0 to 1."""

MEANINGS = {
    "attribute_coverage": "of what the prompts ask for, what the answers say",
    "relative_coverage": "that share over the references' own",
    "contradiction": "answers that name a colour, fabric or the like which their prompt does not",
    "distinct_4": "different runs of 4 characters among all of them; low is monotonous",
    "repetition": "runs of 4 characters that an answer says again",
    "length_ratio": "characters of the answers over those of the references",
    "duplicates": "answers that an earlier row got as well",
    "cut": "answers that ended at the token limit",
    "width_mismatch": "answers and references write marks of another width, which lowers BLEU",
    "empty": "answers without a character; they score 0",
}
"""What the measures beside the protocol say."""

UNKNOWN = "n/a"

_PLAIN = str.maketrans({"–": "-", "…": "...", "·": "|", "→": "->", "↵": " ", "\u00a0": " "})
_LINE_ENDS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# The terminal obeys C0 and C1, bidirectional controls reorder the rest of the line, and half a
# surrogate pair cannot be sent at all.
_C0 = {code: 0x2400 + code for code in range(0x20)} | {0x09: ord("⇥"), 0x7F: 0x2421}
_UNSHOWABLE = re.compile(
    "[\x80-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str, line_end: str = "↵") -> str:
    """Return the text with a sign in place of each character that has no shape of its own."""
    lines = (line.translate(_C0) for line in _LINE_ENDS.split(text))
    return _UNSHOWABLE.sub("\ufffd", line_end.join(lines))


def fitting(text: str, encoding: str) -> str:
    """Return the text as an encoding can hold it: plainer signs for ours, `?` for the rest."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    return text


def clipped(text: str, limit: int) -> str:
    """Return the text, or its beginning with the number of characters that were left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… (+{len(text) - limit:,} characters)"


def number(value: float, digits: int = 1) -> str:
    """Return a number with a fixed count of decimals, or three digits of a huge one."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"{value:.{digits}f}" if abs(value) < 1e7 else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share from 0 to 1 in percent."""
    return f"{share * 100:.1f}%" if math.isfinite(share) else UNKNOWN


def interval(value: Interval) -> str:
    """Return a mean with its bounds, such as `24.1 (22.9–25.3)`."""
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return number(value.mean)
    return f"{number(value.mean)} ({value.low:.1f}–{value.high:.1f})"


def difference(value: Interval) -> str:
    """Return a difference with its bounds, such as `+3.2 (+1.1 to +5.3)`."""
    if not all(map(math.isfinite, (value.mean, value.low, value.high))):
        return UNKNOWN
    return f"{value.mean:+.1f} ({value.low:+.1f} to {value.high:+.1f})"


def title(name: str) -> str:
    """Return what a measure is called before a person."""
    return METRICS.get(name) or name.replace("distinct_", "distinct-").replace("_", " ")


def extra(name: str, value: float) -> str:
    """Return a measure beside the protocol: a share in percent, a ratio as it is, a flag in words."""
    if name in FLAGS:
        return "yes" if value else "no"
    return number(value, 2) if name in RATIOS else percent(value)


def reading(value: Interval) -> str:
    """Say what an interval of a difference means."""
    if value.low > 0:
        return "better"
    if value.high < 0:
        return "worse"
    return "no clear difference"


def duration(seconds: float) -> str:
    """Return a time span in the two units that matter."""
    if not math.isfinite(seconds) or seconds < 0:
        return UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rate(per_second: float, unit: str) -> str:
    """Return a pace, per minute when it is slower than one a second."""
    if not math.isfinite(per_second) or per_second <= 0:
        return UNKNOWN
    if per_second < 1:
        return f"{per_second * 60:.1f} {unit}/min"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 100 else f"{per_second:.1f} {unit}/s"


def quantile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that a share of the values does not exceed; NaN of none."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
