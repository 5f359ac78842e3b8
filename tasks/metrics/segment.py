"""Words of Chinese text: jieba with its default dictionary and hidden Markov model, or rjieba.

ROUGE over words is only as reproducible as the segmenter, and jieba can be changed from afar in
three ways: its cache file `/tmp/jieba.cache`, which decides the words, is open to whoever comes
first; `jieba.add_word` changes the shared tokenizer; and `jieba.del_word` changes a list that even
a tokenizer of one's own consults. Therefore this module imports a second copy of the package under
a name of its own, and builds the dictionary from the package's text file without any cache, which
takes 0.72 s instead of 0.67. Both happen at the first text, not at import, and jieba logs nothing.

The copy cuts the same words with two functions of `jieba_words.py`; one of them is linear where
jieba's is quadratic, so that no text can hold up a run.

`rjieba` is the same algorithm in Rust, 10 times as fast and in an optional package. It cuts 6 of
9,070 texts of AdvertiseGen another way, all around a `-` or `.` between Latin letters, so its
scores carry its name. It has a tokenizer of its own here too.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from collections.abc import Callable
from importlib import util
from types import ModuleType
from typing import Any

from tasks.errors import ConfigError
from tasks.metrics.jieba_words import likeliest_states, use_dictionary
from tasks.metrics.optional import load, version_of

Cut = Callable[[str], list[str]]
"""From a text to its words; joined they are the text, whitespace included."""

_COPY = f"{__name__}_jieba"
_SURROGATE = re.compile("([\ud800-\udfff])")
_lock = threading.Lock()
_tokenizers: dict[str, Any] = {}


def words(text: str) -> list[str]:
    """Cut a text into words with jieba; joined they are the text, whitespace included."""
    cut: list[str] = _ready("jieba").lcut(text)
    return cut


def cutter(segmenter: str) -> Cut:
    """Return the function that cuts words; its dictionary is loaded at the first text.

    Raises:
        ConfigError: There is no such segmenter, or its package is not installed.
    """
    identify(segmenter)
    return _SEGMENTERS[segmenter]


def identify(segmenter: str) -> str:
    """Return the id of a segmenter; another version may cut other words, and so give other scores.

    Raises:
        ConfigError: There is no such segmenter, or its package is not installed.
    """
    if segmenter not in _SEGMENTERS:
        raise ConfigError(
            f"metrics.segmenter: there is no such choice (found {segmenter!r}). "
            f"Choose one of: {', '.join(_SEGMENTERS)}."
        )
    return f"{segmenter}-{version_of(segmenter, f'metrics.segmenter {segmenter}')}"


def _rust_words(text: str) -> list[str]:
    tokenizer = _ready("rjieba")
    try:
        cut: list[str] = tokenizer.cut(text)
    except UnicodeEncodeError:
        # Rust has no string for half a surrogate pair; jieba takes it for a word
        pieces = _SURROGATE.split(text)
        cut = [
            word
            for number, piece in enumerate(pieces)
            for word in ([piece] if number % 2 else tokenizer.cut(piece))
        ]
    return cut


_SEGMENTERS: dict[str, Cut] = {"jieba": words, "rjieba": _rust_words}

SEGMENTERS = tuple(_SEGMENTERS)
"""The segmenters to choose from, each named as its package."""


def _ready(name: str) -> Any:
    with _lock:
        if name not in _tokenizers:
            build = _build if name == "jieba" else load("rjieba", "metrics.segmenter rjieba").Jieba
            _tokenizers[name] = build()
        return _tokenizers[name]


def _build() -> Any:
    package = _import_copy()
    package.finalseg.viterbi = likeliest_states
    tokenizer = package.Tokenizer()
    use_dictionary(tokenizer, *tokenizer.gen_pfdict(tokenizer.get_dict_file()))
    return tokenizer


def _import_copy() -> ModuleType:
    shared = util.find_spec("jieba")
    assert shared is not None  # jieba is not optional
    spec = util.spec_from_file_location(
        _COPY, shared.origin, submodule_search_locations=shared.submodule_search_locations
    )
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[_COPY] = module
    try:
        with warnings.catch_warnings():
            # jieba 0.42.1 writes '\.' in plain strings, and asks setuptools for its own files
            warnings.filterwarnings("ignore", message=".*invalid escape sequence")
            warnings.filterwarnings("ignore", message=".*pkg_resources")
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_COPY]
        raise
    return module
