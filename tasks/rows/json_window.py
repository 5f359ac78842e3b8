"""The part of a JSON text that is held in memory, and the place in it that reading has come to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.rows import MAX_ROW

CHUNK = 1 << 20
"""Bytes that are added at least."""
AHEAD = 8192
"""Bytes that are there beyond a place that was reached, unless the text ends before."""
BEHIND = 512
"""Bytes that stay there before it."""

_SEPARATORS = re.compile(rb"(?:[ \t\r\n,\[\]]++|\xef\xbb\xbf)*+")
_OVERLAP = 1024  # longer than what is looked for


class Window:
    """Bytes of a text that move on; places are counted from where it begins."""

    def __init__(self, chunks: Iterator[bytes], chunk: int = CHUNK):
        self._chunks = chunks
        self.chunk = max(chunk, AHEAD)
        self.text = b""
        self.at = 0
        """The place that reading has come to."""
        self.base = 0
        """Bytes of the text before the window."""
        self.ended = False
        """Whether the window holds the end of the text."""
        self.newline = b""
        r"""What ends a line: \n, or \r where the text begins without any \n."""
        self.most = 0
        """Bytes of the largest window so far."""
        self._line, self._counted = 1, 0

    def more(self, keep: int) -> int:
        """Read on; drop what lies well before the place `keep`, and return how many bytes that were."""
        self.line_at(keep)
        dropped = max(0, keep - BEHIND)
        parts, held = [self.text[dropped:]], len(self.text) - dropped
        # as much again as is held: a long row is not looked at more than twice
        wanted = held + max(self.chunk, min(held, MAX_ROW + self.chunk - held))
        while held < wanted and not self.ended:
            part = next(self._chunks, None)
            self.ended = part is None
            parts.append(part or b"")
            held += len(parts[-1])
        self.text = b"".join(parts)
        self.most = max(self.most, held)
        self.base += dropped
        self.at -= dropped
        self._counted -= dropped
        if not self.newline:
            returns = b"\n" not in self.text and b"\r" in self.text[:-1]
            self.newline = b"\r" if returns else b"\n"
        return dropped

    def line_at(self, at: int) -> int:
        """Return the number of the line at a place; places are asked for in their order."""
        if at > self._counted:
            self._line += self.text.count(self.newline, self._counted, at)
            self._counted = at
        return self._line

    def move(self, at: int, line: int) -> None:
        """Go to a place whose line is known."""
        self.at, self._line, self._counted = at, line, at

    def reach(self) -> bool:
        """Go to what does not only separate rows; false at the end of the text."""
        while True:
            skipped = _SEPARATORS.match(self.text, self.at)
            self.at = skipped.end() if skipped else self.at
            if self.ended:
                return self.at < len(self.text)
            if len(self.text) - self.at >= AHEAD:
                return True
            self.more(self.at)

    def seek(self, wanted: re.Pattern[bytes], at: int, late: re.Pattern[bytes] | None) -> None:
        """Go to the last byte of what is wanted, looked for from `at` on, or to the end of the text.

        Args:
            wanted: It must match, and look, at less than 1,024 bytes.
            at: Where to begin.
            late: What will do instead once MAX_ROW bytes were looked at.
        """
        start = self.base + at
        while True:
            found = wanted.search(self.text, at)
            # what is looked for may look further than it goes
            if self.ended or (found and found.end() <= len(self.text) - _OVERLAP):
                break
            at = found.start() if found else max(at, len(self.text) - _OVERLAP)
            at -= self.more(at)
            if late and self.base + at - start > MAX_ROW:
                wanted = late
        self.at = found.end() - 1 if found else len(self.text)
