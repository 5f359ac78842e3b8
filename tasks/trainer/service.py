"""The served model behind its line: what the HTTP side calls, whatever the dialect.

What a request leaves open is decoded as the job says and prompts are cut as in training, so that a
served answer equals the offline prediction. One request has a limited time, waiting included; it is
looked at after each token, and so is whether the server stops.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from . import generate
from .ask import Ask, Refusal
from .errors import TrainerError
from .generate import Answer
from .job import DecodeSpec
from .line import Line
from .model import Loaded
from .pieces import Pieces

WAITING = 32
"""Requests that may wait for the model."""
SECONDS = 120.0
"""Time for one request, waiting included."""
_UNKNOWN_CONTEXT = 4096


class Service:
    """A model that answers one request at a time, once it is loaded."""

    def __init__(
        self, name: str, defaults: DecodeSpec, waiting: int = WAITING, seconds: float = SECONDS
    ) -> None:
        self.name = name
        self.defaults = defaults
        self.created = int(time.time())
        self.longest = defaults.max_new_tokens
        """Most tokens that an answer may have."""
        self._line = Line(waiting)
        self._seconds = seconds
        self._loaded: Loaded | None = None

    def open(self, loaded: Loaded) -> None:
        """Answer once, to see that the model can, and then whoever asks."""
        short = replace(self.defaults, max_new_tokens=1)
        hello = [{"role": "user", "content": "你好"}]
        generate.answer(loaded, [hello], short, loaded.max_prompt_tokens)
        context = generate.context(loaded) or _UNKNOWN_CONTEXT
        self.longest = max(self.longest, context - loaded.max_prompt_tokens)
        self._loaded = loaded

    def close(self) -> None:
        """Stop answering: who waits is sent away, a generation ends at its next token."""
        self._line.close()

    def ready(self) -> Loaded:
        """Return the model that answers.

        Raises:
            Refusal: 503, it is still being loaded, or the server stops.
        """
        self._line.check_open()
        if self._loaded is None:
            raise Refusal(
                503,
                "server: the model is being loaded.",
                "overloaded_error",
                code="loading",
                headers={"Retry-After": "1"},
            )
        return self._loaded

    def answer(self, ask: Ask, tell: Callable[[str], None] | None = None) -> list[Answer]:
        """Answer the conversations of a request, in order.

        Args:
            ask: The request.
            tell: Gets the text of a single answer piece by piece while it is generated.

        Raises:
            Refusal: The model cannot express the conversation, or there is no time.
        """
        loaded = self.ready()
        until = time.monotonic() + self._seconds
        pieces = Pieces(loaded.tokenizer, tell) if tell else None

        def each(tokens: torch.Tensor) -> None:
            self._line.check(until)
            if pieces:
                pieces.add(tokens)

        with self._line.turn(until), _before_each_step(loaded, each):
            try:
                answers = generate.answer(
                    loaded, ask.conversations, ask.spec, loaded.max_prompt_tokens
                )
            except TrainerError as error:
                raise Refusal(400, str(error), param="messages") from error
        if pieces:
            pieces.end(answers[0].text)
        return answers


@contextlib.contextmanager
def _before_each_step(loaded: Loaded, each: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Call `each` with the input of every forward pass; what it raises ends the generation.

    The input is the prompt first, `(rows, width) int64`, then the token that was chosen last,
    `(rows, 1)`. It stands at the door of the model, so that it does not matter how the loop is written.
    """
    hook = loaded.model.register_forward_pre_hook(
        lambda _, __, inputs: each(inputs["input_ids"]), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()
