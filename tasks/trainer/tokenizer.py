"""Loads the tokenizer of a model directory: without torch, so that lengths can be measured in seconds."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .errors import ConfigError


def load(home: Path) -> PreTrainedTokenizerFast:
    """Load a tokenizer in its fast form.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    if not (home / "tokenizer.json").is_file():
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
