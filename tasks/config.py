"""What a person chooses: one frozen model per section, a sentence under each field.

The sentence is the code comment, the help of the UI form and the text of
`python -m flows.finetune --help`. The default configuration is the embedded run: no network, no
account, no GPU. What decides the weights is in `tasks/trainer/job.py`, because the container needs it.
A new knob is a new field here; `prefect.yaml` names the runs we keep; secrets live in neither.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks import sources
from tasks.plugins import Format
from tasks.trainer.job import DecodeSpec, Family, TrainSpec


class Section(BaseModel):
    """A part of the configuration: unknown knobs are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SourceConfig(Section):
    """Where the rows come from."""

    model_config = ConfigDict(title="Source")

    uri: Annotated[str, Field(min_length=1)] = "deployments/sample/data"
    """File or folder with a train and a dev file, as a path of this machine, or an http(s) address of a file."""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    """Expected SHA-256 of the file, 64 hexadecimal digits; empty trusts what arrives."""

    @property
    def pinned(self) -> bool:
        """Whether the address can only ever mean the same bytes, so that fetching can be skipped."""
        return bool(self.sha256) or not sources.is_remote(self.uri)

    def identity(self) -> dict[str, str]:
        """Return what a cache key sees: of a path the content, of an address its expected digest."""
        if sources.is_remote(self.uri):
            return {"uri": self.uri, "sha256": self.sha256}
        return {
            "content": sources.content(self.uri, sources.ROWS, "source.uri"),
            "sha256": self.sha256,
        }


class BaseConfig(Section):
    """The model to start from."""

    model_config = ConfigDict(title="Base model")

    uri: Annotated[str, Field(min_length=1)] = "deployments/sample/base"
    """Directory of a model in the transformers layout: config, safetensors weights, tokenizer."""
    family: Family = "tiny"
    """How this model is prompted and tuned: a file of tasks/trainer/families."""

    def identity(self) -> dict[str, str]:
        """Return what a cache key sees: the content of the files, and the family."""
        return {
            "content": sources.content(self.uri, sources.MODEL, "base.uri"),
            "family": self.family,
        }


class DataConfig(Section):
    """How rows become training examples."""

    model_config = ConfigDict(title="Data")

    format: Format = "advertisegen"
    """Format of the rows: a file of tasks/formats."""
    dev_rows: Annotated[int, Field(ge=0)] = 0
    """Rows held out for evaluation when the source has no dev file; 0 holds out a tenth."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Only the first so many training rows; 0 takes all."""


class StoreConfig(Section):
    """Where finished artifacts are kept."""

    model_config = ConfigDict(title="Store")

    uri: Annotated[str, Field(min_length=1)] = ".finetune/store"
    """Directory of the store; a relative one lies in the project's folder and moves with it."""


class MetricsConfig(Section):
    """How answers are scored."""

    model_config = ConfigDict(title="Metrics")

    protocol: Literal["chatglm2"] = "chatglm2"
    """ROUGE-1/2/L on words and BLEU-4 on characters as ChatGLM2-6B published them, in percent."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the intervals, 0.5 to 1."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Bootstrap resamples behind each interval."""
    seed: int = 17
    """Seed of the bootstrap."""


class JudgeConfig(Section):
    """When the new model counts as good."""

    model_config = ConfigDict(title="Judge")

    beats: list[Literal["base", "random", "retrieval", "template"]] = [
        "base",
        "random",
        "retrieval",
    ]
    """Rivals whose scores the new model must exceed, outside the interval of the difference."""
    metrics: list[Literal["rouge_1", "rouge_2", "rouge_l", "bleu_4"]] = ["rouge_2", "bleu_4"]
    """Scores that are compared with the rivals."""
    min_rows: Annotated[int, Field(ge=1)] = 50
    """Fewer answered rows than this leave the verdict inconclusive."""
    champion_margin: Annotated[float, Field(ge=0)] = 0.5
    """Percentage points by which the new model may be worse than the champion of its name."""
    max_empty: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Largest tolerated share of empty answers, 0 to 1."""


class LocalConfig(Section):
    """A process on this machine."""

    # extra="ignore": a union's variants must tolerate the keys that the UI keeps of another variant
    model_config = ConfigDict(title="This machine", extra="ignore")

    kind: Literal["local"] = "local"
    """Which place this is."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 takes all cores."""
    timeout_minutes: Annotated[float, Field(gt=0)] = 720.0
    """A job that runs longer than so many minutes is stopped, after its checkpoint."""


class ServingConfig(Section):
    """Whether and how the tuned model is served."""

    model_config = ConfigDict(title="Serving")

    when: Literal["pass", "always", "never"] = "pass"
    """Serve when the verdict is pass, always (a person's override, which is recorded), or never."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port to listen on; 0 takes a free one."""
    golden_prompts: Annotated[int, Field(ge=1, le=1000)] = 4
    """Rows of the run that are sent to the served model; its answers must be the offline ones."""
    startup_seconds: Annotated[float, Field(gt=0)] = 120.0
    """The server must answer its health check within so many seconds."""


class FinetuneConfig(Section):
    """One fine-tuning run, from the rows to the served model."""

    model_config = ConfigDict(title="Fine-tuning run")

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$")] = "sample"
    """Name of this line of models: lower-case letters, digits, dashes. Its champion and its endpoint carry it."""
    source: SourceConfig = SourceConfig()
    """Where the rows come from."""
    base: BaseConfig = BaseConfig()
    """The model to start from."""
    data: DataConfig = DataConfig()
    """How rows become training examples."""
    store: StoreConfig = StoreConfig()
    """Where finished artifacts are kept."""
    train: TrainSpec = TrainSpec()
    """Everything that decides the weights."""
    decode: DecodeSpec = DecodeSpec()
    """Everything that decides what a model answers."""
    metrics: MetricsConfig = MetricsConfig()
    """How answers are scored."""
    judge: JudgeConfig = JudgeConfig()
    """When the new model counts as good."""
    compute: LocalConfig = LocalConfig()
    """Where training and prediction run; never a reason to train again."""
    serving: ServingConfig = ServingConfig()
    """Whether and how the tuned model is served."""
