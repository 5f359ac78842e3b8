"""What a person chooses: one frozen model per section, a sentence under each field.

The sentence is the code comment, the help of the UI form and the text of
`python -m flows.finetune --help`. The default configuration is the embedded run: no network, no
account, no GPU. What decides the weights is in `tasks/trainer/job.py`, because the container needs it.
A new knob is a new field here; `prefect.yaml` names the runs we keep; secrets live in neither.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tasks import sources, templates
from tasks.metrics.protocol import Measure
from tasks.plugins import FormatChoice
from tasks.s3 import S3Access
from tasks.trainer.job import DecodeSpec, Family, TrainSpec


class Section(BaseModel):
    """A part of the configuration: unknown knobs are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _lowered(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _unescaped(value: Any) -> Any:
    return "\t" if value in ("\\t", "tab") else value


class SourceConfig(Section):
    """Where the rows come from."""

    model_config = ConfigDict(title="Source")

    uri: Annotated[str, Field(min_length=1)] = "deployments/sample/data"
    """File, folder or archive: a path, http(s)://…, s3://bucket/prefix, or hf://datasets/org/name@revision."""
    dev_uri: str = ""
    """Where the held-out rows come from when they lie apart; empty looks for them among the files at uri."""
    mirrors: list[str] = []
    """Further http(s) addresses of the same file, tried in this order when uri fails."""
    sha256: Annotated[str, BeforeValidator(_lowered), Field(pattern="^([0-9a-f]{64})?$")] = ""
    """Expected SHA-256 of the file at uri, 64 hexadecimal digits; empty trusts what arrives."""
    s3: S3Access = S3Access()
    """How the S3 store behind an s3:// address is reached."""

    def requests(self) -> list[sources.Request]:
        """Return what is to be fetched: the rows, and the held-out rows when they lie apart."""
        first = sources.Request(
            uri=self.uri,
            patterns=sources.ROWS,
            where="source.uri",
            sha256=self.sha256,
            mirrors=tuple(self.mirrors),
            s3=self.s3,
        )
        if not self.dev_uri:
            return [first]
        return [
            first,
            sources.Request(self.dev_uri, sources.ROWS, "source.dev_uri", s3=self.s3),
        ]

    @property
    def pinned(self) -> bool:
        """Whether the addresses can only ever mean the same bytes, so that fetching can be skipped."""
        return all(sources.pinned(each.uri, each.sha256) for each in self.requests())

    def identity(self) -> dict[str, Any]:
        """Return what a cache key sees: of a path the content, of an address what pins it."""
        return {
            each.where.removeprefix("source."): sources.identity(each) for each in self.requests()
        }

    def recorded(self) -> dict[str, Any]:
        """Return what a record may tell: no address with its password or token."""
        hidden = {"uri": sources.shown(self.uri), "dev_uri": sources.shown(self.dev_uri)}
        return (
            self.model_dump() | hidden | {"mirrors": [sources.shown(each) for each in self.mirrors]}
        )


class BaseConfig(Section):
    """The model to start from."""

    model_config = ConfigDict(title="Base model")

    uri: Annotated[str, Field(min_length=1)] = "deployments/sample/base"
    """Folder of a model in the transformers layout: a path, s3://bucket/prefix, or hf://org/name@revision."""
    family: Family = "tiny"
    """How this model is prompted and tuned: a file of tasks/trainer/families."""
    s3: S3Access = S3Access()
    """How the S3 store behind an s3:// address is reached."""

    def request(self) -> sources.Request:
        """Return what is to be fetched."""
        return sources.Request(self.uri, sources.MODEL, "base.uri", s3=self.s3)

    @property
    def pinned(self) -> bool:
        """Whether the address can only ever mean the same bytes, so that fetching can be skipped."""
        return sources.pinned(self.uri, "")

    def identity(self) -> dict[str, Any]:
        """Return what a cache key sees: the content of the files or what pins them, and the family."""
        return {"source": sources.identity(self.request()), "family": self.family}


class ColumnsConfig(Section):
    """Which fields of your rows hold what, when they have names of their own."""

    model_config = ConfigDict(title="Columns")

    prompt: str = ""
    """Field of the prompt; empty knows the usual names."""
    response: str = ""
    """Field of the answer; empty knows the usual names."""
    history: str = ""
    """Field of earlier turns, [question, answer] pairs; empty is `history`, where it is there."""
    system: str = ""
    """Field of the system's message; empty is `system`, where it is there."""

    def given(self) -> dict[str, str]:
        """Return the chosen names: what the field holds, to its name in the rows."""
        return {name: value for name, value in self.model_dump().items() if value}


class DataConfig(Section):
    """How rows become training examples."""

    model_config = ConfigDict(title="Data")

    format: FormatChoice = "auto"
    """Format of the rows: a file of tasks/formats; auto asks the rows, and never guesses between two."""
    columns: ColumnsConfig = ColumnsConfig()
    """Names of prompt and answer, where your rows have names of their own; implies the format pairs."""
    container: Literal["auto", "json", "csv", "tsv", "parquet"] = "auto"
    """How rows lie in a file; auto looks at the content. json covers JSON Lines, arrays and loose objects."""
    encoding: Literal["auto", "utf-8", "utf-16", "gb18030"] = "auto"
    """Encoding of the text; auto looks at the bytes and says what it found. gb18030 covers GBK."""
    delimiter: Annotated[str, BeforeValidator(_unescaped), Field(max_length=1)] = ""
    """What separates the cells of a table, one character; empty looks at the first rows."""
    template: str = "none"
    """What stands around each prompt: none, question, or a text of your own with {prompt} in it."""
    dev_rows: Annotated[int, Field(ge=0)] = 0
    """Rows held out for evaluation when the source has no dev file; 0 lets dev_fraction decide."""
    dev_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the prompts held out when the source has no dev file: by their hash, so that added rows move none."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Only the first so many training rows; 0 takes all."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The run fails when a larger share of the rows than this cannot be used, 0 to 1."""
    overlap: bool = True
    """Count near-duplicates and what dev shares with train; costs about as much again as reading the rows."""
    max_leak_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The run fails when a larger share of the dev rows has its prompt, or 13 characters of its answer, in train."""
    max_near_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The run fails when more rows than this share are near-duplicates of another row, 0 to 1."""
    max_unpacked_gib: Annotated[float, Field(gt=0)] = 64.0
    """An archive that unpacks to more than this is refused, GiB."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.columns.given() and self.format not in ("auto", "pairs"):
            raise ValueError(
                f"columns: only the format pairs has columns to name (found format {self.format!r})"
            )
        named = list(self.columns.given().values())
        if len(set(named)) < len(named):
            raise ValueError(f"columns: one field cannot be two things (found {', '.join(named)})")
        templates.text_of(self.template)
        if not self.overlap and min(self.max_leak_fraction, self.max_near_fraction) < 1:
            raise ValueError(
                "overlap: must be on for max_leak_fraction or max_near_fraction (found False)"
            )
        return self


class StoreConfig(Section):
    """Where finished artifacts are kept."""

    model_config = ConfigDict(title="Store")

    uri: Annotated[str, Field(min_length=1)] = ".finetune/store"
    """Folder, or s3://bucket/prefix; a relative folder lies in the project's folder and moves with it."""
    s3: S3Access = S3Access()
    """How the S3 store behind an s3:// address is reached, and what new objects there carry."""

    def identity(self) -> dict[str, str]:
        """Return what a cache key sees: the place alone, not how it is reached."""
        return {"uri": self.uri}


class MetricsConfig(Section):
    """How answers are scored."""

    model_config = ConfigDict(title="Metrics")

    protocol: Literal["chatglm2", "chatglm3", "english", "mixed"] = "chatglm2"
    """chatglm2: ROUGE on words, BLEU on characters, as published; chatglm3: both on words; english; mixed."""
    segmenter: Literal["jieba", "rjieba"] = "jieba"
    """What cuts Chinese words: jieba as published, or rjieba, ten times as fast, which cuts a few texts otherwise."""
    normalise: Literal["none", "nfkc"] = "none"
    """nfkc gives full-width and half-width characters one form, on both sides."""
    reference_characters: Annotated[int, Field(ge=0)] = 0
    """References are cut to so many characters, as published scores cut them to 64 tokens; 0 leaves them whole."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence of the intervals, 0.5 to 1."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Bootstrap resamples behind each interval."""
    seed: int = 17
    """Seed of the bootstrap."""

    def identity(self) -> dict[str, Any]:
        """Return what a cache key sees: every knob, and the versions of what stands behind them."""
        return self.model_dump() | {"measure": self.measure().id}

    def measure(self) -> Measure:
        """Return all that a score means.

        Raises:
            ConfigError: Two of the choices do not go together.
        """
        return Measure(self.protocol, self.segmenter, self.normalise, self.reference_characters)


class JudgeConfig(Section):
    """When the new model counts as good."""

    model_config = ConfigDict(title="Judge")

    beats: list[Literal["base", "random", "retrieval", "template"]] = [
        "base",
        "random",
        "retrieval",
    ]
    """Rivals whose scores the new model must exceed: interval of the difference and sign-flip test must agree."""
    metrics: list[Literal["rouge_1", "rouge_2", "rouge_l", "bleu_4"]] = ["rouge_2", "bleu_4"]
    """Scores that are compared with the rivals."""
    floors: dict[Literal["rouge_1", "rouge_2", "rouge_l", "bleu_4"], float] = {}
    """Least means by score, percent, such as {rouge_2: 7.0}; the whole interval must lie above."""
    min_rows: Annotated[int, Field(ge=1)] = 50
    """Fewer answered rows than this leave the verdict inconclusive."""
    champion_margin: Annotated[float, Field(ge=0)] = 0.5
    """Percentage points by which the new model may be worse than the champion of its name."""
    slice_margin: Annotated[float, Field(ge=-1)] = 5.0
    """Points by which the worst slice may fall behind the champion, or the base; -1 asks nothing of slices."""
    max_empty: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Largest tolerated share of empty answers, 0 to 1."""


class LocalConfig(Section):
    """A process on this machine."""

    # extra="ignore": a union's variants must tolerate the keys that the UI keeps of another variant
    model_config = ConfigDict(title="This machine", extra="ignore")

    kind: Literal["local"] = "local"
    """Which place this is."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of each process; 0 takes all cores."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes that train together, one for each GPU; the result is that of one, up to rounding."""
    shard: bool = False
    """Spread weights and optimizer over the processes (FSDP2), for models that one GPU cannot train."""
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


class RegisteredConfig(Section):
    """A model that an earlier run registered."""

    model_config = ConfigDict(title="A registered model", extra="ignore")

    kind: Literal["registered"] = "registered"
    """Where the answers come from."""
    name: str = "sample"
    """The line of models."""
    version: Annotated[int, Field(ge=0)] = 0
    """Its version; 0 is the champion."""


class ModelConfig(Section):
    """A base model, or what was tuned on it."""

    model_config = ConfigDict(title="A model", extra="ignore")

    kind: Literal["model"] = "model"
    """Where the answers come from."""
    base: BaseConfig = BaseConfig()
    """The base model."""
    tuned: str = ""
    """Folder of what was tuned on it, here or by ChatGLM's own scripts; empty takes the base itself."""


class EndpointConfig(Section):
    """A server that speaks OpenAI's chat completions."""

    model_config = ConfigDict(title="An endpoint", extra="ignore")

    kind: Literal["endpoint"] = "endpoint"
    """Where the answers come from."""
    url: str = "http://127.0.0.1:8000"
    """Address of the server, without /v1; a key is taken from the environment, FINETUNE_ENDPOINT_KEY."""
    model: str = ""
    """Name of the model there; empty takes the first that it lists."""
    seconds: Annotated[float, Field(gt=0)] = 120.0
    """Time for one answer."""


class AnswersConfig(Section):
    """A file of answers, one JSON object a line, in the order of the held-out rows."""

    model_config = ConfigDict(title="A file of answers", extra="ignore")

    kind: Literal["answers"] = "answers"
    """Where the answers come from."""
    path: str = ""
    """Our predictions.jsonl, or generated_predictions.txt with labels and predict."""


class NobodyConfig(Section):
    """No second system."""

    model_config = ConfigDict(title="Nobody", extra="ignore")

    kind: Literal["nobody"] = "nobody"
    """Where the answers come from."""


Subject = RegisteredConfig | ModelConfig | EndpointConfig | AnswersConfig


class EvaluateConfig(Section):
    """Scores of any system on any rows, alone or against another one."""

    model_config = ConfigDict(title="Evaluation")

    source: SourceConfig = SourceConfig()
    """Where the rows come from."""
    data: DataConfig = DataConfig()
    """How rows become prompts and references."""
    store: StoreConfig = StoreConfig()
    """Where finished artifacts are kept."""
    subject: Subject = RegisteredConfig()
    """Who is scored."""
    against: NobodyConfig | RegisteredConfig | ModelConfig | EndpointConfig | AnswersConfig = (
        NobodyConfig()
    )
    """Whom it is compared with, row by row, as with a champion."""
    decode: DecodeSpec = DecodeSpec()
    """Everything that decides what a model answers."""
    metrics: MetricsConfig = MetricsConfig()
    """How answers are scored."""
    judge: JudgeConfig = JudgeConfig()
    """When the subject counts as good."""
    compute: LocalConfig = LocalConfig()
    """Where models answer."""


ExportForm = Literal["merged", "adapter", "chatglm"]


class ExportConfig(Section):
    """A model in a folder of its own, for other programs."""

    model_config = ConfigDict(title="Export")

    subject: RegisteredConfig | ModelConfig = RegisteredConfig()
    """Which model."""
    form: ExportForm = "merged"
    """merged: adapters become weights that any program loads; adapter: peft's layout; chatglm: ChatGLM's own."""
    to: str = "exported"
    """The folder; it must be new or empty."""
    store: StoreConfig = StoreConfig()
    """Where the model is kept."""
    compute: LocalConfig = LocalConfig()
    """Where it is made."""
