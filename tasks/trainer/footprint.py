"""How much memory a training takes: estimated from the configuration of the model, before any weight is read.

What a layer keeps for its backward pass was measured by counting the bytes of live tensors, on GLM, Llama and
MPT with every method (tests/test_footprint.py repeats it); the coefficients below are those counts, rounded.
They are bytes for each token, `b` being the bytes of a number in the forward pass:

                                        feed-forward, gated    plain     attention and norms, gated    plain
    adapters on all layers, full             4·b·f             2·b·f          (18 + 4·b)·h          (4 + 7·b)·h
    adapters on attention, prefix            3·b·f               b·f          (14 + 2.5·b)·h        (1 + 6·b)·h

Attention that is not fused keeps its softmax too: (4 + b)·heads·tokens, 4·heads·tokens in float32. With gradient
checkpointing a layer keeps its input, and one layer at a time has all of it. Logits take 12 bytes a number while
the loss is differentiated. The estimate is right within a third where activations or logits count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .job import Full, Prefix, Qlora, TrainSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MOMENTS = 8  # two float32 numbers of AdamW
_GRADIENT = 4
_LOGITS = 12
_PLAIN = (
    "mpt",
    "chatglm_6b",
)  # model types whose feed-forward part is two matrices with GELU between


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    layers: int
    width: int
    heads: int
    head: int
    """Numbers of a head."""
    groups: int
    """Heads of keys and values."""
    inner: int
    """Width of the feed-forward part."""
    gated: bool
    fused: bool
    """Whether attention is computed without keeping its softmax."""
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        """Read the sizes of a configuration in its native form."""
        known: dict[str, Any] = config.to_dict()

        def first(*names: str) -> int:
            return next((int(known[name]) for name in names if known.get(name)), 0)

        width = first("hidden_size", "d_model")
        heads = first("num_attention_heads", "n_heads")
        kind = known["model_type"]
        return cls(
            layers=first("num_hidden_layers", "num_layers", "n_layers"),
            width=width,
            heads=heads,
            head=first("head_dim") or width // heads,
            groups=first("num_key_value_heads") or heads,
            inner=first("intermediate_size", "inner_hidden_size") or 4 * width,
            gated=kind not in _PLAIN,
            fused=kind != "mpt",
            vocabulary=first("vocab_size"),
            tied=kind == "mpt" or bool(known.get("tie_word_embeddings")),
        )

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block, those of attention first."""
        attention, shared = self.heads * self.head, self.groups * self.head
        return {
            "query": (self.width, attention),
            "key": (self.width, shared),
            "value": (self.width, shared),
            "output": (attention, self.width),
            "up": (self.width, self.inner * (2 if self.gated else 1)),
            "down": (self.inner, self.width),
        }

    @property
    def blocks(self) -> int:
        """Numbers in the linear layers of all blocks."""
        return self.layers * sum(i * o for i, o in self.matrices.values())

    @property
    def embeddings(self) -> int:
        """Numbers in embeddings and output layer."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Numbers in the model, without norms and biases."""
        return self.blocks + self.embeddings


@dataclass(frozen=True)
class Footprint:
    """Bytes that a training takes on one device."""

    weights: int
    """Of the base model and of what is trained beside it."""
    state: int
    """Gradients, moments, and copies of weights in the number format of the forward pass."""
    row: int
    """Each row of a forward pass."""

    def total(self, rows: int) -> int:
        """Return the bytes of passes of so many rows."""
        return self.weights + self.state + rows * self.row


def of(
    config: PreTrainedConfig,
    spec: TrainSpec,
    number: int,
    tokens: int,
    columns: int,
    shards: int = 1,
) -> Footprint:
    """Estimate the footprint of a training.

    Args:
        config: Of the model, in its native form.
        spec: Says the method, and whether activations are computed twice.
        number: Bytes of a number in the forward pass.
        tokens: Of the longest row.
        columns: Tokens of a row whose logits are computed.
        shards: Processes over which weights, gradients and moments are spread.
    """
    shape = Shape.of(config)
    whole = isinstance(spec.method, Full)
    each = 4.0 if whole else float(number)
    weights = shape.parameters * each
    if isinstance(spec.method, Qlora):
        scales = 0.13 if spec.method.double else 0.5
        # every block of 64 weights has a scale; embeddings and output layer stay as they are
        weights = shape.blocks * (4 + scales) / 8 + shape.embeddings * number
    state = float(trained(shape, spec) * (_GRADIENT + _MOMENTS))
    if not whole:
        weights += 4 * trained(shape, spec)  # adapters and prefixes are float32
    if whole and number < 4:
        state += shape.parameters * number
    row = _row(shape, spec, number, tokens, columns)
    return Footprint(int(weights / shards), int(state / shards), row)


def trained(shape: Shape, spec: TrainSpec) -> int:
    """Return how many numbers are trained."""
    method = spec.method
    if isinstance(method, Full):
        frozen = shape.vocabulary * shape.width if method.freeze_embeddings else 0
        return shape.parameters - frozen
    if isinstance(method, Prefix):
        token = shape.groups * shape.head
        flat = 2 * shape.layers * token
        if not method.projection:
            return method.tokens * flat
        hidden = method.projection_width or shape.width
        return method.tokens * token + token * hidden + hidden * flat
    names = list(shape.matrices)
    chosen = names[:3] if method.layers == "attention" else names
    sides = sum(sum(shape.matrices[name]) for name in chosen)
    return shape.layers * method.rank * sides


def _row(shape: Shape, spec: TrainSpec, number: int, tokens: int, columns: int) -> int:
    """Return the bytes that one row adds to the peak of a pass."""
    layer = _layer(shape, spec, number, tokens)
    kept = float(number * shape.width) if spec.gradient_checkpointing else layer
    # what flows back through one layer, and with checkpointing all that it keeps meanwhile
    passing = float((10 + 5 * number) * shape.width)
    passing += layer if spec.gradient_checkpointing else 0
    logits = _LOGITS * shape.vocabulary * columns
    return int(tokens * shape.layers * kept + max(tokens * passing, logits))


def _layer(shape: Shape, spec: TrainSpec, number: int, tokens: int) -> float:
    """Return the bytes that one layer keeps of one token for its backward pass."""
    method = spec.method
    everywhere = isinstance(method, Full) or getattr(method, "layers", "") == "all"
    inner: float
    rest: float
    if shape.gated and everywhere:
        inner, rest = 4 * number, 18 + 4 * number
    elif shape.gated:
        inner, rest = 3 * number, 14 + 2.5 * number
    elif everywhere:
        inner, rest = 2 * number, 4 + 7 * number
    else:
        inner, rest = number, 1 + 6 * number
    softmax = 0
    if not shape.fused:
        seen = tokens + (method.tokens if isinstance(method, Prefix) else 0)
        softmax = (4 + (number if number < 4 else 0)) * shape.heads * seen
    return inner * shape.inner + rest * shape.width + softmax
