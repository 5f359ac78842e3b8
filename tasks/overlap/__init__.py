"""What texts share: runs of characters between splits, and near-duplicates. Counted, never removed.

`Runs` counts the dev answers that share a run of characters with a training answer; each find is
compared character by character. `Near` counts pairs of texts that are nearly the same; each pair is
verified, and `expected_recall` says how many are found. Both take texts in batches of some thousands:
numpy hashes all windows of a batch at once.
"""

from tasks.overlap.near import Found, Near, expected_recall
from tasks.overlap.runs import Runs

__all__ = ["Found", "Near", "Runs", "expected_recall"]
