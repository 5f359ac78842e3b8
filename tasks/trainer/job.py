"""What a person decides about training and decoding, and the file that asks the trainer for it.

Read on both sides: by the configuration (`tasks/config.py`), which shows these fields in the UI form
and in `--help`, and by the trainer in its process or container. Therefore standard library only.
The string under a field is its comment, its help and its description in the form.

`TrainSpec` holds what decides the weights and the curve beside them: where and on how many cores a job runs
is the business of `tasks/backends/`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    Family = str
else:
    Family = Literal[
        tuple(sorted(p.stem for p in Path(__file__).with_name("families").glob("[a-z]*.py")))
    ]

# Read by pydantic where the configuration is built; a plain dict, so that the trainer needs no pydantic.
_DOCUMENTED: dict[str, Any] = {"use_attribute_docstrings": True}


def _require(holds: bool, where: str, what: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{where}: {what} (found {found!r})")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside the frozen weights."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED | {"title": "LoRA"}

    kind: Literal["lora"] = "lora"
    """Which method this is."""
    rank: int = 16
    """Rank of the two adapter matrices; more learns more and costs more memory."""
    alpha: int = 32
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of adapter inputs dropped while training, 0 to 1."""
    layers: Literal["all", "attention"] = "all"
    """Which linear layers get adapters: all of each block, or only query, key and value as in the how-tos."""

    def __post_init__(self) -> None:
        _require_adapters(self.rank, self.alpha, self.dropout)


@dataclass(frozen=True)
class Qlora:
    """Low-rank adapters beside frozen weights of 4 bits."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED | {"title": "QLoRA, 4-bit"}

    kind: Literal["qlora"] = "qlora"
    """Which method this is."""
    rank: int = 16
    """Rank of the two adapter matrices; more learns more and costs more memory."""
    alpha: int = 32
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of adapter inputs dropped while training, 0 to 1."""
    layers: Literal["all", "attention"] = "all"
    """Which linear layers get adapters: all of each block, or only query, key and value as in the how-tos."""
    quantisation: Literal["nf4", "fp4"] = "nf4"
    """Number format of the frozen weights."""
    double: bool = True
    """Quantise the scales of the weights too: 0.4 bits less per weight."""

    def __post_init__(self) -> None:
        _require_adapters(self.rank, self.alpha, self.dropout)


@dataclass(frozen=True)
class Prefix:
    """Trained keys and values before the prompt in every layer: P-Tuning v2."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED | {
        "title": "Prefix tuning (P-Tuning v2)"
    }

    kind: Literal["prefix"] = "prefix"
    """Which method this is."""
    tokens: int = 128
    """Length of the prefix, in virtual tokens."""
    projection: bool = False
    """Compute the prefix with a two-layer network from one embedding, instead of storing it."""
    projection_width: int = 0
    """Width of that network's hidden layer; 0 takes the width of the model."""

    def __post_init__(self) -> None:
        _require(self.tokens >= 1, "tokens", "must be at least 1", self.tokens)
        _require(
            self.projection_width >= 0,
            "projection_width",
            "must not be negative",
            self.projection_width,
        )


