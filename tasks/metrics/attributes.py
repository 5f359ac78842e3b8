"""Prompts of the form `key#value*key#value`, as AdvertiseGen has them: `类型#上衣*材质#牛仔布`."""

from __future__ import annotations

from collections.abc import Iterable

Attributes = tuple[tuple[str, str], ...]
"""Key and value, in the order of the prompt; a key may come twice."""

PARSED_SHARE = 0.95
"""Share of prompts that must have this form, 0 to 1, before attributes are spoken of."""


def attributes(prompt: str) -> Attributes | None:
    """Read the attributes of a prompt; None when it has not this form."""
    found = []
    for part in prompt.split("*"):
        key, mark, value = (piece.strip() for piece in part.partition("#"))
        if not mark or not key or not value or "#" in value:
            return None
        found.append((key, value))
    return tuple(found)


def missed(prompt: str, answer: str) -> list[str]:
    """Return the attribute values of a prompt that an answer does not name; case is ignored."""
    said = answer.casefold()
    found = attributes(prompt) or ()
    return [value for _, value in found if value.casefold() not in said]


def describes_attributes(prompts: Iterable[str]) -> bool:
    """Say whether at least 95 % of the prompts have this form; of no prompts, False."""
    parsed = [attributes(prompt) is not None for prompt in prompts]
    return bool(parsed) and sum(parsed) >= PARSED_SHARE * len(parsed)
