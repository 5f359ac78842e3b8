"""Every family with every method: it learns, moves nothing else, and answers after loading as before saving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import bitsandbytes
import pytest
import tiny_models
import torch
from _pytest.mark import ParameterSet
from bases import BASES
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GlmForCausalLM, MptConfig, PreTrainedConfig

from tasks.trainer import encode, families, generate, loop, model, objective, tuned
from tasks.trainer.architectures.chatglm_config import ChatGlmConfig
from tasks.trainer.batches import Batch, collate
from tasks.trainer.errors import ConfigError, Interrupted
from tasks.trainer.job import DecodeSpec, Full, Job, Lora, Method, Prefix, Qlora, TrainSpec
from tasks.trainer.layouts import chatglm2
from tasks.trainer.methods import full, lora, quantised
from tasks.trainer.methods import prefix as prefixes
from tasks.trainer.model import Loaded
from tasks.trainer.stopping import Stop

DIGEST = "ab" * 32
STEPS = 8
ASKED = [tiny_models.record(i)["messages"][:1] for i in (3, 4, 5)]
SAID = DecodeSpec(max_new_tokens=6)


METHODS: dict[str, tuple[Method, float]] = {
    "lora": (Lora(rank=4), 1e-2),
    "attention": (Lora(rank=4, layers="attention"), 2e-2),
    "qlora": (Qlora(rank=4), 1e-2),
    "prefix": (Prefix(tokens=5), 5e-2),
    "projection": (Prefix(tokens=5, projection=True, projection_width=24), 1e-2),
    "full": (Full(), 5e-3),
}

# each family and each method at least once; the rest of the table is slow
QUICK = [
    ("glm", "prefix"),
    ("glm4", "full"),
    ("llama", "attention"),
    ("qwen2", "qlora"),
    ("qwen3", "projection"),
    ("mpt", "prefix"),
    ("chatglm1", "projection"),
    ("chatglm2", "lora"),
    ("chatglm3", "full"),
]
TWICE = [("llama", "attention"), ("mpt", "prefix"), ("chatglm1", "projection")]


def cases(quick: list[tuple[str, str]]) -> list[ParameterSet]:
    return [
        pytest.param(
            (base, method),
            id=f"{base}-{method}",
            marks=[] if (base, method) in quick else [pytest.mark.slow],
        )
        for base in BASES
        for method in METHODS
    ]


LORA_FILES = {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "model.json"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Bench:
    """Bases that are written once, and a dataset."""

    root: Path

    def job(self, base: str, method: str, **knobs: object) -> Job:
        home = self.root / base
        family, build = BASES[base]
        if not home.exists():
            build(home)
        tuning, rate = METHODS[method]
        spec = TrainSpec(method=tuning, learning_rate=rate, precision="float32")
        return Job(
            action="train",
            family=family,
            base=str(home),
            base_digest=DIGEST,
            data=str(self.root / "data"),
            out=str(self.root / f"{base}-{method}"),
            train=replace(spec, **knobs),  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("methods")
    tiny_models.dataset(root / "data", train=8, dev=0)
    return Bench(root)


def prepared(job: Job) -> tuple[Loaded, tuned.Parameters]:
    loaded = model.load(job)
    assert job.train is not None
    return loaded, tuned.prepare_training(loaded, job.train)


def batch_of(loaded: Loaded, job: Job) -> Batch:
    path = Path(job.data) / "train.jsonl"
    return collate(encode.split(path, loaded.family, loaded.tokenizer, loaded.spec).examples)


def loss_of(loaded: Loaded, batch: Batch) -> torch.Tensor:
    scored = int((batch.labels != encode.IGNORED).sum())
    return objective.summed_loss(loaded, batch) / scored


def everything(loaded: Loaded) -> dict[str, torch.Tensor]:
    """Return all parameters, those of the prefix too."""
    named = dict(loaded.model.named_parameters()) | loaded.trainable()
    return {name: p.detach().clone() for name, p in named.items()}


@dataclass
class Trained:
    """What a short training did."""

    job: Job
    loaded: Loaded
    losses: list[float]
    trainable: set[str]
    changed: set[str]
    parameters: tuned.Parameters
    gradients: dict[str, torch.Tensor]
    """Of the second step: adapters that start at zero hold back the gradient of their other half in the first."""
    answers: list[generate.Answer]


def train(job: Job) -> Trained:
    loaded, parameters = prepared(job)
    batch = batch_of(loaded, job)
    named = loaded.trainable()
    before = everything(loaded)
    optimizer = torch.optim.AdamW(named.values(), lr=loaded.spec.learning_rate, weight_decay=0)
    losses, gradients = [], {}
    loaded.model.train()
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(loaded, batch)
        torch.autograd.backward(loss)
        if step == 1:
            gradients = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        optimizer.step()
        losses.append(loss.item())
    loaded.model.train(False)
    changed = {n for n, p in everything(loaded).items() if not torch.equal(p, before[n])}
    tuned.save(loaded, job, parameters, [{"step": STEPS, "loss": losses[-1]}], {"rows": 8})
    answers = generate.answer(loaded, ASKED, SAID, 128)
    return Trained(job, loaded, losses, set(named), changed, parameters, gradients, answers)


@pytest.fixture(scope="module")
def trained(bench: Bench) -> Callable[[tuple[str, str]], Trained]:
    """Train each pair once, whatever is asked about it."""
    known: dict[tuple[str, str], Trained] = {}

    def once(case: tuple[str, str]) -> Trained:
        if case not in known:
            known[case] = train(bench.job(*case))
        return known[case]

    return once


def answering(job: Job) -> Loaded:
    return model.load(replace(job, action="predict", train=None, tuned=job.out))


@pytest.mark.parametrize("case", cases(QUICK))
def test_the_loss_falls_and_only_what_the_method_trains_changes(
    case: tuple[str, str], trained: Callable[[tuple[str, str]], Trained]
) -> None:
    run = trained(case)
    assert run.losses[-1] < run.losses[0] - 0.02
    assert run.changed == run.trainable
    part = {"full": "", "prefix": "prefix.", "projection": "prefix."}.get(case[1], ".lora_")
    assert all(part in name for name in run.trainable)
    assert run.parameters.trainable == sum(p.numel() for p in run.loaded.trainable().values())
    for name, gradient in run.gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name
    assert set(run.gradients) == run.trainable


@pytest.mark.parametrize("case", cases(QUICK))
def test_a_saved_model_answers_as_it_did_before(
    case: tuple[str, str], trained: Callable[[tuple[str, str]], Trained]
) -> None:
    run = trained(case)
    again = answering(run.job)
    assert again.spec == run.job.train
    assert generate.answer(again, ASKED, SAID, 128) == run.answers
    batch = batch_of(run.loaded, run.job)
    with torch.no_grad():
        assert loss_of(again, batch).item() == pytest.approx(
            loss_of(run.loaded, batch).item(), abs=1e-5
        )
    saved = {path.name for path in Path(run.job.out).iterdir()}
    if case[1] == "full":
        assert {"model.safetensors", "config.json", "tokenizer.json", "model.json"} <= saved
        assert not {name for name in saved if name.endswith((".bin", ".model", ".py"))}
    else:
        assert saved == LORA_FILES


def replays(quick: list[tuple[str, str]]) -> list[ParameterSet]:
    """Return every case in the formats that are computed in; the quick ones in bfloat16."""
    return [
        pytest.param(
            *case.values,
            precision,
            id=f"{case.id}-{precision}",
            marks=case.marks if precision == "bfloat16" else [pytest.mark.slow],
        )
        for case in cases(quick)
        for precision in ("float32", "bfloat16")
    ]


@pytest.mark.parametrize(("case", "precision"), replays(TWICE))
def test_gradient_checkpointing_changes_no_bit(
    case: tuple[str, str], precision: str, bench: Bench
) -> None:
    found = []
    for twice in (False, True):
        job = bench.job(*case, gradient_checkpointing=twice, precision=precision)
        loaded, _ = prepared(job)
        loaded.model.train()
        loss = loss_of(loaded, batch_of(loaded, job))
        torch.autograd.backward(loss)
        found.append((loss.item(), {n: p.grad for n, p in loaded.trainable().items()}))
    (plain, gradients), (again, replayed) = found
    assert plain == again
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert torch.equal(gradient, replayed[name]), name


@pytest.mark.parametrize(
    "case",
    [
        ("qwen3", "projection"),
        ("glm", "prefix"),
        ("llama", "attention"),
        pytest.param(("llama", "prefix"), marks=pytest.mark.slow),
        pytest.param(("qwen2", "lora"), marks=pytest.mark.slow),
        pytest.param(("glm", "lora"), marks=pytest.mark.slow),
        pytest.param(("mpt", "lora"), marks=pytest.mark.slow),
    ],
)
def test_peft_reads_what_was_trained_and_computes_the_same(
    case: tuple[str, str], trained: Callable[[tuple[str, str]], Trained]
) -> None:
    run = trained(case)
    base = AutoModelForCausalLM.from_pretrained(run.job.base)
    theirs = PeftModel.from_pretrained(base, run.job.out).train(False)
    batch = batch_of(run.loaded, run.job)
    with torch.no_grad():
        ours = loss_of(run.loaded, batch)
        found = theirs(input_ids=batch.input_ids, labels=batch.labels).loss
    assert found.item() == pytest.approx(ours.item(), abs=1e-5)


CHATGLM2 = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 32768,
    "tie_word_embeddings": False,
}
"""The sizes of ChatGLM2-6B, and ChatGLM3-6B's."""


