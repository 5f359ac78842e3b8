"""Reads a SentencePiece model and rebuilds it as a fast tokenizer, without the `sentencepiece` package.

The file is one protobuf message; what is read of it is named after the fields of its schema.
Source: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto

Decisions:

* The pieces keep their numbers. Only normal and user-defined pieces are ever found in a text, so that nobody can
  write a control token, or a byte, by its name.
* BPE joins two neighbours whenever together they are a piece, the one of the best score first: every such pair
  becomes a merge, in the order of the scores. Unigram takes the scores as they are.
* What would make the ids others than the original's is refused, with what it is.
* Bytes that are no character decode to U+FFFD each, as in the original; so do whole characters in the same run of
  bytes, which the original decodes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from .errors import ConfigError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_SPACE = "\u2581"
"""What stands for a blank inside pieces."""
_UNIGRAM, _BPE = 1, 2
_UNREACHABLE = -1e5
"""Score of a piece that no text becomes: far below what spelling its name costs, at most some 20 a letter."""
_ALL = 2**16
_LARGE_FILE_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its number is its place."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a SentencePiece file says."""

    path: Path
    pieces: list[Piece]
    algorithm: int
    byte_fallback: bool
    charsmap: bytes
    """How characters are normalised, compiled; empty for not at all."""
    dummy_prefix: bool
    """A blank is put before every text."""
    trimmed: bool
    """Blanks at both ends of a text go, and all but one of several in a row."""


def read(path: Path) -> Model:
    """Read a SentencePiece model.

    Raises:
        ConfigError: It is none, or does something that is not rebuilt here.
    """
    data = path.read_bytes()
    if data.startswith(_LARGE_FILE_POINTER):
        raise ConfigError(
            f"{path}: this is the pointer of a large file of git, not the file (found {len(data)} bytes). "
            "Fetch the file itself, with git lfs pull or from the Hub."
        )
    try:
        message = _message(data)
        trainer, normalizer = (_joined(message.get(number, [])) for number in (2, 3))
        pieces = [_piece(_message(body)) for body in message.get(1, [])]
    except (ValueError, IndexError, TypeError, AttributeError, struct.error) as error:
        raise ConfigError(
            f"{path}: not a SentencePiece model ({error}). Fetch it again."
        ) from error
    model = Model(
        path,
        pieces,
        algorithm=trainer.get(3, [_UNIGRAM])[-1],
        byte_fallback=bool(trainer.get(35, [0])[-1]),
        charsmap=normalizer.get(2, [b""])[-1],
        dummy_prefix=bool(normalizer.get(3, [1])[-1]),
        trimmed=bool(normalizer.get(4, [1])[-1]),
    )
    denormalizer = _joined(message.get(5, []))
    _refuse(model, trainer, bool(normalizer.get(5, [1])[-1]), denormalizer.get(2, [b""])[-1])
    return model


def fast(
    model: Model,
    before: Sequence[normalizers.Normalizer] = (),
    after: Sequence[decoders.Decoder] = (),
) -> Tokenizer:
    """Rebuild a model as a fast tokenizer, with the ids of the original.

    Args:
        model: What the file says.
        before: What happens to a text before the model's own normalisation.
        after: What happens to a decoded text at the end.
    """
    tokenizer = Tokenizer(_merging(model) if model.algorithm == _BPE else _unigram(model))
    if hidden := _unspelt(model):
        tokenizer.pre_tokenizer = _breaking(hidden)
    tokenizer.normalizer = normalizers.Sequence([*before, *_normalizers(model)])
    leading = _ALL if model.trimmed else int(model.dummy_prefix)
    own = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*own, decoders.Strip(" ", leading, 0), *after])
    return tokenizer


