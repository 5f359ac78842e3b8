"""What clients of a served model may send: JSON only, no HTTP, no torch.

Two dialects become one `Ask`. `/invocations` is the one of an endpoint container; the other is
OpenAI's chat completions, so that its client libraries work. What a request leaves open is taken
from the decoding that is stored with the job: a served answer then equals the offline prediction.
Anything unknown is refused by name, because a parameter that is silently dropped answers another
question than the one that was asked. Parameters of OpenAI's dialect that change nothing at their
neutral value are accepted at that value only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from .job import DecodeSpec

Conversation = list[dict[str, str]]

MOST_CONVERSATIONS = 64
"""Conversations in one request."""
GREEDY_BELOW = 0.01
"""A lower temperature is taken as 0: dividing by it overflows, and the likeliest token wins anyway."""

_ROLES = ("system", "user", "assistant")
_SOURCES = ("messages", "prompt", "inputs")
_PARAMETERS = {name: name for name in ("max_new_tokens", "temperature", "top_p", "seed")}
_CHAT_PARAMETERS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
}
_CHAT_FIELDS = {"model", "messages", "stream", "stream_options", *_CHAT_PARAMETERS}
_CHAT_LABELS = {"user", "metadata", "store", "safety_identifier", "service_tier"}
_CHAT_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
}


class Refusal(Exception):
    """A request that gets an error status instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the error in the shape that both dialects read."""
        named = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": named}


@dataclass(frozen=True)
class Ask:
    """A request that can be answered."""

    conversations: list[Conversation]
    spec: DecodeSpec
    many: bool = False
    """A list was sent, so a list is returned."""
    stream: bool = False
    counted: bool = False
    """The last event of a stream carries the token counts."""


def _refuse(param: str, what: str) -> NoReturn:
    raise Refusal(400, f"{param}: {what}", param=param)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f"found {text if len(text) <= 60 else text[:57] + '...'}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse(body: bytes) -> dict[str, Any]:
    """Read the JSON object of a request.

    Raises:
        Refusal: 400, it is not JSON, not UTF-8, nested too deeply, or no object.
    """
    try:
        fields = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise Refusal(400, "body: is nested too deeply") from None
    except ValueError as error:  # also bad UTF-8 and numbers of thousands of digits
        raise Refusal(400, f"body: is not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise Refusal(400, f"body: must be a JSON object ({_shown(fields)})")
    return fields


def _known(fields: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    names = sorted(known)
    for name in fields:
        if name not in names:
            _refuse(f"{where}{name}", f"is not known here. Known: {', '.join(names)}")


def _object(fields: Mapping[str, Any], name: str, known: Iterable[str]) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(name, f"must be an object ({_shown(value)})")
    _known(value, known, f"{name}.")
    return value


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        _refuse(param, f"must be text ({_shown(value)})")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(param, "holds half of a surrogate pair, which is no character")
    return value


def _parts(value: Any, param: str) -> Any:
    """Join the text parts that OpenAI's dialect allows in place of a text."""
    if not isinstance(value, list):
        return value
    texts = []
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text":
            _refuse(f"{param}[{index}]", f'must be {{"type": "text", "text": …}} ({_shown(part)})')
        texts.append(_text(part.get("text"), f"{param}[{index}].text"))
    return "".join(texts)


def conversation(value: Any, param: str = "messages") -> Conversation:
    """Check the messages of one conversation, which must end with the user's."""
    if not isinstance(value, list) or not value:
        _refuse(param, f"must be a list of messages ({_shown(value)})")
    messages: Conversation = []
    for index, message in enumerate(value):
        where = f"{param}[{index}]"
        if not isinstance(message, dict):
            _refuse(where, f"must be an object with role and content ({_shown(message)})")
        said = {name: value for name, value in message.items() if value is not None}
        _known(said, ("role", "content", "name"), f"{where}.")
        role = "system" if message.get("role") == "developer" else message.get("role")
        if role not in _ROLES:
            _refuse(f"{where}.role", f"must be one of {', '.join(_ROLES)} ({_shown(role)})")
        content = _parts(message.get("content"), f"{where}.content")
        messages.append({"role": role, "content": _text(content, f"{where}.content")})
    if messages[-1]["role"] != "user":
        _refuse(param, f"must end with a message of the user ({_shown(messages[-1]['role'])})")
    return messages


