"""One conversation after the other with a server that speaks OpenAI's chat completions."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from tasks.errors import ConfigError, JobFailed, TransientError
from tasks.trainer.job import DecodeSpec

KEY = "FINETUNE_ENDPOINT_KEY"
"""Environment variable that holds the key of a server that wants one."""
_TRIES = 5
_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What was answered."""

    text: str
    finish: str
    """`stop`, or `length` where the limit ended it."""


class Endpoint:
    """A server and the model that is asked there.

    Args:
        url: Address, without `/v1`.
        model: Name of the model; empty takes the first that the server lists.
        seconds: Time for one answer.
        where: The section that names it, for messages.

    Raises:
        ConfigError: There is no server, no such model, or it refuses the key.
    """

    def __init__(self, url: str, model: str, seconds: float, where: str = "endpoint") -> None:
        self._where = where
        key = os.environ.get(KEY, "")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(
            timeout=seconds, headers={"Authorization": f"Bearer {key}"} if key else {}
        )
        served = self._served()
        if model and model not in served:
            raise ConfigError(
                f"{where}.model: {self._url} serves no {model!r} (found {', '.join(served)}). "
                "Name one of them."
            )
        self.model = model or served[0]

    def key(self, rows: str, spec: DecodeSpec) -> str:
        """Return what tells these answers from others of this server."""
        parts = [self._url, self.model, rows, asdict(spec)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def answer(self, messages: list[dict[str, str]], spec: DecodeSpec) -> Answer:
        """Ask for one answer; a server that is busy is asked again.

        Raises:
            JobFailed: It refuses the request.
            TransientError: It stays busy, or away.
        """
        body = {
            "model": self.model,
            "messages": messages,
            "max_tokens": spec.max_new_tokens,
            "temperature": spec.temperature,
            "top_p": spec.top_p,
            "seed": spec.seed,
        }
        for attempt in range(_TRIES):
            reply = self._post(body)
            if reply.status_code == httpx.codes.OK:
                return _answer(reply, self._url)
            if reply.status_code not in (408, 429, 500, 502, 503, 504):
                raise JobFailed(
                    f"{self._url}: refuses to answer (status {reply.status_code}: "
                    f"{reply.text[:200]}). See what its log says."
                )
            if attempt + 1 < _TRIES:
                time.sleep(_pause(reply, attempt))
        raise TransientError(
            f"{self._url}: is busy (status {reply.status_code}, {_TRIES} times). "
            "Run again: what it has answered is kept."
        )

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        try:
            return self._client.post(f"{self._url}/v1/chat/completions", json=body)
        except httpx.HTTPError as reason:
            raise TransientError(
                f"{self._url}: does not answer ({type(reason).__name__}: {reason}). "
                "Run again: what it has answered is kept."
            ) from reason

    def _served(self) -> list[str]:
        try:
            reply = self._client.get(f"{self._url}/v1/models")
        except (httpx.HTTPError, httpx.InvalidURL) as reason:
            raise ConfigError(
                f"{self._where}.url: {self._url} does not answer ({type(reason).__name__}: {reason}). "
                "Start the server, or name another."
            ) from reason
        if reply.status_code in (401, 403):
            raise ConfigError(
                f"{self._where}.url: {self._url} refuses the key (status {reply.status_code}). "
                f"Put its key into the environment as {KEY}."
            )
        try:
            names = [str(each["id"]) for each in reply.json()["data"]]
        except (ValueError, KeyError, TypeError) as reason:
            raise ConfigError(
                f"{self._where}.url: {self._url} does not speak OpenAI's interface (status "
                f"{reply.status_code} at /v1/models). Name the address without /v1."
            ) from reason
        if not names:
            raise ConfigError(
                f"{self._where}.url: {self._url} serves no model (found none). Load one there."
            )
        return names


def _answer(reply: httpx.Response, url: str) -> Answer:
    try:
        choice = reply.json()["choices"][0]
        return Answer(choice["message"]["content"] or "", choice.get("finish_reason") or "stop")
    except (ValueError, KeyError, IndexError, TypeError) as reason:
        raise JobFailed(
            f"{url}: its reply holds no answer ({reply.text[:200]}). See what its log says."
        ) from reason


def _pause(reply: httpx.Response, attempt: int) -> float:
    """Return the seconds to wait: what the server asks for, else longer each time."""
    asked = reply.headers.get("Retry-After", "")
    return min(_LONGEST_WAIT_SECONDS, float(asked) if asked.isdigit() else 2.0**attempt)
