"""An answer as server-sent events, in the shape of OpenAI's chat completions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .ask import Refusal
from .generate import Answer
from .reply import Completion

if TYPE_CHECKING:
    from .web import Connection


class Events:
    """The events of one streamed answer.

    The status is sent with the first piece, so that a request that is refused before has its own.
    """

    def __init__(self, connection: Connection, completion: Completion) -> None:
        self._connection = connection
        self._completion = completion
        self._chunked = connection.request_version != "HTTP/1.0"
        self.begun = False

    def tell(self, text: str) -> None:
        """Send a piece of the answer."""
        self._begin()
        self._event(self._completion.piece({"content": text}))

    def finish(self, answer: Answer, counted: bool) -> None:
        """Send how the answer ended, and the end."""
        self._begin()
        self._event(self._completion.piece({}, answer.finish))
        if counted:
            self._event(self._completion.counts(answer))
        self._write(b"data: [DONE]\n\n")
        self._end()

    def fail(self, refusal: Refusal) -> None:
        """Send what stopped the answer, and no end that would look like a good one."""
        self._event(refusal.body())
        self._end()

    def _begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        if not self._chunked:
            self._connection.close_connection = True
        frame = {"Transfer-Encoding": "chunked"} if self._chunked else {}
        kind = {"Content-Type": "text/event-stream; charset=utf-8"}
        self._connection.begin(200, {**kind, **frame, "X-Accel-Buffering": "no"})
        self._event(self._completion.piece({"role": "assistant", "content": ""}))

    def _event(self, body: Any) -> None:
        self._write(b"data: %s\n\n" % json.dumps(body, ensure_ascii=False).encode())

    def _write(self, data: bytes) -> None:
        frame = b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data
        self._connection.wfile.write(frame)

    def _end(self) -> None:
        if self._chunked:
            self._connection.wfile.write(b"0\r\n\r\n")
