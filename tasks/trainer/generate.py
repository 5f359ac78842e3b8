"""Answers conversations in batches: prompts padded on the left, one forward pass a token.

Decisions:

* An own loop. Prompts are sorted by length, masks and positions come finished (`views.py`), keys and values go where
  there is room (`cache.py`), rows that have ended leave. `python -m bench.generation` measures it.
* An answer must not depend on who else is in the batch. What a row sees is the same in any batch, so that
  logits differ by rounding only, and each prompt has numbers of its own to draw with (`drawing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from . import cache, drawing, families
from .errors import ConfigError, Interrupted
from .families import Messages
from .fitting import fit_prompt
from .job import DecodeSpec
from .model import Loaded, within_memory
from .views import window

if TYPE_CHECKING:
    from .stopping import Stop


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    finish: Literal["stop", "length"]
    """Whether the model ended the answer itself, or the limit did."""
    prompt_tokens: int
    answer_tokens: int
    """Tokens of the text; the stop token is not counted."""


def answer(
    loaded: Loaded,
    conversations: list[list[dict[str, str]]],
    spec: DecodeSpec,
    max_prompt_tokens: int,
    stop: Stop | None = None,
) -> list[Answer]:
    """Answer each conversation, in order, `spec.batch_rows` at a time.

    Raises:
        ConfigError: The limits leave no room for an answer, or the memory does not suffice.
        DataError: The model's family cannot express a conversation.
        Interrupted: `stop` was asked for between two tokens.
    """
    prompts = encode(loaded, conversations, max_prompt_tokens)
    return reply(loaded, prompts, spec, stop)


def encode(
    loaded: Loaded, conversations: Sequence[Messages], max_prompt_tokens: int
) -> list[list[int]]:
    """Return the ids of the prompts, in order, cut to the limit.

    Raises:
        DataError: The model's family cannot express a conversation.
    """
    family, tokenizer = loaded.family, loaded.tokenizer
    whole = families.prompts(family, tokenizer, conversations)
    return [
        fit_prompt(family, tokenizer, messages, max_prompt_tokens, ids)[0]
        for messages, ids in zip(conversations, whole, strict=True)
    ]


def reply(
    loaded: Loaded, prompts: list[list[int]], spec: DecodeSpec, stop: Stop | None = None
) -> list[Answer]:
    """Answer each prompt, in order, `spec.batch_rows` at a time, the longest first.

    Raises:
        ConfigError: The limits leave no room for an answer, or the memory does not suffice.
        Interrupted: `stop` was asked for between two tokens.
    """
    answers: dict[int, Answer] = {}
    for rows in batches(prompts, spec):
        with within_memory("batch_rows or max_new_tokens"):
            replies = _Batch(loaded, [prompts[row] for row in rows], spec).replies(stop)
        for row, ids in zip(rows, replies, strict=True):
            answers[row] = _answer(loaded, prompts[row], ids)
    return [answers[row] for row in range(len(prompts))]


def batches(prompts: list[list[int]], spec: DecodeSpec) -> list[list[int]]:
    """Return which prompts are answered together: the longest first, where memory would run out."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    return [order[i : i + spec.batch_rows] for i in range(0, len(order), spec.batch_rows)]


def _answer(loaded: Loaded, prompt: list[int], ids: list[int]) -> Answer:
    stopped = bool(ids) and ids[-1] in loaded.family.stop_ids(loaded.tokenizer)
    said = ids[:-1] if stopped else ids
    text = loaded.tokenizer.decode(
        said, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Answer(str(text), "stop" if stopped else "length", len(prompt), len(said))


class _Batch:
    """Prompts that are answered together; rows that have ended leave it."""

    def __init__(self, loaded: Loaded, prompts: list[list[int]], spec: DecodeSpec) -> None:
        self._model, self._device = loaded.model, loaded.device
        self._spec = spec
        self._stops = torch.tensor(loaded.family.stop_ids(loaded.tokenizer), device=self._device)
        self._width = max(map(len, prompts))
        rooms = [_room(loaded, len(prompt), spec) for prompt in prompts]
        self._limit, self._rooms = max(rooms), torch.tensor(rooms, device=self._device)
        self._replies: list[list[int]] = [[] for _ in prompts]
        self._rows = torch.arange(len(prompts), device=self._device)
        self._ids = torch.zeros((len(prompts), self._width), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            self._ids[row, self._width - len(prompt) :] = torch.tensor(prompt)
        self._ids = self._ids.to(self._device)
        padding = torch.tensor([self._width - len(p) for p in prompts], device=self._device)
        view, dtype = loaded.view, loaded.model.get_input_embeddings().weight.dtype
        prefix = loaded.prefix
        self._passes = view.passes(self._ids, padding, prefix.tokens if prefix else 0, dtype)
        held = prefix.cache(len(prompts), growing=True) if prefix else None
        self._cache = cache.begun(held, padding if view.padding_first else None)
        if spec.temperature > 0:
            numbers = drawing.numbers(prompts, spec.seed, self._limit)
            self._numbers = numbers.to(self._device)

    @torch.inference_mode()
    def replies(self, stop: Stop | None) -> list[list[int]]:
        """Return the ids of each reply; a stop token ends those that stopped."""
        ids = self._ids
        for step in range(self._limit):
            if stop is not None and stop.asked:
                raise Interrupted("interrupted between two tokens.")
            output = self._model(
                input_ids=ids,
                **self._passes.inputs(step),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
            chosen = self._choose(output.logits[:, -1], step)
            going = self._keep(chosen) & (step + 1 < self._rooms[self._rows])
            if not going.any():
                break
            if not going.all():
                kept = going.nonzero()[:, 0]
                self._cache.batch_select_indices(kept)
                self._passes.select(kept)
                chosen, self._rows = chosen[kept], self._rows[kept]
            ids = chosen[:, None]
        return self._replies

    def _choose(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """Return the next id of each row; `logits: (rows, vocabulary)`."""
        if self._spec.temperature == 0:
            return logits.argmax(-1)
        likely = (logits.float() / self._spec.temperature).softmax(-1)
        return drawing.draw(likely, self._spec.top_p, self._numbers[self._rows, step])

    def _keep(self, chosen: torch.Tensor) -> torch.Tensor:
        """Record the chosen ids and say which rows have not stopped."""
        for row, token in zip(self._rows.tolist(), chosen.tolist(), strict=True):
            self._replies[row].append(token)
        return ~torch.isin(chosen, self._stops)


def context(loaded: Loaded) -> int | None:
    """Return how many tokens prompt and answer may have together; None where the model does not say."""
    holds = window(loaded.model.config)
    if holds is None or loaded.prefix is None:
        return holds
    return holds - loaded.prefix.tokens


def _room(loaded: Loaded, prompt: int, spec: DecodeSpec) -> int:
    """Return how many tokens an answer may have."""
    holds = context(loaded)
    if holds is None:
        return spec.max_new_tokens
    if prompt >= holds:
        raise ConfigError(
            f"max_prompt_tokens: a prompt of {prompt} tokens leaves no room for an answer "
            f"(the model holds {holds}). Lower it."
        )
    return min(spec.max_new_tokens, holds - prompt)
