"""The rows that cannot be used: counted by reason, written down with their text, and judged by their share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import orjson

from tasks.errors import DataError
from tasks.rows import Bad

REJECTED = "rejected.jsonl"


class Rejections:
    """The rows that cannot be used: counted by reason, and written down as they come."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / REJECTED).open("wb")
        self.reasons: Counter[str] = Counter()
        self.first = ""
        """The first of them, as `file:line: reason`."""

    def add(self, file: str, bad: Bad) -> None:
        """Write one row down."""
        self.reasons[bad.code] += 1
        if not self.first:
            self.first = f"{file}:{bad.line}: {bad.reason}"
        row = {
            "file": file,
            "line": bad.line,
            "code": bad.code,
            "reason": _writable(bad.reason),
            "raw": _writable(bad.raw),
        }
        self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def judge(self, rows: int, tolerated: float) -> None:
        """Refuse a set of which too much cannot be used.

        Raises:
            DataError: The share of rejected rows exceeds what is tolerated.
        """
        rejected = sum(self.reasons.values())
        if rejected <= tolerated * rows:
            return
        by_reason = ", ".join(f"{count:,} {code}" for code, count in self.reasons.most_common(5))
        raise DataError(
            f"{self.first}. {rejected:,} of {rows:,} rows cannot be used "
            f"(found {by_reason}; at most {tolerated:.2%} are tolerated). "
            "Mend them, or raise data.max_bad_fraction."
        )


def _writable(text: str) -> str:
    """Write half characters out, so that the line is UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
