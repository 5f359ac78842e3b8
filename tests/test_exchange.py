"""Adapters in ChatGLM's own layouts: taken over and given back without changing an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import chatglm_6b
import chatglm_layouts
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache

from tasks.trainer import exchange, families, layouts, methods
from tasks.trainer.__main__ import main
from tasks.trainer.errors import ConfigError
from tasks.trainer.exchange import shape
from tasks.trainer.job import Job, Prefix, Qlora, TrainSpec
from tasks.trainer.model import Loaded

DIGEST = "cd" * 32
REFERENCE = Path(__file__).parent / "data" / "chatglm"
ALL = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
PREFIX = 5
GENERATIONS = ("v1", "v2")


@dataclass(frozen=True)
class Original:
    """A base in its original layout, and where its blocks are."""

    home: Path
    weights: dict[str, Tensor]
    fields: dict[str, Any]
    blocks: str
    """Path of a block, its number left out."""
    attention: str

    def linear(self, layer: int, name: str) -> str:
        part = "mlp" if "_h" in name else self.attention
        return f"{self.blocks}.{layer}.{part}.{name}"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Original]:
    """One base of each kind of layout; no test writes there."""
    root = tmp_path_factory.mktemp("bases")
    fields = chatglm_6b.config(torch_dtype="float32")
    chatglm_6b.write(root / "v1", fields)
    chatglm_layouts.v2(root / "v2", "safetensors", shards=1, vocabulary=96)
    later = json.loads((root / "v2/config.json").read_text(encoding="utf-8"))
    found = {
        "v1": Original(root / "v1", {}, fields, "transformer.layers", "attention"),
        "v2": Original(root / "v2", {}, later, "transformer.encoder.layers", "self_attention"),
    }
    return {
        name: replace(base, weights=load_file(base.home / "model.safetensors"))
        for name, base in found.items()
    }


@pytest.fixture(params=GENERATIONS)
def base(request: pytest.FixtureRequest, bases: dict[str, Original]) -> Original:
    return bases[request.param]


def order(base: Path, tuned: Path, out: Path, **other: Any) -> Job:
    return Job(
        action="adopt",
        family="chatglm",
        base=str(base),
        base_digest=DIGEST,
        tuned=str(tuned),
        out=str(out),
        **other,
    )


def lora(
    base: Original, folder: Path, names: tuple[str, ...] = ALL, rank: int = 3, **config: Any
) -> Path:
    """Write a random adapter on the base's own layers, as peft saves one."""
    draw = torch.Generator().manual_seed(7)
    weights = {}
    for layer in range(base.fields["num_layers"]):
        for name in names:
            outputs, inputs = base.weights[f"{base.linear(layer, name)}.weight"].shape
            place = f"base_model.model.{base.linear(layer, name)}"
            weights[f"{place}.lora_A.weight"] = torch.randn(rank, inputs, generator=draw) / 4
            weights[f"{place}.lora_B.weight"] = torch.randn(outputs, rank, generator=draw) / 4
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "target_modules": list(names),
        "bias": "none",
        "megatron_core": "megatron.core",
        "rank_pattern": {},
        "base_model_name_or_path": "THUDM/chatglm3-6b",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def merged_by_hand(base: Original, adapter: Path, scale: float, folder: Path) -> Path:
    """Write the base with the adapter added to its own matrices."""
    changed = dict(base.weights)
    matrices = load_file(adapter / "adapter_model.safetensors")
    for name in matrices:
        if name.endswith("lora_A.weight"):
            place = name.removesuffix("lora_A.weight")
            target = place.removeprefix("base_model.model.") + "weight"
            update = matrices[f"{place}lora_B.weight"] @ matrices[name]
            changed[target] = base.weights[target] + scale * update
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(base.fields), encoding="utf-8")
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def loaded(home: Path, tuned: Path | None = None) -> Loaded:
    """Load a base, and an adapter on it, as answering does, but for the tokenizer."""
    family = families.load("chatglm")
    record = json.loads((tuned / "model.json").read_text(encoding="utf-8")) if tuned else {}
    kind = record.get("kind", "base")
    whole = layouts.model(home, family, torch.float32, None)
    nobody = cast(Any, None)
    device = torch.device("cpu")
    found = Loaded(
        whole.train(False), nobody, family, device, torch.float32, kind, TrainSpec(), home
    )
    if tuned:
        methods.load(kind).attach(found, tuned)
    return found


