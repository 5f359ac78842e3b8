"""Weights of every layout become the right model, and whatever is wrong with them is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chatglm_6b
import chatglm_layouts
import pytest
import tiny_models
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import GlmForCausalLM, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM

from tasks.trainer import layouts
from tasks.trainer.errors import ConfigError
from tasks.trainer.layouts import chatglm2, reading
from tasks.trainer.methods.quantised import Bits

DATA = Path(__file__).parent / "data" / "chatglm"
GENERATIONS = ["v2", "v3"]
Write = Callable[..., Path]


def family(*architectures: str, attention: str = "sdpa") -> Any:
    return SimpleNamespace(ARCHITECTURES=architectures, ATTENTION=attention)


CHATGLM = family("ChatGLMModel", "ChatGLMForConditionalGeneration", "GlmForCausalLM")


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    chatter: Any = transformers.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    yield
    torch.set_num_threads(before)


def first_generation(folder: Path, **sizes: int) -> Path:
    """Write a random ChatGLM-6B without a tokenizer, as published in `.bin`."""
    return chatglm_6b.write(folder, chatglm_6b.config(**sizes), "bin", 2)


def load(home: Path, like: Any = CHATGLM, **how: Any) -> Any:
    return layouts.model(home, like, torch.float32, **how)


def reference(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return configuration, weights and what the original computed with them."""
    path = DATA / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = load_file(path)
    weights = {k.removeprefix("weight/"): t for k, t in tensors.items() if k.startswith("weight/")}
    return config, weights, {k: t for k, t in tensors.items() if not k.startswith("weight/")}


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def home(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the original computed with: v2 as `.bin`, v3 as safetensors."""
    config, weights, _ = reference(f"{generation}-plain")
    folder = tmp_path_factory.mktemp(generation)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    form: Any = "bin" if generation == "v2" else "safetensors"
    chatglm_layouts.write_weights(folder, weights, form, 3)
    return folder


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_the_original(home: Path, generation: str, attention: str) -> None:
    _, _, wanted = reference(f"{generation}-plain")
    model = load(home, family("ChatGLMModel", attention=attention))
    assert model.config._attn_implementation == attention
    assert not model.training
    with torch.no_grad():
        right = model(input_ids=wanted["right/ids"]).logits
        long = model(input_ids=wanted["long/ids"]).logits[:, -1]
        mask = wanted["left/mask"]
        left = model(wanted["left/ids"], attention_mask=mask, position_ids=positions(mask)).logits
    assert wanted["right/logits"].abs().max() > 1
    assert difference(right, wanted["right/logits"]) <= 1e-4
    assert difference(long, wanted["long/logits"]) <= 1e-4
    assert difference(left[mask.bool()], wanted["left/logits"][mask.bool()]) <= 1e-4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_answers_are_those_of_the_original(
    home: Path, generation: str, attention: str
) -> None:
    _, _, wanted = reference(f"{generation}-plain")
    model = load(home, family("ChatGLMModel", attention=attention))
    ids, whole = wanted["left/ids"], wanted["left/generated"]
    answers = whole[:, ids.shape[1] :]
    assert len(answers.unique()) > 3, "nothing to tell apart"
    assert torch.equal(greedy(model, ids, wanted["left/mask"], answers.shape[1]), whole)
    one, alone = wanted["single/ids"], wanted["single/generated"]
    assert torch.equal(
        greedy(model, one, torch.ones_like(one), alone.shape[1] - one.shape[1]), alone
    )


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def greedy(model: Any, ids: torch.Tensor, mask: torch.Tensor, steps: int) -> torch.Tensor:
    """Answer over a cache, one token of each row at a time."""
    cache, now, place = None, ids, positions(mask)
    for _ in range(steps):
        out = model(
            now,
            attention_mask=mask,
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
        )
        cache, now = out.past_key_values, out.logits[:, -1:].argmax(-1)
        ids, mask = torch.cat([ids, now], 1), torch.cat([mask, torch.ones_like(now)], 1)
        place = place[:, -1:] + 1
    return ids


@pytest.mark.parametrize("write", [chatglm_layouts.v2, chatglm_layouts.v3])
@pytest.mark.parametrize(("form", "shards"), [("bin", 1), ("bin", 3), ("safetensors", 2)])
def test_the_way_there_and_back_gives_the_same_bits(
    tmp_path: Path, write: Write, form: str, shards: int
) -> None:
    home = write(tmp_path, weights=form, shards=shards)
    model = load(home)
    assert type(model) is GlmForCausalLM
    back = dict(chatglm2.to_original(model.state_dict(), model.config))
    wanted = dict(reading.folder(home))
    del wanted["transformer.rotary_pos_emb.inv_freq"]
    assert set(back) == set(wanted)
    assert all(torch.equal(back[name], tensor) for name, tensor in wanted.items())


def test_a_model_that_came_from_the_original_layout_is_saved_and_loaded_natively(
    tmp_path: Path,
) -> None:
    first = load(chatglm_layouts.v3(tmp_path / "original"))
    first.save_pretrained(tmp_path / "native")
    again = load(tmp_path / "native")
    assert again.config.num_key_value_heads == first.config.num_key_value_heads
    ids = torch.arange(3, 40)[None]
    assert torch.equal(again(ids).logits, first(ids).logits)


def test_what_training_does_to_the_weights_does_not_reach_the_files(tmp_path: Path) -> None:
    home = chatglm_layouts.v2(tmp_path)
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    model = load(home)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    del model
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_safetensors_are_taken_where_both_are_there(tmp_path: Path) -> None:
    home = chatglm_layouts.v3(tmp_path, weights="safetensors")
    (home / "pytorch_model.bin").write_bytes(b"no tensors at all")
    assert load(home).config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rmsnorm": False}, "rmsnorm"),
        ({"post_layer_norm": False}, "post_layer_norm"),
        ({"add_bias_linear": True}, "add_bias_linear"),
        ({"apply_residual_connection_post_layernorm": True}, "apply_residual_connection"),
        ({"multi_query_attention": False}, "multi_query_attention"),
        ({"multi_query_attention": None}, "multi_query_attention"),
        ({"fp32_residual_connection": True}, "fp32_residual_connection"),
        ({"hidden_dropout": 0.1}, "hidden_dropout"),
        ({"quantization_bit": 4}, "qlora quantises it"),
        ({"pre_seq_len": 128}, "`adopt`"),
        ({"rope_ratio": 8, "_name_or_path": "mine"}, "_name_or_path"),
        ({"num_layers": None}, "num_layers"),
        ({"hidden_size": "4096"}, "hidden_size"),
        ({"multi_query_group_num": 3}, "num_attention_heads must be a multiple"),
        ({"layernorm_epsilon": "small"}, "layernorm_epsilon|rms_norm_eps"),
    ],
)
def test_a_configuration_that_is_not_covered_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    home = chatglm_layouts.v2(tmp_path)
    rewrite(home, change)
    with pytest.raises(ConfigError, match=told):
        layouts.config(home)
    with pytest.raises(ConfigError, match=told):
        load(home)


def rewrite(home: Path, change: dict[str, Any]) -> None:
    path = home / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | change
    path.write_text(json.dumps(fields), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "angles"),
    [
        ("THUDM/chatglm2-6b-32k", lambda place, theta: (place / 4) * theta(10000.0)),
        ("THUDM/chatglm3-6b-32k", lambda place, theta: place * theta(40000.0)),
    ],
)
def test_a_rope_ratio_means_what_the_model_of_that_name_means(
    tmp_path: Path, name: str, angles: Callable[..., torch.Tensor]
) -> None:
    home = chatglm_layouts.v3(tmp_path)
    rewrite(home, {"rope_ratio": 4, "_name_or_path": name})
    turn = load(home).model.rotary_emb
    place = torch.arange(50)[:, None]
    wanted = angles(place, lambda base: base ** -(torch.arange(0, 6, 2) / 6))
    cosine, sine = turn(torch.zeros(1), place.T)
    assert difference(cosine[0, :, :3], wanted.cos()) < 1e-5
    assert difference(sine[0, :, :3], wanted.sin()) < 1e-5


def test_the_output_layer_is_never_tied(tmp_path: Path) -> None:
    home = chatglm_layouts.v2(tmp_path)
    plain = load(home)
    rewrite(home, {"tie_word_embeddings": True})
    assert not layouts.config(home).tie_word_embeddings
    ids = torch.arange(3, 40)[None]
    assert torch.equal(load(home)(ids).logits, plain(ids).logits)


@pytest.mark.parametrize(
    "name", ["THUDM/chatglm2-6b", "THUDM/chatglm3-6b", "THUDM/chatglm3-6b-base"]
)
def test_the_published_sizes_give_the_published_number_of_weights(
    tmp_path: Path, name: str
) -> None:
    home = chatglm_layouts.v3(tmp_path)
    sizes = {"hidden_size": 4096, "ffn_hidden_size": 13696, "kv_channels": 128, "num_layers": 28}
    heads = {"num_attention_heads": 32, "multi_query_group_num": 2, "padded_vocab_size": 65024}
    rewrite(home, {**sizes, **heads, "_name_or_path": name, "seq_length": 32768})
    with torch.device("meta"):
        model = GlmForCausalLM(layouts.config(home))
    # the index of the published files says 12,487,168,064 bytes; 64 of them are `inv_freq`
    assert sum(2 * p.numel() for p in model.parameters()) + 64 == 12_487_168_064


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    home = chatglm_layouts.v3(tmp_path)
    whole = load_file(home / "model.safetensors")

    def refused(change: dict[str, torch.Tensor | None], told: str) -> None:
        changed = {k: t for k, t in (whole | change).items() if t is not None}
        save_file(changed, home / "model.safetensors", metadata={"format": "pt"})
        for bits in (None, Bits("nf4", True, torch.float32)):
            with pytest.raises(ConfigError, match=told):
                load(home, quantisation=bits)

    layer = "transformer.encoder.layers.1"
    refused({f"{layer}.mlp.dense_4h_to_h.weight": None}, "1 weights are missing.*down_proj")
    refused({f"{layer}.self_attention.query_key_value.bias": None}, "3 weights are missing")
    refused({f"{layer}.self_attention.query_key_value.weight": torch.ones(9, 48)}, "rows")
    shaped = r"1 weights have another shape .*gate_up_proj.weight, found \(96, 96\), expected \(192, 48\)"
    refused({f"{layer}.mlp.dense_h_to_4h.weight": torch.ones(96, 96)}, shaped)
    shaped = r"1 weights have another shape .*norm.weight, found \(9,\), expected \(48,\)"
    refused({"transformer.encoder.final_layernorm.weight": torch.ones(9)}, shaped)
    stranger = {"transformer.encoder.layers.7.input_layernorm.weight": torch.ones(48)}
    refused({**stranger}, "1 weights have no place.*layers.7")
    refused({"transformer.encoder.layers.1.mlp.extra": torch.ones(1)}, "mlp.extra: is not a tensor")
    prefix = {"transformer.prefix_encoder.embedding.weight": torch.ones(4, 96)}
    refused({**prefix}, "trained prefix")


def test_an_index_and_its_files_must_agree(tmp_path: Path) -> None:
    def refused(told: str, damage: Callable[[Path, dict[str, Any]], None]) -> None:
        home = chatglm_layouts.v2(tmp_path / "model")
        path = home / "pytorch_model.bin.index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        damage(home, index)
        if path.exists():
            path.write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(ConfigError, match=told):
            load(home)
        shutil.rmtree(home)

    name = "transformer.output_layer.weight"
    first, second = (f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2))
    refused("a file of weights is missing", lambda home, _: (home / first).unlink())
    refused(
        "a file of weights is missing",
        lambda _, index: index["weight_map"].update({name: f"../model/{first}"}),
    )
    refused("cannot be read", lambda _, index: index.pop("weight_map"))
    refused("does not know all", lambda _, index: index["weight_map"].pop(name))

    def swap(_: Path, index: dict[str, Any]) -> None:
        place = index["weight_map"][name]
        index["weight_map"][name] = first if place == second else second

    refused("is missing, which pytorch_model.bin.index.json places here", swap)
    refused("is in another file too", lambda home, _: shutil.copy(home / first, home / second))
    lone = "no weights that are read .found pytorch_model-00001"
    refused(lone, lambda home, _: (home / "pytorch_model.bin.index.json").unlink())


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    home = chatglm_layouts.v3(tmp_path)
    (home / "model.safetensors").rename(home / "model.pt")
    with pytest.raises(ConfigError, match=r"no weights that are read \(found model.pt\)"):
        load(home)
    (home / "model.pt").unlink()
    with pytest.raises(ConfigError, match=r"no weights that are read \(found none\)"):
        load(home)
    (home / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(home)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config.json"):
        load(tmp_path)
    for text in ("{", "[]", '{"architectures": 3}', "[" * 100_000):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="cannot be read"):
            layouts.config(tmp_path)
    home = chatglm_layouts.v2(tmp_path)
    with pytest.raises(ConfigError, match=r"does not cover .*found ChatGLMModel"):
        load(home, family("LlamaForCausalLM"))


@pytest.mark.parametrize(
    ("write", "change", "told"),
    [
        (tiny_models.glm, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        (tiny_models.glm, {"quantization_config": "yes"}, "quantised already"),
        (tiny_models.glm, {"num_hidden_layers": 10**8}, "100,000,000 layers"),
        (chatglm_layouts.v2, {"num_layers": 10**8}, "100,000,000 layers"),
        (first_generation, {"num_layers": 10**8}, "100,000,000 layers"),
        (tiny_models.glm, {"vocab_size": 10**12}, "another shape.*expected .1000000000000, "),
        (tiny_models.glm, {"hidden_size": 2**40}, "describes no model|another shape"),
        (tiny_models.glm, {"hidden_act": "x"}, "describes no model .*KeyError"),
        (tiny_models.glm, {"num_key_value_heads": 0}, "describes no model .*ZeroDivisionError"),
        (tiny_models.glm, {"num_hidden_layers": "2"}, "expected int, got str"),
        (tiny_models.glm, {"rope_scaling": {"rope_type": "x"}}, "describes no model .*KeyError"),
        (tiny_models.glm, {"dtype": "x"}, "cannot be used .*no attribute"),
        (tiny_models.glm, {"dtype": []}, "cannot be used"),
        (tiny_models.mpt, {"n_heads": 0}, "describes no model .*ZeroDivisionError"),
        (tiny_models.mpt, {"rope_parameters": "x"}, "cannot be used"),
        (tiny_models.mpt, {"attn_config": 3}, "attn_config must be an object"),
    ],
)
def test_a_configuration_without_sense_is_refused_before_memory_is_spent(
    tmp_path: Path, write: Write, change: dict[str, Any], told: str
) -> None:
    home = write(tmp_path)
    rewrite(home, change)
    like = family(*CHATGLM.ARCHITECTURES, "MptForCausalLM")
    with pytest.raises(ConfigError, match=told) as caught:
        load(home, like)
    assert "\n" not in str(caught.value)


def test_names_that_could_steer_a_terminal_are_refused(tmp_path: Path) -> None:
    for name in ("a\n[error] b", "a\x1b[31m", "\udc80"):
        torch.save({name: torch.ones(1)}, tmp_path / "pytorch_model.bin")
        with pytest.raises(ConfigError, match="a name that cannot be shown") as caught:
            reading.folder(tmp_path)
        assert str(caught.value).isprintable()


def test_the_first_generation_is_told_from_the_others(tmp_path: Path) -> None:
    home = chatglm_6b.write(tmp_path, chatglm_6b.config(), "bin", 2)
    assert layouts.config(home).model_type == "chatglm_6b"
    model = load(home)
    assert type(model).__name__ == "ChatGlmForCausalLM"
    found = chatglm_6b.weights(chatglm_6b.config())["transformer.word_embeddings.weight"]
    assert torch.equal(model.get_input_embeddings().weight, found)
    model.save_pretrained(tmp_path / "native")
    again = load(tmp_path / "native", family("ChatGlmForCausalLM"))
    assert torch.equal(again.get_input_embeddings().weight, found)


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_number_format_is_that_of_the_files(
    tmp_path: Path, form: Any, dtype: torch.dtype
) -> None:
    home = chatglm_layouts.v3(tmp_path)
    whole = {name: tensor.to(dtype) for name, tensor in reading.folder(home).items()}
    whole["transformer.rotary_pos_emb.inv_freq"] = torch.ones(3)
    (home / "model.safetensors").unlink()
    chatglm_layouts.write_weights(home, whole, form, 2)
    assert layouts.stored_dtype(home) is dtype
    chatglm_layouts.write_weights(home, {"a": torch.arange(3)}, "safetensors", 1)
    with pytest.raises(ConfigError, match="no numbers to compute with"):
        layouts.stored_dtype(home)


def mpt_fields(**attention: Any) -> dict[str, Any]:
    """Return the config.json of MPT-7B with small sizes."""
    told = {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0}
    told |= {"attn_type": "multihead_attention", "attn_uses_sequence_id": False, "clip_qkv": None}
    told |= {"prefix_lm": False, "qk_ln": False, "softmax_scale": None}
    return {
        "architectures": ["MPTForCausalLM"],
        "attn_config": told | attention,
        "auto_map": {"AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"},
        **{"d_model": 16, "n_heads": 4, "n_layers": 2, "vocab_size": 40, "max_seq_len": 32},
        **{"emb_pdrop": 0, "resid_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4.0},
        "init_config": {"init_gain": 0, "name": "kaiming_normal_", "verbose": 0},
        **{"init_device": "cpu", "learned_pos_emb": True, "logit_scale": None, "no_bias": True},
        **{"model_type": "mpt", "norm_type": "low_precision_layernorm", "verbose": 0},
        **{"tokenizer_name": "EleutherAI/gpt-neox-20b", "torch_dtype": "bfloat16"},
        **{"transformers_version": "4.28.1", "use_cache": False},
    }


def mpt_weights(fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Draw the weights of an MPT under their published names."""
    draw = torch.Generator().manual_seed(6)
    width = fields["d_model"]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * 2 * shape[-1] ** -0.5

    found = {"transformer.wte.weight": random(fields["vocab_size"], width)}
    for number in range(fields["n_layers"]):
        block = f"transformer.blocks.{number}"
        found |= {f"{block}.norm_{n}.weight": 1 + random(1, width)[0] / 10 for n in (1, 2)}
        found |= {f"{block}.attn.Wqkv.weight": random(3 * width, width)}
        found |= {f"{block}.attn.out_proj.weight": random(width, width)}
        found |= {f"{block}.ffn.up_proj.weight": random(4 * width, width)}
        found |= {f"{block}.ffn.down_proj.weight": random(width, 4 * width)}
    return found | {"transformer.norm_f.weight": 1 + random(1, width)[0] / 10}


def mpt_logits(
    fields: dict[str, Any], weights: dict[str, torch.Tensor], ids: torch.Tensor
) -> torch.Tensor:
    """Compute an MPT by its formula (https://arxiv.org/abs/2108.12409 for the biases), in float64."""
    told, width, heads = fields["attn_config"], fields["d_model"], fields["n_heads"]
    w = {name: tensor.double() for name, tensor in weights.items()}
    limit, scale = told["clip_qkv"] or torch.inf, told["softmax_scale"] or (width / heads) ** -0.5
    place = torch.arange(ids.shape[1])
    back = (place[:, None] - place).double()
    slopes = 2.0 ** (-8 * torch.arange(1, heads + 1).double() / heads)
    added = (-slopes[:, None, None] * back).masked_fill(back < 0, -torch.inf)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]
        )

    x = w["transformer.wte.weight"][ids]
    for number in range(fields["n_layers"]):
        block = f"transformer.blocks.{number}"
        mixed = norm(f"{block}.norm_1", x) @ w[f"{block}.attn.Wqkv.weight"].T
        parts = mixed.clamp(-limit, limit).split(width, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        seen = ((q @ k.transpose(2, 3)) * scale + added).softmax(-1) @ v
        x = x + seen.transpose(1, 2).flatten(2) @ w[f"{block}.attn.out_proj.weight"].T
        inner = norm(f"{block}.norm_2", x) @ w[f"{block}.ffn.up_proj.weight"].T
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = x + inner @ w[f"{block}.ffn.down_proj.weight"].T
    return norm("transformer.norm_f", x) @ w["transformer.wte.weight"].T


class TestNative:
    def test_bins_give_the_same_model_as_safetensors(self, tmp_path: Path) -> None:
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
        config = LlamaConfig(
            vocab_size=40, num_attention_heads=2, tie_word_embeddings=True, **sizes
        )
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
        model.save_pretrained(tmp_path / "safe")
        model.config.save_pretrained(tmp_path / "bins")
        state = model.state_dict()
        # as old checkpoints have it
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        torch.save(state, tmp_path / "bins" / "pytorch_model.bin")
        rewrite(tmp_path / "bins", {"architectures": ["LlamaForCausalLM"]})
        safe, bins = (
            load(tmp_path / name, family("LlamaForCausalLM")).state_dict()
            for name in ("safe", "bins")
        )
        assert safe.keys() == bins.keys()
        assert all(torch.equal(safe[name], bins[name]) for name in safe)

    def test_mpt_is_loaded_under_the_name_of_its_own_code(self, tmp_path: Path) -> None:
        config = MptConfig(d_model=16, n_heads=2, n_layers=2, max_seq_len=32, vocab_size=40)
        torch.manual_seed(1)
        model = MptForCausalLM(config).eval()
        config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        rewrite(tmp_path, {"architectures": ["MPTForCausalLM"]})
        found = load(tmp_path, family("MPTForCausalLM", attention="eager"))
        ids = torch.arange(10)[None]
        assert torch.equal(found(ids).logits, model(ids).logits)

    def test_mpt_as_published_computes_what_its_configuration_says(self, tmp_path: Path) -> None:
        fields = mpt_fields(clip_qkv=6, softmax_scale=None)  # MPT-7B-StoryWriter
        ids = torch.randint(0, 40, (2, 12), generator=torch.Generator().manual_seed(4))
        for change in ({}, {"clip_qkv": 1}, {"softmax_scale": 1}, {"attn_pdrop": 0.0}):
            told = fields | {"attn_config": fields["attn_config"] | change}
            weights = mpt_weights(told)
            torch.save(weights, tmp_path / "pytorch_model.bin")
            (tmp_path / "config.json").write_text(json.dumps(told), encoding="utf-8")
            model = load(tmp_path, family("MPTForCausalLM", attention="eager"))
            wanted = mpt_logits(told, weights, ids)
            with torch.no_grad():
                assert difference(model(ids).logits, wanted) <= 1e-5
            assert wanted.abs().max() > 1

    def test_mpt_7b_has_its_published_number_of_weights(self, tmp_path: Path) -> None:
        sizes = {"d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432}
        (tmp_path / "config.json").write_text(json.dumps(mpt_fields() | sizes), encoding="utf-8")
        with torch.device("meta"):
            model = MptForCausalLM(layouts.config(tmp_path))
        assert sum(p.numel() for p in model.parameters()) == 6_649_286_656

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"logit_scale": "inv_sqrt_d_model"}, "logit_scale must be None"),
            ({"no_bias": False}, "no_bias must be True"),
            ({"expansion_ratio": 4.5}, "expected int, got float"),
            (
                {"norm_type": "rmsnorm"},
                "norm_type must be 'low_precision_layernorm' or 'layernorm'",
            ),
            ({"alibi": False}, "attn_config.alibi must be True"),
            ({"alibi_bias_max": 16}, "attn_config.alibi_bias_max must be 8"),
            ({"prefix_lm": True}, "attn_config.prefix_lm must be False"),
            ({"qk_ln": True}, "attn_config.qk_ln must be False"),
            ({"rope": True}, "attn_config.rope must be False"),
            ({"attn_type": "multiquery_attention"}, "attn_config.attn_type must be"),
            ({"attn_pdrop": 0.1}, "attn_config.attn_pdrop must be 0"),
        ],
    )
    def test_an_mpt_that_would_compute_something_else_is_refused(
        self, tmp_path: Path, change: dict[str, Any], told: str
    ) -> None:
        fields = mpt_fields()
        outside = {name: value for name, value in change.items() if name in fields}
        inside = {name: value for name, value in change.items() if name not in outside}
        fields |= {"attn_config": fields["attn_config"] | inside, **outside}
        (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        with pytest.raises(ConfigError, match=told):
            layouts.config(tmp_path)

    def test_weights_that_have_no_place_are_refused(self, tmp_path: Path) -> None:
        home = tiny_models.glm(tmp_path)
        whole = load_file(home / "model.safetensors") | {"model.extra.weight": torch.ones(2)}
        save_file(whole, home / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=r"have no place.*model\.extra"):
            load(home)

    @pytest.mark.parametrize("bits", [None, Bits("nf4", True, torch.float32)])
    def test_weights_of_another_shape_are_refused(self, tmp_path: Path, bits: Bits | None) -> None:
        home = tiny_models.glm(tmp_path)
        name = "model.layers.0.mlp.down_proj.weight"
        whole = load_file(home / "model.safetensors") | {name: torch.ones(96, 48)}
        save_file(whole, home / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=rf"{name}, found \(96, 48\), expected \(48, 96\)"):
            load(home, quantisation=bits)


class TestQuantised:
    @pytest.mark.parametrize(
        "write", [first_generation, chatglm_layouts.v2, chatglm_layouts.v3, tiny_models.glm]
    )
    @pytest.mark.parametrize("kind", ["nf4", "fp4"])
    def test_linear_layers_of_the_blocks_have_four_bits(
        self, tmp_path: Path, write: Write, kind: Any
    ) -> None:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit
        from bitsandbytes.nn import Linear4bit

        home = write(tmp_path, width=64)
        plain = load(home)
        model = load(home, quantisation=Bits(kind, True, torch.float32))
        found = {n for n, layer in model.named_modules() if isinstance(layer, Linear4bit)}
        linear = {n for n, layer in plain.named_modules() if isinstance(layer, torch.nn.Linear)}
        assert found == linear - {"lm_head"}
        for name in found:
            weight = model.get_submodule(name).weight
            wanted = plain.get_submodule(name).weight.data
            assert weight.dtype == torch.uint8
            ours = dequantize_4bit(weight.data, weight.quant_state)
            packed, state = quantize_4bit(wanted, quant_type=kind, compress_statistics=True)
            assert torch.equal(ours, dequantize_4bit(packed, state))
        rest = {n: p for n, p in plain.named_parameters() if n.rpartition(".")[0] not in found}
        assert all(torch.equal(model.get_parameter(n), p) for n, p in rest.items())

    def test_biases_stay_as_they_are(self, tmp_path: Path) -> None:
        home = chatglm_layouts.v2(tmp_path, width=64)
        plain, model = load(home), load(home, quantisation=Bits("nf4", False, torch.float32))
        name = "model.layers.0.self_attn.q_proj.bias"
        assert torch.equal(model.get_parameter(name), plain.get_parameter(name))


_MEASURE = """
import os, sys, threading, torch
sys.path.insert(0, os.getcwd())
from pathlib import Path
from types import SimpleNamespace
import bitsandbytes, transformers
from tasks.trainer import layouts
from tasks.trainer.layouts import loading
from tasks.trainer.methods.quantised import Bits
tiny, home, bits = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "nf4"
family = SimpleNamespace(ARCHITECTURES=("ChatGLMModel",), ATTENTION="sdpa")
torch.set_num_threads(1)
def held():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) // 1024
quantisation = Bits("nf4", True, torch.bfloat16) if bits else None
layouts.model(tiny, family, torch.bfloat16, quantisation)  # imports what there is to import
before, peak, ended = held(), [0], threading.Event()
def watch():
    while not ended.wait(0.002):
        peak[0] = max(peak[0], held())
watcher = threading.Thread(target=watch)
watcher.start()
model = layouts.model(home, family, torch.bfloat16, quantisation)
ended.set()
watcher.join()
print(peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "bits"), [(first_generation, "nf4"), (chatglm_layouts.v2, "none")]
)
def test_no_second_copy_of_a_model_is_ever_in_memory(
    tmp_path: Path, write: Write, bits: str
) -> None:
    # 16 blocks of 5 million weights: 164 MB in float16, 4.5 MB the largest tensor
    tiny = write(tmp_path / "tiny", width=64)
    home = write(tmp_path / "home", width=768, layers=16, vocabulary=512)
    whole = {name: tensor.half() for name, tensor in reading.folder(home).items()}
    for path in home.glob("pytorch_model*"):
        path.unlink()
    chatglm_layouts.write_weights(home, whole, "bin", 2)
    sizes = [tensor.nbytes / 2**20 for tensor in whole.values()]
    result = sum(sizes) * (0.27 if bits == "nf4" else 1)
    run = [sys.executable, "-c", _MEASURE, str(tiny), str(home), bits]
    # memory that is freed goes back at once: else the allocator's reserve is measured
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=env, timeout=300)
    peak = int(done.stdout.split()[-1])
    assert peak <= result + 12 * max(sizes) < result + sum(sizes) / 2


@pytest.mark.parametrize("write", [chatglm_layouts.v2, chatglm_layouts.v3, tiny_models.glm])
def test_a_configuration_is_read_without_weights(tmp_path: Path, write: Write) -> None:
    home = write(tmp_path, width=64, layers=3)
    for path in home.glob("*model*.*"):
        path.unlink()
    found = layouts.config(home)
    assert (found.model_type, found.num_hidden_layers, found.hidden_size) == ("glm", 3, 64)
    assert (found.num_key_value_heads, found.head_dim) == (2, 16)