def _normalizers(model: Model) -> Iterator[normalizers.Normalizer]:
    if model.charsmap:
        yield normalizers.Precompiled(model.charsmap)
    if model.trimmed:
        yield normalizers.Replace(Regex(r"\A +"), "")
        yield normalizers.Replace(Regex(rf"[ {_SPACE}]+\z"), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    if model.dummy_prefix:
        yield normalizers.Prepend(_SPACE)
    yield normalizers.Replace(" ", _SPACE)


def _merging(model: Model) -> models.BPE:
    numbers = {piece.text: number for number, piece in enumerate(model.pieces)}
    normal = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    merges = [
        (-score, numbers[text[:cut]], numbers[text[cut:]], text[:cut], text[cut:])
        for text, score in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    return models.BPE(
        vocab=numbers,
        merges=[(left, right) for *_, left, right in sorted(merges)],
        unk_token=_unknown(model),
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _unigram(model: Model) -> models.Unigram:
    best = max((piece.score for piece in model.pieces if piece.kind == NORMAL), default=0.0)

    def score(piece: Piece) -> float:
        if piece.kind == USER_DEFINED:  # preferred to any spelling of it: the library's own rule
            return len(piece.text.encode()) * best - 0.1
        return piece.score if piece.kind == NORMAL else _UNREACHABLE

    vocabulary = [(piece.text, score(piece)) for piece in model.pieces]
    unknown = next(n for n, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)
    return models.Unigram(vocabulary, unk_id=unknown, byte_fallback=model.byte_fallback)


def _unspelt(model: Model) -> list[str]:
    """Return the names that a text must not become, but would, because it cannot be spelt otherwise."""
    if model.algorithm == _BPE:
        return []
    letters = {
        piece.text for piece in model.pieces if piece.kind == NORMAL and len(piece.text) == 1
    }
    names = (p.text for p in model.pieces if p.kind not in (NORMAL, USER_DEFINED))
    return [name for name in names if not letters.issuperset(name)]


def _breaking(names: list[str]) -> pre_tokenizers.PreTokenizer:
    """Cut a text after the first letter of each of these names."""
    cuts = (f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names)
    return pre_tokenizers.Split(Regex("|".join(cuts)), "merged_with_previous")


def _unknown(model: Model) -> str:
    return next(piece.text for piece in model.pieces if piece.kind == UNKNOWN)


def _refuse(model: Model, trainer: dict[int, list[Any]], escaped: bool, back: bytes) -> None:
    kinds = {piece.kind for piece in model.pieces}
    reasons = {
        "another algorithm than unigram or BPE": model.algorithm not in (_UNIGRAM, _BPE),
        "pieces that occur twice": len({p.text for p in model.pieces}) < len(model.pieces),
        "no piece for the unknown": UNKNOWN not in kinds,
        "blanks after words": bool(trainer.get(24, [0])[-1]),
        "blanks that are not marked": not escaped,
        "a normalisation of what is decoded": bool(back),
        "BPE with pieces that are defined by a user or unused": model.algorithm == _BPE
        and bool(kinds & {USER_DEFINED, UNUSED}),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ConfigError(
            f"{model.path}: its tokenizer has what is not supported (found {'; '.join(found)}). "
            "Save it in its fast form, tokenizer.json, beside the weights."
        )


def _piece(fields: dict[int, list[Any]]) -> Piece:
    text = fields.get(1, [b""])[-1].decode()
    return Piece(text, float(fields.get(2, [0.0])[-1]), fields.get(3, [NORMAL])[-1])


def _joined(bodies: list[Any]) -> dict[int, list[Any]]:
    """Read a message that may stand in the file in several parts; the last value of a field holds."""
    return _message(b"".join(bodies))


def _message(data: bytes) -> dict[int, list[Any]]:
    """Return the values of a protobuf message by the numbers of its fields."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        value: Any
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 5:
            (value,) = struct.unpack_from("<f", data, at)
            at += 4
        elif kind in (1, 2):
            length, at = (8, at) if kind == 1 else _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"field of type {kind} at byte {at}")
        found.setdefault(key >> 3, []).append(value)
    if at > len(data):
        raise ValueError("it ends too early")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
