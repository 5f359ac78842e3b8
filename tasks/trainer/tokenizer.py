"""Loads the tokenizer of a model directory: without torch, so that lengths can be measured in seconds.

A tokenizer without a token for padding (MPT, Llama) pads with the one that ends a text: what is padded is never
scored nor looked at.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from . import chatglm_tokenizer
from .errors import ConfigError


def load(home: Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer in its fast form; ChatGLM's are rebuilt from the files they are published with.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    tokenizer = _load(home)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load(home: Path) -> PreTrainedTokenizerFast:
    if not (home / "tokenizer.json").is_file():
        if any((home / name).is_file() for name in chatglm_tokenizer.FILES):
            return chatglm_tokenizer.load(home)
        raise ConfigError(
            f"{home}: no tokenizer.json. Save the tokenizer in its fast form beside the weights."
        )
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            home, local_files_only=True
        )
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(f"{home}: the tokenizer cannot be read ({reason}).") from error
    return tokenizer
