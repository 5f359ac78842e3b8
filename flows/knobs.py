"""The knobs of a configuration, by dotted name: one text for the UI form, `--help` and the command line.

Everything comes from the JSON schema that the UI renders. Values from the command line are laid over those of a
deployment, and both over the defaults; the configuration's own models then check the whole.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tasks.errors import ConfigError

Schema = Mapping[str, Any]
M = TypeVar("M", bound=BaseModel)

_FORMS = {
    "list_type": "Write it as [one,another].",
    "dict_type": "Write it as '{name: value}'.",
}
"""How a value is written, where its type alone does not tell."""


@dataclass(frozen=True)
class Knob:
    """One choice that a person has."""

    name: str
    """Dotted name, such as `train.learning_rate`."""
    kind: str
    """Its type or its choices, for people."""
    default: Any
    help: str
    when: str = ""
    """The choice it belongs to, such as `kind=lora`, when it is not always there."""
    text: bool = False
    """Whether the value is taken as written."""


def knobs(model: type[BaseModel]) -> list[Knob]:
    """Return every knob of a configuration, in the order of the form."""
    schema = model.model_json_schema()
    defaults = model().model_dump()
    return list(_walk(schema, schema.get("$defs", {}), defaults, "", ""))


def _walk(schema: Schema, named: Schema, defaults: Any, path: str, when: str) -> Iterator[Knob]:
    for name, field in schema.get("properties", {}).items():
        dotted = f"{path}.{name}" if path else name
        default = (defaults or {}).get(name, field.get("default"))
        inner = _inner(field, named)
        if not inner and not (when and name == "kind"):
            yield _knob(dotted, field, default, when)
        elif len(inner) == 1:
            yield from _walk(inner[0], named, default, dotted, when)
        elif inner:
            yield from _union(inner, named, default, dotted, field.get("description", ""))


def _union(
    variants: list[Schema], named: Schema, default: Any, path: str, told: str
) -> Iterator[Knob]:
    """Yield the choice itself, then the knobs that each choice brings."""
    kinds = [variant["properties"]["kind"]["const"] for variant in variants]
    yield Knob(f"{path}.kind", "|".join(kinds), default["kind"], told, text=True)
    found: dict[str, Knob] = {}
    for kind, variant in zip(kinds, variants, strict=True):
        chosen = default if kind == default["kind"] else {}
        for knob in _walk(variant, named, chosen, path, f"{path}.kind={kind}"):
            same = found.get(knob.name)
            found[knob.name] = replace(same, when=f"{same.when}|{kind}") if same else knob
    yield from found.values()


def _inner(field: Schema, named: Schema) -> list[Schema]:
    """Return the section, or the variants of a union of sections, behind a field."""
    options = field.get("anyOf") or field.get("oneOf") or field.get("allOf") or [field]
    found = [named[option["$ref"].rsplit("/", 1)[-1]] for option in options if "$ref" in option]
    return [schema for schema in found if "properties" in schema]


def _knob(name: str, field: Schema, default: Any, when: str) -> Knob:
    choices = field.get("enum") or ([field["const"]] if "const" in field else [])
    items = field.get("items", {})
    kind = "|".join(str(choice) for choice in choices) or field.get("type", "text")
    if items.get("enum"):
        kind = f"list of {'|'.join(items['enum'])}"
    return Knob(
        name, kind, default, field.get("description", ""), when, field.get("type") == "string"
    )


def parse(pairs: list[tuple[str, str]], known: list[Knob]) -> dict[str, Any]:
    """Turn `[("train.epochs", "3")]` into `{"train": {"epochs": 3}}`.

    Raises:
        ConfigError: A knob does not exist; the nearest names are given.
    """
    values: dict[str, Any] = {}
    by_name = {knob.name: knob for knob in known}
    for name, raw in pairs:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}?" if near else "See --help for the list."
            raise ConfigError(f"--{name}: unknown knob (found {name!r}). {hint}")
        _set(values, name.split("."), raw if by_name[name].text else _value(name, raw))
    return values


def refuse_idle(pairs: list[tuple[str, str]], known: list[Knob], config: BaseModel) -> None:
    """Refuse a knob of a choice that was not made: it would be ignored.

    Raises:
        ConfigError: With the choice that it belongs to, and the one that was made.
    """
    given = {name for name, _ in pairs}
    for knob in known:
        place, _, kinds = knob.when.partition("=")
        if knob.name not in given or not place:
            continue
        chosen: Any = config
        for part in place.split("."):
            chosen = getattr(chosen, part)
        if chosen not in kinds.split("|"):
            raise ConfigError(
                f"--{knob.name}: belongs to {place} {kinds.replace('|', ' or ')} (found {chosen}). "
                f"Add --{place} {kinds.partition('|')[0]}, or leave it out."
            )


def _value(name: str, raw: str) -> Any:
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as reason:
        raise ConfigError(f"--{name}: not a value (found {raw!r}). Quote it.") from reason


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; another `kind` replaces the section whole."""
    merged = dict(under)
    for name, value in over.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            switched = "kind" in value and value["kind"] != before.get("kind", value["kind"])
            merged[name] = dict(value) if switched else merge(before, value)
        else:
            merged[name] = value
    return merged


