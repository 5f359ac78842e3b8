"""The tokenizers of ChatGLM-6B, ChatGLM2-6B and ChatGLM3-6B from the files they are published with.

These files are SentencePiece models; the rest stands in Python code that comes with the weights and is not run:

* ChatGLM2 and 3 (`tokenizer.model`): control tokens are no pieces, they are numbered after the last one; 3 has four
  for roles besides. `sop` and `eop` are words that anybody writes: see `families/`.
* ChatGLM-6B (`ice_text.model`): line breaks, tabs, and 2 to 80 blanks in a row are pieces. Its own normalisation is
  NFKC, by which ，！：；？ become , ! : ; ? before the model ever sees them. Decoding turns them back beside a Chinese
  character, as the model's own `chat` does: an answer reads as it was learnt, and encodes to the same ids again.

Sources: tokenization_chatglm.py of https://huggingface.co/THUDM/chatglm-6b, chatglm2-6b and chatglm3-6b.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from transformers import PreTrainedTokenizerFast

from . import sentencepiece
from .errors import ConfigError
from .sentencepiece import CONTROL, UNKNOWN, Model, Piece

FILES = ("ice_text.model", "tokenizer.model")

_CONTROL_1 = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
_CONTROL_2 = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_ROLES_3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
_BREAK, _TAB = "<n>", "<|tab|>"
_MOST_BLANKS = 80
_HALF_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_CHINESE = "[\u4e00-\u9fff]"

# Blanks in a row, one character for each; and as many as the widest piece has. These code points are no characters
# and stay so: nobody's text has them.
_BLANK, _BLANKS = "\ufdd0", "\ufdd1"


def load(home: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a directory that has one of `FILES`.

    Raises:
        ConfigError: It cannot be read, or does not say which generation it is.
    """
    if (home / FILES[0]).is_file():
        return _first(home)
    return _later(home)


def _first(home: Path) -> PreTrainedTokenizerFast:
    model = sentencepiece.read(home / FILES[0])
    _require(model, (*_CONTROL_1, "<pad>"))
    images = _json(home / "tokenizer_config.json").get("num_image_tokens", 20000)
    if images != 0:
        raise ConfigError(
            f"{home}: the first revision of ChatGLM-6B, whose ids begin after {images} tokens for images. "
            "Use the revision of May 2023 or later: its tokenizer_config.json has num_image_tokens 0."
        )
    model = replace(model, pieces=[_first_piece(piece) for piece in model.pieces])
    tokenizer = sentencepiece.fast(
        model,
        before=[
            normalizers.Replace("\n", _BREAK),
            normalizers.Replace("\t", _TAB),
            normalizers.Replace(Regex(f" {{{_MOST_BLANKS}}}"), _BLANKS),
            normalizers.Replace(Regex("(?<= ) | (?= )"), _BLANK),
        ],
        after=[
            decoders.Replace(_BREAK, "\n"),
            decoders.Replace(_TAB, "\t"),
            decoders.Replace(_BLANKS, " " * _MOST_BLANKS),
            decoders.Replace(_BLANK, " "),
            *(_widened(half, full) for half, full in _HALF_WIDTH.items()),
        ],
    )
    named = {"bos_token": "<sop>", "eos_token": "<eop>", "pad_token": "<pad>"}
    return _wrapped(tokenizer, model, (), "$A [gMASK] <sop>", named)


def _widened(half: str, full: str) -> decoders.Decoder:
    mark = re.escape(half)
    return decoders.Replace(Regex(f"(?<={_CHINESE}){mark}|{mark}(?={_CHINESE})"), full)


def _first_piece(piece: Piece) -> Piece:
    """Make sure that control tokens are such, and name blanks by what stands for them in a text."""
    if piece.text in _CONTROL_1:
        return replace(piece, kind=CONTROL)
    head, _, width = piece.text.removesuffix("|>").partition("<|blank_")
    if head or not width.isdecimal():
        return piece
    blanks = _BLANK * int(width) if int(width) < _MOST_BLANKS else _BLANKS
    return replace(piece, text=blanks)


def _later(home: Path) -> PreTrainedTokenizerFast:
    model = sentencepiece.read(home / FILES[1])
    _require(model, ("<s>", "</s>"))
    control = _CONTROL_2 + (_ROLES_3 if _generation(home) == 3 else ())
    named = {"eos_token": "</s>", "pad_token": "<unk>"}
    return _wrapped(sentencepiece.fast(model), model, control, "[gMASK] sop $A", named)


def _wrapped(
    tokenizer: Tokenizer, model: Model, added: tuple[str, ...], around: str, named: dict[str, str]
) -> PreTrainedTokenizerFast:
    own = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN)]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (*own, *added)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around,
        pair=f"{around} $B",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in around.split() if t != "$A"],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=next(piece.text for piece in model.pieces if piece.kind == UNKNOWN),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **named,
    )


def _generation(home: Path) -> int:
    """Say whether a `tokenizer.model` is ChatGLM2's or 3's: the file is the same, what lies beside it is not."""
    try:
        code = (home / "tokenization_chatglm.py").read_text(encoding="utf-8")
    except FileNotFoundError:
        code = ""
    settings, config = _json(home / "tokenizer_config.json"), _json(home / "config.json")
    if _ROLES_3[1] in code + json.dumps(settings, ensure_ascii=False):
        return 3
    names = f"{settings.get('name_or_path')} {config.get('_name_or_path')}".lower()
    found = {generation for generation in (2, 3) if f"chatglm{generation}" in names}
    if len(found) == 1:
        return found.pop()
    if code:
        return 2
    raise ConfigError(
        f"{home}: {FILES[1]} does not say whether it is of ChatGLM2 or ChatGLM3, nor do the files beside it. "
        'Write "name_or_path": "chatglm2-6b" or "chatglm3-6b" into tokenizer_config.json.'
    )


def _require(model: Model, needed: tuple[str, ...]) -> None:
    missing = set(needed) - {piece.text for piece in model.pieces}
    if missing:
        raise ConfigError(
            f"{model.path}: not the tokenizer of a ChatGLM (missing: {', '.join(sorted(missing))}). "
            "Save it in its fast form, tokenizer.json, beside the weights."
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Fetch it again.") from error
    return found if isinstance(found, dict) else {}