@dataclass(frozen=True)
class Full:
    """Every weight of the base model is trained."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED | {"title": "Full fine-tuning"}

    kind: Literal["full"] = "full"
    """Which method this is."""
    freeze_embeddings: bool = False
    """Leave the input embeddings as they are."""


Method = Lora | Qlora | Prefix | Full


def _require_adapters(rank: int, alpha: int, dropout: float) -> None:
    _require(rank >= 1, "rank", "must be at least 1", rank)
    _require(alpha >= 1, "alpha", "must be at least 1", alpha)
    _require(0 <= dropout < 1, "dropout", "must be at least 0 and below 1", dropout)


@dataclass(frozen=True)
class Weights:
    """How the weights of a base model stand in memory: what of a `TrainSpec` decides what the base answers."""

    quantisation: Literal["none", "nf4", "fp4"] = "none"
    double: bool = True


@dataclass(frozen=True)
class Limits:
    """How much of a row the model gets: what of a `TrainSpec` decides which rows are cut."""

    prompt_tokens: int
    answer_tokens: int


_LEAST: dict[str, float] = {
    "max_steps": 0,
    "learning_rate": 0,
    "global_batch": 1,
    "micro_batch": 0,
    "warmup": 0,
    "weight_decay": 0,
    "clip": 0,
    "max_prompt_tokens": 8,
    "max_answer_tokens": 2,
    "checkpoint_steps": 1,
    "checkpoint_minutes": 0,
    "dev_rows": 0,
    "patience": 0,
}
"""Smallest value of each number of a `TrainSpec`."""


@dataclass(frozen=True)
class TrainSpec:
    """Everything that decides the weights, and the curve that is kept with them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED | {
        "extra": "forbid",
        "title": "Training",
    }

    method: Method = field(default_factory=Lora)
    """How the model is tuned: adapters, adapters on 4-bit weights, a prefix, or all of its weights."""
    epochs: float = 2.0
    """Passes over the training rows; ignored when max_steps is set."""
    max_steps: int = 0
    """Optimizer steps; 0 lets the epochs decide."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes what suits method and model: LoRA 1e-4, prefix 2e-2, full 1e-5, bundled 5e-3."""
    global_batch: int = 16
    """Rows per optimizer step, over all devices and accumulation steps."""
    micro_batch: int = 0
    """Rows per forward pass of one device; 0 takes as many as its memory holds."""
    packing: bool = False
    """Put several rows into one sequence, where the model keeps them apart; else rows of similar length go together."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: a third more time, much less memory."""
    warmup: float = 0.05
    """Share of the steps in which the learning rate rises from zero, 0 to 1."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    clip: float = 1.0
    """Largest gradient norm; 0 does not clip."""
    max_prompt_tokens: int = 128
    """Longer prompts lose their oldest turns, then their middle, never the marker before the answer."""
    max_answer_tokens: int = 256
    """Longer answers are cut here."""
    checkpoint_steps: int = 100
    """Optimizer steps between two checkpoints; an interrupted run continues from the last one."""
    checkpoint_minutes: float = 10.0
    """A checkpoint is also written when the last one is older than this; 0 goes by steps alone."""
    dev_rows: int = 64
    """Held-out rows on which the loss is measured every checkpoint_steps; 0 measures none."""
    patience: int = 0
    """Stop when the held-out loss has not fallen at so many measurements in a row; 0 takes all steps."""
    keep: Literal["last", "best"] = "last"
    """Which weights are the result: the last, or those of lowest held-out loss, on rows that are scored too."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the forward pass; auto is bfloat16 where the hardware has it, else float32."""
    seed: int = 17
    """Seed of initialisation, order and dropout."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            what = f"must be at least {least}" if least else "must not be negative"
            _require(value >= least, name, what, value)
        steps = self.max_steps > 0 or self.epochs > 0
        _require(steps, "epochs", "must be above 0 when max_steps is 0", self.epochs)
        even = self.micro_batch == 0 or self.global_batch % self.micro_batch == 0
        _require(even, "micro_batch", "must divide global_batch", self.micro_batch)
        _require(self.warmup < 1, "warmup", "must be at least 0 and below 1", self.warmup)
        watched = self.dev_rows > 0 or (self.patience == 0 and self.keep == "last")
        _require(watched, "dev_rows", "must be above 0 for patience or keep best", self.dev_rows)
        apart = not (self.packing and self.method.kind == "prefix")
        _require(apart, "packing", "would let rows see each other under a prefix", self.packing)

    @property
    def weights(self) -> Weights:
        """How the base stands in memory under this method, so that it fits where the tuned model fits."""
        if isinstance(self.method, Qlora):
            return Weights(self.method.quantisation, self.method.double)
        return Weights()

    @property
    def lengths(self) -> Limits:
        """The lengths to which prompts and answers are cut."""
        return Limits(self.max_prompt_tokens, self.max_answer_tokens)


UNCUT = TrainSpec(max_prompt_tokens=1_000_000)
"""What a base model answers with: a tuned one reads prompts as it was trained to, a base has no limit of ours."""


def untrained(weights: Weights) -> TrainSpec:
    """Return what a base model answers with when its weights stand so in memory."""
    if weights.quantisation == "none":
        return UNCUT
    return replace(UNCUT, method=Qlora(quantisation=weights.quantisation, double=weights.double))


@dataclass(frozen=True)
class DecodeSpec:
    """Everything that decides what a trained model answers."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _DOCUMENTED | {
        "extra": "forbid",
        "title": "Decoding",
    }

    split: Literal["dev", "train"] = "dev"
    """Rows to answer."""
    rows: int = 0
    """Only the first so many rows of the split; 0 answers all."""
    max_new_tokens: int = 160
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 always takes the likeliest token; above 0 draws, with the seed."""
    top_p: float = 1.0
    """Draw only among the likeliest tokens that together reach this probability."""
    batch_rows: int = 64
    """Rows generated together."""
    seed: int = 17
    """Seed of the draws."""

    def __post_init__(self) -> None:
        _require(self.rows >= 0, "rows", "must not be negative", self.rows)
        _require(
            self.max_new_tokens >= 1, "max_new_tokens", "must be at least 1", self.max_new_tokens
        )
        _require(self.temperature >= 0, "temperature", "must not be negative", self.temperature)
        _require(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1", self.top_p)
        _require(self.batch_rows >= 1, "batch_rows", "must be at least 1", self.batch_rows)


@dataclass(frozen=True)
class Job:
    """One order to the trainer. All paths are directories on the machine that runs it."""

    action: Literal["train", "predict", "serve", "lengths", "merge", "adopt", "export"]
    """What to do. merge: adapters into weights; adopt and export: adapters in ChatGLM's own layout, in and out."""
    family: str
    """Which file of `families/` knows this model."""
    base: str
    """The base model: weights, configuration, tokenizer."""
    base_digest: str = ""
    """Digest of the base model; recorded with what is trained on it, instead of a path."""
    tuned: str = ""
    """The tuned model to predict with or to serve; empty for the base model itself."""
    data: str = ""
    """The dataset: `train.jsonl` and `dev.jsonl`, one `{"messages": […]}` a line, and `dataset.json`.

    A base model is served with the prompt template of this dataset; a tuned one brings its own.
    """
    data_digest: str = ""
    """Digest that the record of the dataset must have; empty takes the record that is there, or none."""
    out: str = ""
    """Where the result goes; complete when the process ends with 0. `lengths` leaves it also with a data error."""
    work: str = ""
    """Survives an interruption: checkpoints, half-done predictions. Cleared by the caller at success."""
    train: TrainSpec | None = None
    decode: DecodeSpec | None = None
    threads: int = 0
    """CPU threads of each process; 0 takes all."""
    shard: bool = False
    """Spread weights, gradients and moments over the processes that train together (FSDP2), instead of copying them."""
    thorough: bool = False
    """Hash every file of the models before they are used, not only check the sizes of the large ones."""
    host: str = "127.0.0.1"
    """serve: the address to listen on."""
    port: int = 0
    """serve: the port; 0 takes a free one."""
    name: str = ""
    """serve: the model's name in the OpenAI-style interface."""

    def write(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["train"] = train_spec(fields["train"]) if fields.get("train") else None
        fields["decode"] = DecodeSpec(**fields["decode"]) if fields.get("decode") else None
        return cls(**fields)


METHODS: dict[str, type[Method]] = {
    "lora": Lora,
    "qlora": Qlora,
    "prefix": Prefix,
    "full": Full,
}


def train_spec(fields: dict[str, Any]) -> TrainSpec:
    """Build a `TrainSpec` from its JSON form."""
    method = dict(fields["method"])
    return TrainSpec(**{**fields, "method": METHODS[method["kind"]](**method)})


# How the trainer's process ends; `tasks/backends/` turns these into exceptions.
EXIT_CONFIG = 64
"""The job cannot work as asked: the last `[error]` line says why."""
EXIT_DATA = 65
"""A record is malformed: the last `[error]` line names it."""
EXIT_INTERRUPTED = 75
"""Stopped by a signal after saving a checkpoint: run it again to continue."""
