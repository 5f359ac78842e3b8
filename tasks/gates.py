"""Gates that a dataset must pass when they were asked for: what would make its scores untrue."""

from __future__ import annotations

from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.ledger import Ledger


def judge(ledger: Ledger, config: DataConfig) -> None:
    """Refuse a dataset that overlaps more than is tolerated.

    Raises:
        DataError: With the gate, what was found, and what to do.
    """
    found, dev = ledger.overlap, ledger.kept["dev"]
    if found is None:
        return
    _gate(
        "max_leak_fraction",
        config.max_leak_fraction,
        found.dev_known / dev,
        f"{found.dev_known:,} dev rows are known from training: {found.dev_with_trained_prompt:,} share the prompt, "
        f"{found.dev_with_shared_run:,} of {found.dev_looked_at:,} looked at share "
        f"{found.run_characters} characters of the answer",
        "Take them out of train",
    )
    _gate(
        "max_near_fraction",
        config.max_near_fraction,
        found.near_rows / max(found.near_looked_at, 1),
        f"{found.near_rows:,} rows are near-duplicates of another",
        "Thin them out",
    )


def _gate(knob: str, tolerated: float, share: float, found: str, todo: str) -> None:
    if share > tolerated:
        raise DataError(
            f"data.{knob}: {found} (found {share:.2%}, at most {tolerated:.2%} are tolerated). "
            f"{todo}, or raise data.{knob}."
        )
