"""LoRA adapters between ChatGLM's fused layers and the separate ones of the native layout.

In: one pair of matrices on `query_key_value` becomes three, with the same A, and the rows of B that belong to each.
Nothing is rounded.

Out: three pairs have an A each, and the fused layer takes one. Where the three are equal (they came from a fused
layer) the rows go back together. Else A is the three stacked and B holds each part's columns in its own rows, zeros
elsewhere: rank and alpha of the fused layer are then three times those of the others, so the scale stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..errors import ConfigError
from . import pairs
from .pairs import Adapter, Pair
from .shape import FUSED, PARTS, Shape

_NATIVE_LAYERS = "model.layers"


def to_native(original: Adapter, shape: Shape, where: str) -> Adapter:
    """Turn an adapter of ChatGLM's own layers into one of the native layers.

    Raises:
        ConfigError: It is not for this base, or does what the native layout cannot take over.
    """
    found = pairs.read(original, where)
    placed = {_place(name, shape, where): pair for name, pair in found.items()}
    _check_layers(placed, original.config, shape, where)
    native: dict[str, Pair] = {}
    for (layer, module), pair in placed.items():
        _check_size(f"{shape.original_layers}.{layer}.{module}", pair, shape.sizes(module), where)
        path = f"{_NATIVE_LAYERS}.{layer}.{shape.modules[module]}"
        if module.endswith(FUSED):
            for part, rows in zip(PARTS, shape.rows(), strict=True):
                # safetensors holds no tensor twice under two names
                native[path.format(part=part)] = Pair(pair.a.clone(), pair.b[rows], pair.alpha)
        else:
            native[path] = pair
    return pairs.build(native, original.config, shape.layers)


def to_original(native: Adapter, shape: Shape, where: str) -> Adapter:
    """Turn an adapter of the native layers into one of ChatGLM's own.

    Raises:
        ConfigError: It is on layers that the original layout does not have.
    """
    there = pairs.read(native, where)
    original: dict[str, Pair] = {}
    for layer in range(shape.layers):
        for module, path in shape.modules.items():
            place = f"{shape.original_layers}.{layer}.{module}"
            source = f"{_NATIVE_LAYERS}.{layer}.{path}"
            if module.endswith(FUSED):
                parts = [there.pop(source.format(part=part), None) for part in PARTS]
                pair = _fused(parts, place, shape, native.config, where)
            else:
                pair = there.pop(source, None)
            if pair is not None:
                _check_size(place, pair, shape.sizes(module), where)
                original[place] = pair
    if there:
        raise ConfigError(
            f"{where}: an adapter on {next(iter(there))}, which {shape.generation} in its own layout "
            "does not have. Export an adapter that was tuned on this base model."
        )
    return pairs.build(original, native.config, shape.layers)


def _fused(
    parts: list[Pair | None], place: str, shape: Shape, config: Mapping[str, Any], where: str
) -> Pair | None:
    """Put the adapters of query, key and value (where there are) on the fused matrix."""
    given = [(part, rows) for part, rows in zip(parts, shape.rows(), strict=True) if part]
    if not given:
        return None
    for part, rows in given:
        _check_size(place, part, (shape.width, len(rows)), where)
    first = given[0][0]
    outputs = sum(len(rows) for rows in shape.rows())
    if all(part.alpha == first.alpha and torch.equal(part.a, first.a) for part, _ in given):
        b = first.b.new_zeros(outputs, len(first.a))
        for part, rows in given:
            b[rows] = part.b
        return Pair(first.a, b, first.alpha)
    root = bool(config.get("use_rslora"))
    ranks = [len(part.a) for part, _ in given]
    b = first.b.new_zeros(outputs, sum(ranks))
    for (part, rows), column in zip(given, b.split(ranks, dim=1), strict=True):
        share = _scale(part, root) / _scale(first, root)
        column[rows] = part.b * share if share != 1 else part.b
    times = sum(ranks) / len(first.a)
    alpha = first.alpha * (times**0.5 if root else times)
    return Pair(torch.cat([part.a for part, _ in given]), b, alpha)


def _scale(pair: Pair, root: bool) -> float:
    rank = len(pair.a)
    return pair.alpha / (rank**0.5 if root else rank)


def _place(path: str, shape: Shape, where: str) -> tuple[int, str]:
    """Return layer and module of an original path."""
    found = re.fullmatch(rf"{re.escape(shape.original_layers)}\.(\d+)\.(.+)", path)
    if found is None or found[2] not in shape.modules:
        raise ConfigError(
            f"{where}: an adapter on {path}, which {shape.generation} does not have (it has "
            f"{shape.original_layers}.N with {', '.join(shape.modules)}). "
            "Name the base model that the adapter was trained on."
        )
    return int(found[1]), found[2]


def _check_layers(
    placed: Iterable[tuple[int, str]], config: Mapping[str, Any], shape: Shape, where: str
) -> None:
    layers = {layer for layer, _ in placed}
    chosen = config.get("layers_to_transform") is not None
    too_few = len(layers) < shape.layers and not chosen
    if max(layers) >= shape.layers or too_few:
        raise ConfigError(
            f"{where}: adapters on {len(layers)} layers, up to layer {max(layers)} (the base has "
            f"{shape.layers}). Name the base model that the adapter was trained on."
        )


def _check_size(path: str, pair: Pair, sizes: tuple[int, int], where: str) -> None:
    found = (pair.a.shape[1], pair.b.shape[0])
    if found != sizes:
        raise ConfigError(
            f"{where}: {path} is for {found[0]} inputs and {found[1]} outputs (the base has "
            f"{sizes[0]} and {sizes[1]}). Name the base model that the adapter was trained on."
        )