@torch.no_grad()
def logits(found: Loaded, ids: Tensor, padding: Tensor | None = None) -> Tensor:
    """Return the logits of prompts as answering computes them."""
    padding = torch.zeros(len(ids), dtype=torch.int64) if padding is None else padding
    prefix = found.prefix
    passes = found.view.passes(ids, padding, prefix.tokens if prefix else 0, found.dtype)
    cache = prefix.cache(len(ids), growing=True) if prefix else None
    result: Tensor = found.model(input_ids=ids, past_key_values=cache, **passes.inputs(0)).logits
    return result


def prompt(base: Original) -> Tensor:
    """Return a prompt; the first generation needs its two control tokens."""
    draw = torch.Generator().manual_seed(9)
    ids = torch.randint(4, 80, (2, 9), generator=draw)
    if "gmask_token_id" in base.fields:
        ids[:, -2], ids[:, -1] = base.fields["gmask_token_id"], base.fields["bos_token_id"]
    return ids


def difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "model.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("names", [ALL[:1], ALL], ids=["attention", "all"])
def test_an_adopted_lora_answers_like_the_adapter_on_the_original_matrices(
    names: tuple[str, ...], base: Original, tmp_path: Path
) -> None:
    adapter = lora(base, tmp_path / "adapter", names)
    exchange.adopt(order(base.home, adapter, tmp_path / "out"))
    ids = prompt(base)
    ours = logits(loaded(base.home, tmp_path / "out"), ids)
    oracle = logits(loaded(merged_by_hand(base, adapter, 8 / 3, tmp_path / "whole")), ids)
    assert difference(ours, logits(loaded(base.home), ids)) > 0.05
    assert difference(ours, oracle) <= 1e-5


def test_the_three_parts_of_an_adopted_lora_share_a_and_keep_all_rows_of_b(
    base: Original, tmp_path: Path
) -> None:
    adapter = lora(base, tmp_path / "adapter", ALL[:1])
    exchange.adopt(order(base.home, adapter, tmp_path / "out"))
    ours = load_file(tmp_path / "out/adapter_model.safetensors")
    theirs = load_file(adapter / "adapter_model.safetensors")
    fused = f"base_model.model.{base.linear(0, ALL[0])}"
    place = "base_model.model.model.layers.0.self_attn"
    rows = []
    for part in ("q_proj", "k_proj", "v_proj"):
        assert ours[f"{place}.{part}.lora_A.weight"].equal(theirs[f"{fused}.lora_A.weight"])
        rows += ours[f"{place}.{part}.lora_B.weight"].tolist()
    assert sorted(rows) == sorted(theirs[f"{fused}.lora_B.weight"].tolist())


def test_an_adopted_lora_is_recorded_like_one_that_was_trained_here(
    bases: dict[str, Original], tmp_path: Path
) -> None:
    adapter = lora(bases["v2"], tmp_path / "adapter", ALL[:1])
    spec = TrainSpec(max_prompt_tokens=77)
    exchange.adopt(order(bases["v2"].home, adapter, tmp_path / "out", train=spec))
    found = record(tmp_path / "out")
    assert found["kind"] == "lora"
    assert (found["family"], found["base_digest"]) == ("chatglm", DIGEST)
    assert found["train"]["method"]["rank"] == 3
    assert found["train"]["method"]["layers"] == "attention"
    assert found["train"]["max_prompt_tokens"] == 77
    assert set(found["data"]["adopted"]) == {"adapter_model.safetensors"}
    weights = load_file(adapter / "adapter_model.safetensors")
    assert found["parameters"]["trainable"] == sum(t.numel() for t in weights.values())


def test_a_lora_trained_on_four_bits_is_recorded_so_when_the_job_says_it(
    bases: dict[str, Original], tmp_path: Path
) -> None:
    adapter = lora(bases["v2"], tmp_path / "adapter")
    spec = TrainSpec(method=Qlora(quantisation="fp4"))
    exchange.adopt(order(bases["v2"].home, adapter, tmp_path / "out", train=spec))
    method = record(tmp_path / "out")["train"]["method"]
    assert record(tmp_path / "out")["kind"] == "qlora"
    assert (method["quantisation"], method["rank"], method["layers"]) == ("fp4", 3, "all")