def published() -> dict[str, PreTrainedConfig]:
    """Return the configurations of published models."""
    mpt = MptConfig(d_model=4096, n_heads=32, n_layers=32, vocab_size=50432)
    return {"chatglm": ChatGlmConfig(), "chatglm2": chatglm2.config(CHATGLM2), "mpt": mpt}


@pytest.mark.parametrize(
    ("name", "stored", "computed"),
    [
        # 29.36 and 1.835 million in the originals; the network is that of ChatGLM-6B and of the paper
        ("chatglm", 29_360_128, 128 * 4096 + 4096 * 4097 + 4097 * 229_376),
        ("chatglm2", 1_835_008, 128 * 4096 + 4096 * 4097 + 4097 * 14_336),
        ("mpt", 33_554_432, 128 * 4096 + 4096 * 4097 + 4097 * 262_144),
    ],
)
def test_a_prefix_has_as_many_parameters_as_the_published_ones(
    name: str, stored: int, computed: int
) -> None:
    shape = prefixes.Shape.of(published()[name])
    assert 128 * shape.numbers == stored
    for hidden, expected in ((0, stored), (4096, computed)):
        with torch.device("meta"):
            prefix = prefixes.Prefix(shape, 128, torch.float32, hidden)
        assert sum(p.numel() for p in prefix.parameters()) == expected


