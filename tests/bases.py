"""A random base model of every kind that the families cover: its family and how to write it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import chatglm_6b
import chatglm_layouts
import sentencepiece_models
import tiny_models


def _original(build: Callable[..., Path], generation: int, folder: Path) -> Path:
    """Write a ChatGLM as it was published."""
    sentencepiece_models.write(build(folder), generation)
    return folder


BASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "glm": ("tiny", tiny_models.glm),
    "glm4": ("glm4", tiny_models.glm4),
    "llama": ("llama", tiny_models.llama),
    "mistral": ("llama", partial(tiny_models.llama, kind="mistral")),
    "qwen2": ("qwen", partial(tiny_models.llama, kind="qwen2")),
    "qwen3": ("qwen", partial(tiny_models.llama, kind="qwen3")),
    "mpt": ("mpt", tiny_models.mpt),
    "chatglm1": ("chatglm", chatglm_6b.v1),
    "chatglm2": ("chatglm", partial(_original, chatglm_layouts.v2, 2)),
    "chatglm3": ("chatglm", partial(_original, chatglm_layouts.v3, 3)),
}
