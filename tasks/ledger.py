"""The account of a conversion: every row that was read is kept, a duplicate, or rejected, and the three add up.

`ledger.json` lies beside the rows; what was rejected stands in `rejected.jsonl` with file, line, reason and raw
text. Nothing here knows how rows are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import orjson
from pydantic import BaseModel, ConfigDict, model_validator

LEDGER = "ledger.json"


class FileAccount(BaseModel):
    """What became of the rows of one file."""

    model_config = ConfigDict(extra="forbid")

    file: str
    split: str
    """`train`, `dev`, or `both` where rows were held out by their prompt."""
    container: str
    """How the rows lie in the file: JSON, CSV, TSV, Parquet."""
    encoding: str
    format: str
    rows: int = 0
    kept: int = 0
    duplicates: int = 0
    rejected: int = 0
    unread: bool = False
    """Whether reading ended at the limit, before the end of the file."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.rows != self.kept + self.duplicates + self.rejected:
            raise ValueError(f"{self.file}: the rows do not add up ({self})")
        return self


class Overlap(BaseModel):
    """What rows share that should not: measured on the kept rows."""

    model_config = ConfigDict(extra="forbid")

    run_characters: int
    """Length of the runs that were looked for."""
    dev_looked_at: int
    """Dev rows whose answers were searched for in the training answers."""
    dev_with_shared_run: int
    """Of those, the rows that share a run of characters with a training answer."""
    shared_runs: list[str]
    """Some of those runs."""
    dev_with_trained_prompt: int
    """Dev rows whose prompt is also a training prompt."""
    dev_known: int
    """Dev rows of which either is true."""
    near_looked_at: int
    """Rows that were compared with each other, the first ones, dev before train."""
    near_pairs: int
    """Pairs of near-duplicates among them."""
    near_rows: int
    """Rows in such a pair."""
    near_complete: bool
    """Whether every candidate was compared; if not, there are at least so many."""


class Ledger(BaseModel):
    """The whole account of one dataset."""

    model_config = ConfigDict(extra="forbid")

    files: list[FileAccount]
    kept: dict[str, int]
    """Rows by split."""
    beyond_limit: int
    """Training rows that were read and kept, and then left out, because of `data.limit`."""
    repeated_prompts: dict[str, int]
    """By split, rows whose prompt an earlier row of the split has."""
    reasons: dict[str, int]
    """Rejected rows by reason code, the most frequent first."""
    split_by: str
    """`file names` or `a hash of the prompt`."""
    template: str
    """What stands around each prompt; empty is nothing."""
    left_out: list[str]
    """Files that were not read: test files beside dev files, files that only describe the others."""
    overlap: Overlap | None
    """None where it was not looked for."""

    @property
    def rows(self) -> int:
        """Count the rows that were read."""
        return sum(file.rows for file in self.files)

    @property
    def duplicates(self) -> int:
        """Count the rows that say the same as an earlier one."""
        return sum(file.duplicates for file in self.files)

    @property
    def rejected(self) -> int:
        """Count the rows that cannot be used."""
        return sum(file.rejected for file in self.files)

    @property
    def format(self) -> str:
        """Name the format, or the formats when files differ."""
        return ", ".join(sorted({file.format for file in self.files if file.format})) or "none"

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        kept, rejected = sum(file.kept for file in self.files), sum(self.reasons.values())
        if (sum(self.kept.values()) + self.beyond_limit, self.rejected) != (kept, rejected):
            raise ValueError(f"the rows do not add up ({self})")
        return self

    def write(self, folder: Path) -> None:
        """Write `ledger.json`."""
        (folder / LEDGER).write_bytes(
            orjson.dumps(self.model_dump(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """Read what `write` wrote."""
        return cls.model_validate_json((folder / LEDGER).read_bytes())