def test_a_bin_is_adopted_without_unpickling_to_the_same_files(
    base: Original, tmp_path: Path
) -> None:
    adapter = lora(base, tmp_path / "adapter")
    exchange.adopt(order(base.home, adapter, tmp_path / "safe"))
    weights = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    exchange.adopt(order(base.home, adapter, tmp_path / "bin"))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "bin" / name).read_bytes() == (tmp_path / "safe" / name).read_bytes()


def test_a_bin_that_would_run_code_is_refused(base: Original, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"a": Path("b")}, adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"adapter_model\.bin: not a file of tensors"):
        exchange.adopt(order(base.home, adapter, tmp_path / "out"))


def test_a_rank_stabilised_lora_keeps_its_scale(base: Original, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "adapter", use_rslora=True)
    exchange.adopt(order(base.home, adapter, tmp_path / "out"))
    ids = prompt(base)
    ours = logits(loaded(base.home, tmp_path / "out"), ids)
    oracle = merged_by_hand(base, adapter, 8 / 3**0.5, tmp_path / "whole")
    assert difference(ours, logits(loaded(oracle), ids)) <= 2e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora True"),
        ({"bias": "lora_only"}, "bias 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa'"),
        ({"r": 4}, "rank 3 .adapter_config.json says 4."),
        ({"lora_alpha": None}, "lacks r or lora_alpha"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_plain_lora_cannot_carry_is_refused_by_name(
    change: dict[str, Any], said: str, bases: dict[str, Original], tmp_path: Path
) -> None:
    adapter = lora(bases["v2"], tmp_path / "adapter", **change)
    with pytest.raises(ConfigError, match=said):
        exchange.adopt(order(bases["v2"].home, adapter, tmp_path / "out"))
    assert not (tmp_path / "out/model.json").exists()


def test_a_lora_of_another_generation_is_refused(
    bases: dict[str, Original], tmp_path: Path
) -> None:
    adapter = lora(bases["v2"], tmp_path / "adapter")
    with pytest.raises(ConfigError, match="which ChatGLM-6B does not have"):
        exchange.adopt(order(bases["v1"].home, adapter, tmp_path / "out"))


@pytest.mark.parametrize("layers", [1, 3])
def test_a_lora_for_another_number_of_layers_is_refused(
    layers: int, base: Original, tmp_path: Path
) -> None:
    adapter = lora(base, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    for name in list(weights):
        if f"{base.blocks}.1." in name:
            other = name.replace(f"{base.blocks}.1.", f"{base.blocks}.2.")
            if layers == 3:
                weights[other] = weights[name].clone()
            else:
                del weights[name]
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"adapters on . layers.*the base has 2"):
        exchange.adopt(order(base.home, adapter, tmp_path / "out"))


def test_a_lora_of_another_width_is_refused(base: Original, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(n for n in weights if n.endswith("query_key_value.lora_A.weight"))
    save_file(weights | {name: torch.zeros(3, 20)}, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="is for 20 inputs"):
        exchange.adopt(order(base.home, adapter, tmp_path / "out"))


def encoder(
    base: Original, folder: Path, tokens: int = PREFIX, projected: bool = False
) -> dict[str, Tensor]:
    """Write a random prefix encoder as the original's trainer saves one, and return its weights."""
    draw = torch.Generator().manual_seed(11)
    numbers = shape.of(base.home).prefix_width
    width = base.fields["hidden_size"]

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=draw)

    weights = {"embedding.weight": random(tokens, numbers)}
    if projected:
        inner = width if "gmask_token_id" in base.fields else numbers
        weights = {
            "embedding.weight": random(tokens, inner),
            "trans.0.weight": random(width, inner) / 4,
            "trans.0.bias": random(width),
            "trans.2.weight": random(numbers, width) / 4,
            "trans.2.bias": random(numbers),
        }
    named = {f"transformer.prefix_encoder.{name}": t for name, t in weights.items()}
    folder.mkdir(exist_ok=True)
    torch.save(named, folder / "pytorch_model.bin")
    return named


def as_the_original_reads_it(base: Original, named: dict[str, Tensor]) -> Tensor:
    """Return `(layers, 2, 1, heads, tokens, head)`: what the original's network puts into its cache."""
    short = {name.removeprefix("transformer.prefix_encoder."): t for name, t in named.items()}
    states = short["embedding.weight"]
    if "trans.0.weight" in short:
        first = torch.nn.functional.linear(states, short["trans.0.weight"], short["trans.0.bias"])
        states = torch.nn.functional.linear(
            first.tanh(), short["trans.2.weight"], short["trans.2.bias"]
        )
    sizes = shape.of(base.home)
    view = states.view(1, len(states), 2 * sizes.layers, sizes.groups, sizes.head)
    # the original's order is layers, tokens, rows, heads; ours has rows and heads before tokens
    return view.permute(2, 0, 3, 1, 4).unflatten(0, (sizes.layers, 2))


@torch.no_grad()
def original_logits(base: Original, states: Tensor, ids: Tensor) -> Tensor:
    """Return what the original computes: keys as they are stored, the text from position 0 on."""
    network = loaded(base.home).model
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(states):
        rows = (len(ids), -1, -1, -1)
        cache.update(keys.expand(rows), values.expand(rows), layer)
    tokens, width = states.shape[-2], ids.shape[1]
    positions = torch.arange(width)[None].expand(len(ids), -1)
    seen = torch.ones(width, tokens + width, dtype=torch.bool).tril(tokens)
    mask = torch.zeros(1, 1, width, tokens + width).masked_fill(~seen, -1e9)
    result: Tensor = network(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache
    ).logits
    return result


@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projection"])
def test_a_prefix_encoder_of_the_later_generations_answers_as_in_its_own_layout(
    projected: bool, bases: dict[str, Original], tmp_path: Path
) -> None:
    base = bases["v2"]
    weights = encoder(base, tmp_path / "checkpoint", projected=projected)
    exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "out"))
    ids = prompt(base)
    oracle = original_logits(base, as_the_original_reads_it(base, weights), ids)
    ours = loaded(base.home, tmp_path / "out")
    assert difference(logits(ours, ids), oracle) <= 1e-5
    assert difference(logits(loaded(base.home), ids), oracle) > 0.05