def test_lora_on_three_matrices_has_other_numbers_than_on_the_joint_one() -> None:
    """ChatGLM3's own fine-tuning trains 1,949,696 at rank 8, with one A for query, key and value together."""
    config = chatglm2.config(CHATGLM2)
    config.num_hidden_layers = 1
    with torch.device("meta"):
        network = GlmForCausalLM(config)
        targets = list(families.option(families.load("chatglm"), "ATTENTION_TARGETS"))
        adapted = get_peft_model(network, LoraConfig(r=8, target_modules=targets))
    ours = 28 * adapted.get_nb_trainable_parameters()[0]
    assert ours == 3_784_704
    assert ours - 28 * 8 * 2 * 4096 == 1_949_696


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.mark.parametrize(
    "case",
    [
        ("mpt", "prefix"),
        ("chatglm3", "full"),
        pytest.param(("qwen2", "qlora"), marks=pytest.mark.slow),
    ],
)
def test_equal_trainings_give_equal_bytes_and_name_no_place(
    case: tuple[str, str], trained: Callable[[tuple[str, str]], Trained], tmp_path: Path
) -> None:
    run = trained(case)
    again = train(replace(run.job, out=str(tmp_path / "again")))
    assert digests(Path(run.job.out)) == digests(Path(again.job.out))
    for path in Path(run.job.out).iterdir():
        assert str(Path(run.job.base).parent).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    ("base", "method"),
    [
        ("llama", "projection"),
        pytest.param("glm", "qlora", marks=pytest.mark.slow),
        pytest.param("mpt", "prefix", marks=pytest.mark.slow),
        pytest.param("chatglm1", "full", marks=pytest.mark.slow),
        pytest.param("chatglm2", "lora", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(
    base: str, method: str, bench: Bench, tmp_path: Path
) -> None:
    tiny_models.dataset(tmp_path / "data", train=8, dev=4)
    job = bench.job(base, method, max_steps=6, global_batch=4, checkpoint_steps=2, dev_rows=4)
    job = replace(job, data=str(tmp_path / "data"))
    whole, cut = (
        replace(job, out=str(tmp_path / name / "out"), work=str(tmp_path / name / "work"))
        for name in ("whole", "cut")
    )
    loop.train(whole, Stop())
    with pytest.raises(Interrupted):
        loop.train(cut, tiny_models.StopAfter(6))
    loop.train(cut, Stop())
    assert digests(Path(cut.out)) == digests(Path(whole.out))


def test_the_record_says_with_what_software_it_was_made(
    trained: Callable[[tuple[str, str]], Trained],
) -> None:
    record = json.loads((Path(trained(("qwen2", "qlora")).job.out) / "model.json").read_text())
    assert record["kind"] == "qlora"
    assert record["packages"]["torch"] == torch.__version__
    assert set(record["packages"]) == {
        *("torch", "transformers", "peft", "bitsandbytes", "safetensors")
    }


def test_a_quantised_base_counts_the_weights_it_stands_for(bench: Bench) -> None:
    _, plain = prepared(bench.job("llama", "lora"))
    loaded, rounded = prepared(bench.job("llama", "qlora"))
    assert plain == rounded
    kinds = {type(p).__name__ for p in loaded.model.model.layers.parameters() if p.ndim == 2}
    assert kinds == {"Params4bit", "Parameter"}
    assert type(loaded.model.get_input_embeddings().weight).__name__ == "Parameter"


def test_a_base_is_answered_in_the_bits_that_its_adapters_were_trained_on(
    trained: Callable[[tuple[str, str]], Trained],
) -> None:
    run = trained(("qwen2", "qlora"))
    batch = batch_of(run.loaded, run.job)
    losses = []
    for spec in (run.job.train, TrainSpec()):
        base = model.load(replace(run.job, action="predict", train=spec))
        lora.put(base.model, Path(run.job.out), base.device)
        with torch.no_grad():
            losses.append(loss_of(base, batch).item())
    with torch.no_grad():
        ours = loss_of(answering(run.job), batch).item()
    assert losses[0] == pytest.approx(ours, abs=1e-6)
    assert abs(losses[1] - ours) > 1e-4


def test_the_held_out_loss_leaves_quantised_weights_as_they_are(bench: Bench) -> None:
    loaded, _ = prepared(bench.job("qwen2", "qlora"))
    batch = batch_of(loaded, bench.job("qwen2", "qlora"))
    before = everything(loaded)
    loaded.model.train()
    loss = loss_of(loaded, batch).item()
    loaded.model.train(False)
    with torch.inference_mode():
        loss_of(loaded, batch)
    loaded.model.train()
    assert loss_of(loaded, batch).item() == loss
    assert all(torch.equal(p, before[name]) for name, p in everything(loaded).items())


@pytest.mark.parametrize(
    ("method", "bits"),
    [(Qlora(), 4.127), (Qlora(double=False), 4.5), (Qlora(quantisation="fp4"), 4.127)],
)
def test_the_bits_of_a_weight_are_what_it_takes_in_memory(method: Qlora, bits: float) -> None:
    chosen = quantised.of(method, torch.float32)
    assert chosen is not None
    assert chosen.per_weight == pytest.approx(bits, abs=1e-3)
    layer = bitsandbytes.nn.Linear4bit(
        512, 512, bias=False, quant_type=chosen.kind, compress_statistics=chosen.double
    ).to("cpu")
    state = layer.weight.quant_state
    scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
    taken = sum(tensor.nbytes for tensor in (layer.weight.data, *scales))
    assert 8 * taken / 512**2 == pytest.approx(bits, abs=1e-3)


def test_without_bitsandbytes_the_job_says_what_to_install(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[qlora\]'"):
        model.load(bench.job("llama", "qlora"))


def test_a_prefix_of_another_model_is_refused(
    bench: Bench, trained: Callable[[tuple[str, str]], Trained], tmp_path: Path
) -> None:
    run = trained(("glm", "prefix"))
    job = replace(run.job, base=str(tiny_models.glm(tmp_path / "wide", width=64)))
    with pytest.raises(ConfigError, match=r"does not fit the model \(found \(5, 96\), .* 128 "):
        answering(job)


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_is_float32_and_its_cache_is_what_the_model_computes_in(
    bench: Bench, projection: bool
) -> None:
    method = "projection" if projection else "prefix"
    loaded, _ = prepared(bench.job("llama", method, precision="bfloat16"))
    prefix = loaded.prefix
    assert prefix is not None
    with torch.autocast("cpu", torch.bfloat16):
        cache = prefix.cache(3, growing=False)
    assert {p.dtype for p in loaded.trainable().values()} == {torch.float32}
    assert {layer.keys.dtype for layer in cache.layers} == {torch.bfloat16}
    assert torch.equal(cache.layers[0].keys[0].float(), cache.layers[0].keys[2].float())
    whole = prefix.flat().to(torch.bfloat16)[:, :24].unflatten(1, (2, 12)).transpose(0, 1)
    assert torch.equal(cache.layers[0].keys[0], whole)
    loss = loss_of(loaded, batch_of(loaded, bench.job("llama", method)))
    torch.autograd.backward(loss)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in prefix.parameters())


def test_only_a_growing_cache_keeps_what_it_is_given() -> None:
    shape = prefixes.Shape(layers=1, heads=2, width=4, size=8)
    prefix = prefixes.Prefix(shape, 3, torch.float32)
    new = torch.ones(2, 2, 5, 4)
    for growing, after in ((True, 8), (False, 3)):
        cache = prefix.cache(2, growing)
        keys, values = cache.update(new, new, 0)
        assert keys.shape == values.shape == (2, 2, 8, 4)
        assert cache.get_seq_length() == after
    cache = prefix.cache(2, growing=True)
    cache.update(new, new, 0)
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.layers[0].keys.shape == (1, 2, 8, 4)


def test_large_models_are_written_in_parts_that_load_again(
    bench: Bench,
    trained: Callable[[tuple[str, str]], Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = trained(("glm4", "full"))
    monkeypatch.setattr(full, "_SHARD", 100_000)
    job = replace(run.job, out=str(tmp_path / "out"))
    tuned.save(run.loaded, job, run.parameters, [], {})
    parts = sorted(path.name for path in Path(job.out).glob("*.safetensors"))
    assert len(parts) > 2
    assert parts[0] == f"model-00001-of-{len(parts):05d}.safetensors"
    assert not list(Path(job.out).glob(".*"))
    whole = load_file(Path(run.job.out) / full.WEIGHTS)
    for name, tensor in answering(job).model.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_where_layers_cannot_run_twice_gradient_checkpointing_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.job("llama", "lora", gradient_checkpointing=True)
    loaded = model.load(job)
    monkeypatch.setattr(loaded.family, "CHECKPOINTING", False, raising=False)
    monkeypatch.setattr(loaded.family, "CHECKPOINTING_REASON", "they remember.", raising=False)
    with pytest.raises(
        ConfigError, match=r"^gradient_checkpointing: they remember\. Switch it off"
    ):
        tuned.prepare_training(loaded, loaded.spec)


def test_bfloat16_bases_get_float32_adapters(bench: Bench) -> None:
    for method in ("lora", "qlora"):
        loaded, _ = prepared(bench.job("llama", method, precision="bfloat16"))
        assert {p.dtype for p in loaded.trainable().values()} == {torch.float32}
        assert loaded.model.get_input_embeddings().weight.dtype == torch.bfloat16
    loaded, _ = prepared(bench.job("llama", "full", precision="bfloat16"))
    assert {p.dtype for p in loaded.trainable().values()} == {torch.float32}
