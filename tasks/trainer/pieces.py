"""The text of an answer while it is generated, in pieces that add up to the whole.

A token is not a character: one Chinese character may take three of them, and until the last of these
the decoder shows U+FFFD in its place. Text is therefore held back while it ends so. Tokens are decoded
together with those of the piece before, because some tokenizers drop the blank before a first word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Pieces:
    """Turns the tokens of one answer into text for `tell`, as early as it is certain."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tell: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._tell = tell
        self._begun = False
        self._ids: list[int] = []
        self._from = 0
        """First token of the last piece."""
        self._told = 0
        """Tokens that have been told."""
        self._text = ""

    def add(self, inputs: torch.Tensor) -> None:
        """Take the input of the next forward pass, `(1, width) int64`: the prompt, then each token."""
        if not self._begun:
            self._begun = True
            return
        self._ids.append(int(inputs[0, -1]))
        before = self._decode(self._ids[self._from : self._told])
        now = self._decode(self._ids[self._from :])
        if len(now) > len(before) and not now.endswith(_INCOMPLETE):
            self._from, self._told = self._told, len(self._ids)
            self._send(now[len(before) :])

    def end(self, text: str) -> None:
        """Tell what is left of the finished answer."""
        self._send(text[len(self._text) :])

    def _send(self, piece: str) -> None:
        if piece:
            self._text += piece
            self._tell(piece)

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)