def test_keys_that_are_not_turned_to_their_positions_answer_otherwise(
    bases: dict[str, Original], tmp_path: Path
) -> None:
    """The comparison above can fail: it does for the keys as they are stored."""
    base = bases["v2"]
    weights = encoder(base, tmp_path / "checkpoint")
    exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "out"))
    ids = prompt(base)
    oracle = original_logits(base, as_the_original_reads_it(base, weights), ids)
    ours = loaded(base.home, tmp_path / "out")
    assert ours.prefix is not None
    ours.prefix.embedding.weight.data.copy_(next(iter(weights.values())))
    assert difference(logits(ours, ids), oracle) > 1e-3


@pytest.mark.parametrize("name", ["prefix", "projection"])
@pytest.mark.parametrize("generation", ["v1", "v2", "v3"])
def test_a_prefix_encoder_answers_as_the_original_code_did(
    generation: str, name: str, tmp_path: Path
) -> None:
    """The reference logits are of the original code, for prompts of different lengths."""
    base, found = reference(generation, name, tmp_path)
    exchange.adopt(order(base, tmp_path / "checkpoint", tmp_path / "out"))
    ids, wanted = found["left/ids"], found["left/logits"]
    pad = json.loads((base / "config.json").read_text(encoding="utf-8"))["pad_token_id"]
    padding = (ids == pad).long().cumprod(1).sum(1)
    assert padding.max() > 0
    ours = logits(loaded(base, tmp_path / "out"), ids, padding)
    real = torch.arange(ids.shape[1])[None] >= padding[:, None]
    assert difference(ours[real], wanted[real]) <= 2e-5