def _number(value: Any, param: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        _refuse(param, f"must be a number from {low:g} to {high:g} ({_shown(value)})")
    return float(value)


def _whole(value: Any, param: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        _refuse(param, f"must be a whole number from {low} to {high} ({_shown(value)})")
    return value


def _decoding(
    fields: Mapping[str, Any], names: Mapping[str, str], defaults: DecodeSpec, longest: int
) -> DecodeSpec:
    """Replace the defaults by what a request says; null says nothing."""
    said: dict[str, Any] = {}
    for given, own in names.items():
        value = fields.get(given)
        if value is None:
            continue
        if own in said:
            _refuse(given, "says the same as max_tokens: give one of them")
        if own == "temperature":
            heat = _number(value, given, 0, 2)
            said[own] = heat if heat >= GREEDY_BELOW else 0.0
        elif own == "top_p":
            said[own] = _number(value, given, math.ulp(0.0), 1)
        elif own == "seed":
            said[own] = _whole(value, given, 0, 2**63 - 1)
        else:
            said[own] = _whole(value, given, 1, longest)
    return replace(defaults, **said)


def invocation(fields: Mapping[str, Any], defaults: DecodeSpec, longest: int) -> Ask:
    """Read the body of `/invocations`.

    Raises:
        Refusal: 400, with the name of the field and what it should be.
    """
    _known(fields, (*_SOURCES, "parameters"))
    sources = [name for name in _SOURCES if name in fields]
    if len(sources) != 1:
        found = ", ".join(sources) or "none"
        raise Refusal(400, f"body: must have one of {', '.join(_SOURCES)} (found {found})")
    parameters = _object(fields, "parameters", _PARAMETERS)
    spec = _decoding(parameters, _PARAMETERS, defaults, longest)
    value = fields[sources[0]]
    if sources[0] == "messages":
        return Ask([conversation(value)], spec)
    many = sources[0] == "inputs" and isinstance(value, list)
    if many and not 1 <= len(value) <= MOST_CONVERSATIONS:
        _refuse("inputs", f"must be 1 to {MOST_CONVERSATIONS} texts (found {len(value)})")
    texts = value if many else [value]
    place = "inputs[{}]" if many else sources[0]
    asked = [
        [{"role": "user", "content": _text(text, place.format(index))}]
        for index, text in enumerate(texts)
    ]
    return Ask(asked, spec, many=many)


def chat(fields: Mapping[str, Any], model: str, defaults: DecodeSpec, longest: int) -> Ask:
    """Read the body of `/v1/chat/completions`.

    Raises:
        Refusal: 400 with the name of the field and what it should be, or 404 for another model.
    """
    _known(fields, (*_CHAT_FIELDS, *_CHAT_NEUTRAL, *_CHAT_LABELS))
    for name, neutral in _CHAT_NEUTRAL.items():
        value = fields.get(name)
        if value is not None and value not in neutral:
            only = " or ".join(json.dumps(one) for one in neutral)
            _refuse(name, f"is supported only as {only} ({_shown(value)})")
    named(_text(fields.get("model"), "model"), model)
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        _refuse("stream", f"must be true or false ({_shown(stream)})")
    options = _object(fields, "stream_options", ("include_usage", "include_obfuscation"))
    if options and not stream:
        _refuse("stream_options", f"needs stream: true ({_shown(options)})")
    asked = conversation(fields.get("messages"))
    spec = _decoding(fields, _CHAT_PARAMETERS, defaults, longest)
    return Ask([asked], spec, stream=bool(stream), counted=options.get("include_usage") is True)


def named(asked: str, served: str) -> None:
    """Refuse any model but the one that is served."""
    if asked != served:
        message = f"model: {asked!r} is not served here. Served: {served!r}"
        raise Refusal(404, message, param="model", code="model_not_found")
