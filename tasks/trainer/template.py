"""What stands around the text of a person: the prompt template of a dataset, and of the models trained on it.

A dataset says its template in `dataset.json` beside its rows; a tuned model keeps it in its own record and is
asked with that, wherever it is asked. `{prompt}` stands in it once and is replaced as it is: other braces are
just braces. The rows, the predictions and the requests to a served model hold the raw text; the template comes
around every message of the user at the one place where all prompts are rendered, in `Templated`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import families
from .errors import ConfigError
from .families import Family, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILE = "dataset.json"
_PLACE = "{prompt}"


class Templated:
    """A family whose users speak through a template."""

    def __init__(self, family: Family, template: str) -> None:
        self.template = template
        self.ARCHITECTURES = family.ARCHITECTURES
        self.LORA_TARGETS = family.LORA_TARGETS
        self._family = family
        self._before, _, self._after = template.partition(_PLACE)

    def __getattr__(self, name: str) -> Any:
        """Return what only the family itself says: one of the names that `families.option` asks for."""
        if name.isupper():
            return getattr(self._family, name)
        raise AttributeError(name)

    def prompt(self, tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
        """Return the ids up to where the answer begins."""
        return self._family.prompt(tokenizer, self._around(messages))

    def prompts(
        self, tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages]
    ) -> list[list[int]]:
        """Return the ids of many prompts."""
        return families.prompts(self._family, tokenizer, [self._around(c) for c in conversations])

    def answer(self, tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
        """Return the ids of an answer, its stop token included."""
        return self._family.answer(tokenizer, text)

    def answers(self, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many answers."""
        return families.answers(self._family, tokenizer, texts)

    def stop_ids(self, tokenizer: PreTrainedTokenizerFast) -> list[int]:
        """Return the ids of which any one ends an answer."""
        return self._family.stop_ids(tokenizer)

    def _around(self, messages: Messages) -> Messages:
        return [
            {**message, "content": f"{self._before}{message['content']}{self._after}"}
            if message["role"] == "user"
            else message
            for message in messages
        ]


def templated(family: Family, template: str) -> Family:
    """Return the family, with a template around what users say; an empty one is none."""
    return Templated(family, template) if template else family


def of(family: Family) -> str:
    """Return the template that a family speaks through; empty for none."""
    return family.template if isinstance(family, Templated) else ""


def of_dataset(folder: Path) -> str:
    """Return the template of a dataset; empty where it has none.

    Raises:
        ConfigError: `dataset.json` cannot be read, or its template has not one place for the prompt.
    """
    path = folder / FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Convert the data again.") from error
    return of_record(record, path)


def of_record(record: Any, path: Path) -> str:
    """Return the template in what a file holds; an older record without the field has none.

    Raises:
        ConfigError: It has not one place for the prompt.
    """
    template = record.get("template", "") if isinstance(record, dict) else None
    if template == "" or (isinstance(template, str) and template.count(_PLACE) == 1):
        return template
    raise ConfigError(
        f"{path}: template must be empty or a text that holds {_PLACE} exactly once "
        f"(found {template!r}). Set data.template and convert the data again."
    )