def reference(generation: str, name: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Write base and checkpoint of a stored case; return the base, and what the original computed."""
    for case, home in (("plain", folder / "base"), (name, folder / "checkpoint")):
        with safe_open(REFERENCE / f"{generation}-{case}.safetensors", "pt") as file:
            fields = file.metadata()["config"]
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        own = {key.removeprefix("weight/"): t for key, t in found.items() if "weight/" in key}
        home.mkdir()
        (home / "config.json").write_text(fields, encoding="utf-8")
        torch.save(own, home / "pytorch_model.bin")
    return folder / "base", found


def test_a_prefix_encoder_within_a_whole_checkpoint_is_found_in_its_shards(
    bases: dict[str, Original], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = bases["v2"]
    weights = encoder(base, tmp_path / "alone")
    whole = tmp_path / "whole"
    whole.mkdir()
    fields = base.fields | {"pre_seq_len": PREFIX, "prefix_projection": False}
    (whole / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    chatglm_layouts.write_weights(whole, base.weights | weights, "bin", 3)
    torch.save({"learning_rate": torch.ones(1)}, whole / "optimizer.bin")
    for name in ("alone", "whole"):
        exchange.adopt(order(base.home, tmp_path / name, tmp_path / f"{name}-out"))
    one, other = (tmp_path / f"{n}-out/adapter_model.safetensors" for n in ("alone", "whole"))
    assert one.read_bytes() == other.read_bytes()
    assert (
        f"{len(base.weights):,} other weights beside it are left aside" in capsys.readouterr().out
    )
    assert record(tmp_path / "whole-out")["train"]["method"] == {
        "kind": "prefix",
        "tokens": PREFIX,
        "projection": False,
        "projection_width": 0,
    }


def test_a_prefix_within_a_checkpoint_of_another_base_is_refused(
    bases: dict[str, Original], tmp_path: Path
) -> None:
    """ChatGLM3-6B and ChatGLM3-6B-Base are of one size: only their weights tell them apart."""
    base = bases["v2"]
    weights = encoder(base, tmp_path / "checkpoint")
    name = "transformer.encoder.final_layernorm.weight"
    strange = {name: base.weights[name] * 1.2}
    torch.save(base.weights | weights | strange, tmp_path / "checkpoint/pytorch_model.bin")
    with pytest.raises(ConfigError, match=rf"not the base model \({name} differs"):
        exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "out"))
    rounded = {n: t.bfloat16() for n, t in base.weights.items()}
    torch.save(rounded | weights, tmp_path / "checkpoint/pytorch_model.bin")
    exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "out"))


def test_a_prefix_encoder_of_another_generation_is_refused(
    bases: dict[str, Original], tmp_path: Path
) -> None:
    encoder(bases["v1"], tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match=r"a prefix of shape .5, 128. .the base needs .* 96:"):
        exchange.adopt(order(bases["v2"].home, tmp_path / "checkpoint", tmp_path / "out"))


def test_a_prefix_of_another_length_than_its_configuration_says_is_refused(
    base: Original, tmp_path: Path
) -> None:
    encoder(base, tmp_path / "checkpoint", tokens=4)
    (tmp_path / "checkpoint/config.json").write_text('{"pre_seq_len": 128}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"pre_seq_len is 128 .the prefix encoder has 4"):
        exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "out"))


def test_a_prefix_that_has_diverged_is_refused(base: Original, tmp_path: Path) -> None:
    weights = encoder(base, tmp_path / "checkpoint")
    weights[next(iter(weights))][1, 2] = float("nan")
    torch.save(weights, tmp_path / "checkpoint/pytorch_model.bin")
    with pytest.raises(ConfigError, match="not finite"):
        exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "out"))


def test_a_projection_with_a_missing_layer_is_refused(base: Original, tmp_path: Path) -> None:
    weights = encoder(base, tmp_path / "checkpoint", projected=True)
    del weights["transformer.prefix_encoder.trans.2.bias"]
    torch.save(weights, tmp_path / "checkpoint/pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"lacks trans\.2\.bias"):
        exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "out"))


def test_a_directory_without_an_adapter_is_refused(base: Original, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no prefix encoder among \d+ weights"):
        exchange.adopt(order(base.home, base.home, tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no adapter here"):
        exchange.adopt(order(base.home, tmp_path / "empty", tmp_path / "out"))


def test_a_lora_that_is_exported_again_is_the_one_that_was_adopted(
    base: Original, tmp_path: Path
) -> None:
    adapter = lora(base, tmp_path / "adapter")
    exchange.adopt(order(base.home, adapter, tmp_path / "ours"))
    exchange.export(order(base.home, tmp_path / "ours", tmp_path / "theirs"))
    one = load_file(adapter / "adapter_model.safetensors")
    other = load_file(tmp_path / "theirs/adapter_model.safetensors")
    assert set(one) == set(other)
    assert all(other[name].equal(tensor) for name, tensor in one.items())
    config = json.loads((tmp_path / "theirs/adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"]) == (3, 8)
    assert set(config["target_modules"]) == set(ALL)


def native_lora(base: Original, folder: Path, targets: tuple[str, ...]) -> Path:
    """Write an adapter as training writes one: query, key and value have an A each."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    found = loaded(base.home)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=6, target_modules=list(targets))
    torch.manual_seed(4)
    found.adapted = get_peft_model(found.model, config)
    for layer in found.model.modules():
        if isinstance(layer, LoraLayer):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.3)
    found.kind = "lora"
    folder.mkdir()
    method = methods.load("lora")
    method.write(found, method.tensors(found), folder, DIGEST)
    tuned_here("lora", folder)
    return folder