def build(model: type[M], values: Mapping[str, Any]) -> M:
    """Build a configuration from values laid over the defaults.

    Raises:
        ConfigError: A value has the wrong type or is out of its bounds; every one is named.
    """
    try:
        return model.model_validate(merge(model().model_dump(), values))
    except ValidationError as reason:
        raise ConfigError("\n".join(_sentences(reason))) from reason


def _sentences(reason: ValidationError) -> Iterator[str]:
    for errors in _by_choice(list(reason.errors())):
        kinds = [error for error in errors if _is_other_kind(error)]
        if len(kinds) == len(errors) > 1:
            yield _no_such_choice(kinds)
        else:
            chosen = {_variant(error) for error in errors} - {_variant(error) for error in kinds}
            of_it = [error for error in errors if _variant(error) in chosen]
            yield from map(_sentence, of_it or errors)


def _by_choice(errors: list[ErrorDetails]) -> Iterator[list[ErrorDetails]]:
    """Yield the errors about the variants of one choice together, every other alone."""
    for _, together in itertools.groupby(enumerate(errors), _choice):
        yield [error for _, error in together]


def _choice(numbered: tuple[int, ErrorDetails]) -> tuple[object, ...]:
    number, error = numbered
    at = next((at for at, part in enumerate(error["loc"]) if _is_variant(part)), None)
    return (number,) if at is None else error["loc"][:at]


def _variant(error: ErrorDetails) -> object:
    return next((part for part in error["loc"] if _is_variant(part)), None)


def _is_other_kind(error: ErrorDetails) -> bool:
    """Say whether an error only means that another variant was chosen."""
    place = error["loc"]
    return place[-1] == "kind" and error["type"] == "literal_error" and _is_variant(place[-2])


def _no_such_choice(errors: list[ErrorDetails]) -> str:
    kinds = [str(error["ctx"]["expected"]).strip("'") for error in errors]
    *others, last = kinds
    return (
        f"{_name(errors[0])}: there is no such choice (found {errors[0]['input']!r}). "
        f"Choose {', '.join(others)} or {last}."
    )


def _sentence(error: ErrorDetails) -> str:
    name = _name(error)
    if error["type"] == "value_error":  # our own, which names the knob below this place
        return f"{name}.{error['ctx']['error']}. See --help for what it takes."
    advice = _FORMS.get(error["type"], "See --help for what it takes.")
    return f"{name}: {error['msg']} (found {error['input']!r}). {advice}"


def _name(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"] if not _is_variant(part))


def _is_variant(part: object) -> bool:
    """Say whether a part of an error's place is the class of a union's variant."""
    return isinstance(part, str) and part[:1].isupper()
