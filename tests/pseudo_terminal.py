"""A real pseudo-terminal whose output is collected, and what its screen shows in the end."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class Screen:
    """The little that rich asks of a terminal: lines, erasing, moving up."""

    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif part[0] != "\x1b":
                old = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = old[: self.column] + part + old[self.column + len(part) :]
                self.column += len(part)
            elif part[-1] == "A":
                self.row -= int(part[2:-1] or 1)
            elif part[-1] == "K":
                self.lines[self.row] = ""
            else:
                assert part[-1] in "mhl", part


@dataclass
class Terminal:
    """A pseudo-terminal whose output is collected."""

    stream: TextIO
    master: int
    received: bytearray = field(default_factory=bytearray)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 4096)
            except OSError:  # Linux says so when the other end is closed
                return
            with self.changed:
                self.received += data
                self.changed.notify_all()

    def text(self) -> str:
        return self.received.decode(errors="ignore")

    def wait_for(self, words: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: words in self.text(), timeout=20), self.text()


@contextmanager
def opened() -> Iterator[Terminal]:
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w", encoding="utf-8")
    shown = Terminal(stream, master)
    reader = threading.Thread(target=shown.read)
    reader.start()
    try:
        yield shown
    finally:
        stream.close()
        reader.join()
        os.close(master)