def tuned_here(kind: str, folder: Path) -> None:
    """Write what the record of a tuned model says about it."""
    said = {"kind": kind, "family": "chatglm", "base_digest": DIGEST}
    (folder / "model.json").write_text(json.dumps(said), encoding="utf-8")


@pytest.mark.parametrize("targets", ["attention", "all", "some"])
def test_a_lora_that_was_trained_here_is_exported_exactly(
    targets: str, base: Original, tmp_path: Path
) -> None:
    up = "up_proj" if "gmask_token_id" in base.fields else "gate_up_proj"
    chosen = {
        "attention": ("q_proj", "k_proj", "v_proj"),
        "all": ("q_proj", "k_proj", "v_proj", "o_proj", up, "down_proj"),
        "some": ("q_proj", "v_proj", "o_proj"),
    }[targets]
    ours = native_lora(base, tmp_path / "ours", chosen)
    exchange.export(order(base.home, ours, tmp_path / "theirs"))
    exchange.adopt(order(base.home, tmp_path / "theirs", tmp_path / "back"))
    ids = prompt(base)
    before, after = (logits(loaded(base.home, tmp_path / n), ids) for n in ("ours", "back"))
    oracle = merged_by_hand(base, tmp_path / "theirs", 3.0, tmp_path / "whole")
    assert difference(before, logits(loaded(base.home), ids)) > 0.05
    assert difference(before, after) <= 1e-5
    assert difference(before, logits(loaded(oracle), ids)) <= 1e-5
    config = json.loads((tmp_path / "theirs/adapter_config.json").read_text(encoding="utf-8"))
    if targets == "attention":  # peft of ChatGLM's days knows no patterns
        assert (config["r"], config["lora_alpha"]) == (6, 18)
        assert not {"rank_pattern", "alpha_pattern", "use_rslora"} & set(config)


def test_peft_puts_an_exported_lora_on_layers_of_the_original_names(
    base: Original, tmp_path: Path
) -> None:
    """The files are read by peft itself, onto a module tree that is named as the original's."""
    from peft import PeftModel

    up = "up_proj" if "gmask_token_id" in base.fields else "gate_up_proj"
    names = ("q_proj", "k_proj", "v_proj", "o_proj", up, "down_proj")
    ours = native_lora(base, tmp_path / "ours", names)
    exchange.export(order(base.home, ours, tmp_path / "theirs"))
    tree = module_tree(base)
    adapted = PeftModel.from_pretrained(tree, tmp_path / "theirs")
    merged = dict(adapted.merge_and_unload().named_parameters())
    oracle = merged_by_hand(base, tmp_path / "theirs", 3.0, tmp_path / "whole")
    wanted = load_file(oracle / "model.safetensors")
    for layer in range(2):
        for name in ALL:
            place = f"{base.linear(layer, name)}.weight"
            assert difference(merged[place], wanted[place]) <= 1e-6
            assert difference(merged[place], base.weights[place]) > 1e-3


def module_tree(base: Original) -> torch.nn.Module:
    """Return the linear layers of a base as modules under their original names."""
    root = torch.nn.Module()
    root.prepare_inputs_for_generation = None  # peft asks every causal model for it
    for layer in range(base.fields["num_layers"]):
        for name in ALL:
            *path, last = base.linear(layer, name).split(".")
            place = root
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, torch.nn.Module())
                place = place.get_submodule(part)
            weight = base.weights[f"{base.linear(layer, name)}.weight"]
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight.data.copy_(weight)
            place.add_module(last, linear)
    return root


def test_a_prefix_that_is_exported_again_is_the_encoder_that_was_adopted(
    base: Original, tmp_path: Path
) -> None:
    weights = encoder(base, tmp_path / "checkpoint")
    exchange.adopt(order(base.home, tmp_path / "checkpoint", tmp_path / "ours"))
    exchange.export(order(base.home, tmp_path / "ours", tmp_path / "theirs"))
    exported = load_file(tmp_path / "theirs/prefix_encoder.safetensors")
    assert set(exported) == set(weights)
    name = next(iter(weights))
    assert difference(exported[name], weights[name]) <= 1e-6
    config = json.loads((tmp_path / "theirs/config.json").read_text(encoding="utf-8"))
    assert config == {"pre_seq_len": PREFIX, "prefix_projection": False}


