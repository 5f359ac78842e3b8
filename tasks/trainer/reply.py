"""What clients of a served model are told: the bodies of answers in the dialects of `ask.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generate import Answer


def usage(answer: Answer) -> dict[str, int]:
    """Return the token counts of an answer under OpenAI's names."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.answer_tokens,
        "total_tokens": answer.prompt_tokens + answer.answer_tokens,
    }


def invocation(answers: list[Answer], many: bool) -> Any:
    """Return the body for `/invocations`: a list where a list was sent."""
    replies = [{"answer": one.text, "finish": one.finish, "usage": usage(one)} for one in answers]
    return replies if many else replies[0]


@dataclass(frozen=True)
class Completion:
    """The identity of one chat completion, which all its events repeat."""

    id: str
    created: int
    model: str

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices}

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the body of an answer that is sent at once."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        end = {"logprobs": None, "finish_reason": answer.finish}
        choice = {"index": 0, "message": message, **end}
        return {**self._body("chat.completion", [choice]), "usage": usage(answer)}

    def piece(self, delta: Mapping[str, str], finish: str | None = None) -> dict[str, Any]:
        """Return one event of a stream."""
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return self._body("chat.completion.chunk", [choice])

    def counts(self, answer: Answer) -> dict[str, Any]:
        """Return the event with the token counts, which has no choices."""
        return {**self._body("chat.completion.chunk", []), "usage": usage(answer)}


def model(name: str, created: int) -> dict[str, Any]:
    """Return how `/v1/models` describes the served model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "local"}
