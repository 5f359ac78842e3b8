"""The rows that cannot be used: counted by reason, written down with their text, and judged by their share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import orjson

from tasks.errors import DataError
from tasks.ledger import FileAccount
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

    def judge(self, accounts: Iterable[FileAccount], tolerated: float) -> None:
        """Refuse a set of which too much cannot be used: a good split does not make up for a ruined one.

        Raises:
            DataError: The share of rejected rows of a split exceeds what is tolerated.
        """
        rows, rejected = Counter[str](), Counter[str]()
        for account in accounts:
            rows[account.split] += account.rows
            rejected[account.split] += account.rejected
        for split, bad in rejected.items():
            if bad > tolerated * rows[split]:
                raise self._refusal(split, bad, rows[split], tolerated)

    def _refusal(self, split: str, bad: int, rows: int, tolerated: float) -> DataError:
        by_reason = ", ".join(f"{count:,} {code}" for code, count in self.reasons.most_common(5))
        of = "" if split == "both" else f" of {split}"
        return DataError(
            f"{self.first}. {bad:,} of {rows:,} rows{of} cannot be used "
            f"(found {by_reason}; at most {tolerated:.2%} are tolerated). "
            "Mend them, or raise data.max_bad_fraction."
        )


def _writable(text: str) -> str:
    """Write half characters out, so that the line is UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