def test_a_prefix_that_was_trained_here_is_exported_for_the_original(
    bases: dict[str, Original], tmp_path: Path
) -> None:
    base = bases["v2"]
    found = loaded(base.home)
    method = methods.load("prefix")
    method.add(found, Prefix(tokens=PREFIX), 3)
    found.kind = "prefix"
    (tmp_path / "ours").mkdir()
    method.write(found, method.tensors(found), tmp_path / "ours", DIGEST)
    tuned_here("prefix", tmp_path / "ours")
    exchange.export(order(base.home, tmp_path / "ours", tmp_path / "theirs"))
    exported = load_file(tmp_path / "theirs/prefix_encoder.safetensors")
    ids = prompt(base)
    oracle = original_logits(base, as_the_original_reads_it(base, exported), ids)
    assert difference(logits(found, ids), oracle) <= 1e-5
    exchange.adopt(order(base.home, tmp_path / "theirs", tmp_path / "back"))
    back = loaded(base.home, tmp_path / "back")
    assert difference(logits(back, ids), logits(found, ids)) <= 1e-5


def test_only_layers_that_the_original_has_are_exported(base: Original, tmp_path: Path) -> None:
    ours = native_lora(base, tmp_path / "ours", ("q_proj",))
    path = ours / "adapter_model.safetensors"
    moved = {
        n.replace("model.layers.0.self_attn.q_proj", "lm_head"): t
        for n, t in load_file(path).items()
    }
    save_file(moved, path)
    with pytest.raises(ConfigError, match="an adapter on lm_head"):
        exchange.export(order(base.home, ours, tmp_path / "theirs"))


def said(job: Job, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a job as a process would; return its exit code and its last line."""
    job.write(folder / "job.json")
    code = main([job.action, "--job", str(folder / "job.json")])
    return code, capsys.readouterr().out.splitlines()[-1]


def test_a_job_adopts_and_another_gives_back(
    bases: dict[str, Original], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = bases["v2"]
    adapter = lora(base, tmp_path / "adapter")
    job = order(base.home, adapter, tmp_path / "ours")
    assert said(job, tmp_path, capsys) == (
        0,
        f"{adapter}: LoRA of rank 3 on 8 layers of ChatGLM2/3, 3,744 parameters, "
        "taken over without rounding",
    )
    job = order(base.home, tmp_path / "ours", tmp_path / "theirs")
    code, line = said(replace(job, action="export"), tmp_path, capsys)
    assert code == 0
    assert line.endswith("load it with peft on the original model")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"tuned": ""}, "tuned: is empty. Name a directory."),
        ({"out": ""}, "out: is empty. Name a directory."),
        ({"tuned": "nowhere"}, "tuned: no such directory (found 'nowhere')"),
        ({"family": "llama"}, "family: adapters are exchanged with ChatGLM's own layouts only"),
        ({"action": "export"}, "model.json: not the record of a tuned model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_job_that_cannot_exchange_is_refused_at_once(
    change: dict[str, Any],
    line: str,
    bases: dict[str, Original],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = lora(bases["v2"], tmp_path / "adapter")
    job = order(bases["v2"].home, adapter, tmp_path / "out")
    code, found = said(replace(job, **change), tmp_path, capsys)
    assert code == 64
    assert found.startswith("[error] ")
    assert line in found
    assert not (tmp_path / "out").exists()


def test_out_must_not_be_one_of_the_directories_that_are_read(
    bases: dict[str, Original], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = lora(bases["v2"], tmp_path / "adapter")
    job = order(bases["v2"].home, adapter, adapter)
    assert said(job, tmp_path, capsys) == (
        64,
        f"[error] {tmp_path}/job.json: out: is the directory of tuned. Name another.",
    )


def test_a_whole_model_cannot_be_exported(
    bases: dict[str, Original], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/model.json").write_text('{"kind": "full"}', encoding="utf-8")
    job = order(bases["v2"].home, tmp_path / "tuned", tmp_path / "out")
    code, line = said(replace(job, action="export"), tmp_path, capsys)
    assert code == 64
    assert "it is a whole model, not an adapter" in line
