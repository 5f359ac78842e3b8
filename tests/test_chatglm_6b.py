"""ChatGLM-6B computes what the original computes, sees what it should, and trains by every method."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chatglm_6b
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from tasks.trainer import families, layouts, tokenizer
from tasks.trainer.architectures.chatglm import (
    ChatGlmConfig,
    ChatGlmForCausalLM,
    View,
)
from tasks.trainer.architectures.chatglm_rotation import rotation
from tasks.trainer.errors import ConfigError
from tasks.trainer.layouts import chatglm1
from tasks.trainer.methods.prefix import Prefix, Shape

DATA = Path(__file__).parent / "data" / "chatglm"
CLOSE = {"atol": 1e-4, "rtol": 0.0}


@dataclass(frozen=True)
class Batch:
    """What a view needs of a batch."""

    input_ids: Tensor
    positions: Tensor | None = None


@dataclass(frozen=True)
class Reference:
    """What the original computed (data/chatglm/make_v1.py), and its weights."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    cases: dict[str, Tensor]


def reference(name: str) -> Reference:
    with safe_open(DATA / f"v1-{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights = {k.removeprefix("weight/"): t.float() for k, t in found.items() if "weight/" in k}
    return Reference(config, weights, {k: t for k, t in found.items() if "weight/" not in k})


def built(config: dict[str, Any], weights: dict[str, Tensor], **other: Any) -> ChatGlmForCausalLM:
    """Build our model of an original checkpoint."""
    native = chatglm1.config(config)
    for key, value in other.items():
        setattr(native, key, value)
    model = ChatGlmForCausalLM(native)
    renamed = dict(p for k, t in weights.items() for p in chatglm1.to_native(k, t, native))
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain() -> Reference:
    return reference("plain")


@pytest.fixture(scope="module")
def model(plain: Reference) -> ChatGlmForCausalLM:
    return built(plain.config, plain.weights)


@pytest.fixture
def fresh(plain: Reference) -> ChatGlmForCausalLM:
    """A model that a test may change."""
    return built(plain.config, plain.weights)


@pytest.fixture
def gentle(plain: Reference) -> ChatGlmForCausalLM:
    """A model of smaller weights, which rounding changes less and which learns faster."""
    return built(plain.config, chatglm_6b.weights(plain.config))


@pytest.fixture(scope="module", params=["prefix", "projection"])
def prefixed(request: pytest.FixtureRequest) -> tuple[Reference, Prefix]:
    """What the original computes behind a prefix, and that prefix as ours, its numbers copied raw."""
    found = reference(request.param)
    config, place = found.config, "transformer.prefix_encoder."
    hidden = config["hidden_size"] if config["prefix_projection"] else 0
    shape = Shape.of(chatglm1.config(config | {"pre_seq_len": None}))
    prefix = Prefix(shape, config["pre_seq_len"], torch.float32, hidden)
    renamed = {
        k.removeprefix(place).replace("trans.", "transform."): t for k, t in found.weights.items()
    }
    prefix.load_state_dict(renamed)
    return found, prefix.requires_grad_(False)


def padding(ids: Tensor) -> Tensor:
    """Return the columns of padding on the left."""
    return (ids != 3).long().argmax(1)


def mask_of(ids: Tensor) -> Tensor:
    """Return the 2-D mask of ids padded on the left."""
    return (torch.arange(ids.shape[1]) >= padding(ids)[:, None]).long()


@torch.no_grad()
def answered(
    model: ChatGlmForCausalLM,
    ids: Tensor,
    tokens: int,
    prefix: Prefix | None = None,
    ends: tuple[int, ...] = (),
) -> Tensor:
    """Answer greedily by the passes of the view; `ends`: of each row, after how many tokens it leaves the batch."""
    dtype = model.dtype
    tuned = prefix.tokens if prefix else 0
    passes = View(model.config).passes(ids, padding(ids), tuned, dtype)
    cache = prefix.cache(ids.shape[0], growing=True) if prefix else DynamicCache()
    rows, found, given = torch.arange(ids.shape[0]), torch.zeros(ids.shape[0], tokens).long(), ids
    for step in range(tokens):
        output = model(given, past_key_values=cache, logits_to_keep=1, **passes.inputs(step))
        given = output.logits[:, -1:].argmax(-1)
        found[rows, step] = given[:, 0]
        if ends:
            kept = (torch.tensor(ends)[rows] > step + 1).nonzero()[:, 0]
            if kept.numel() == 0:
                break
            cache.batch_select_indices(kept)
            passes.select(kept)
            rows, given = rows[kept], given[kept]
    return found


# the original's numbers


@torch.no_grad()
def test_training_rows_get_the_logits_of_the_original(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    ids, wanted = plain.cases["right/ids"], plain.cases["right/logits"]
    assert wanted.abs().max() > 3
    torch.testing.assert_close(model(ids).logits, wanted, **CLOSE)
    passed = View(model.config).training(Batch(ids), 0)
    torch.testing.assert_close(model(ids, **passed).logits, wanted, **CLOSE)


@torch.no_grad()
def test_left_padding_gets_the_logits_of_the_original(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    ids, wanted = plain.cases["left/ids"], plain.cases["left/logits"]
    filled = mask_of(ids).bool()
    derived = model(ids, attention_mask=mask_of(ids)).logits
    torch.testing.assert_close(derived[filled], wanted[filled], **CLOSE)
    passes = View(model.config).passes(ids, padding(ids), 0, torch.float32)
    viewed = model(ids, **passes.inputs(0)).logits
    torch.testing.assert_close(viewed[filled], wanted[filled], **CLOSE)


@torch.no_grad()
def test_a_step_over_the_cache_gets_the_logits_of_the_original(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    ids, chosen = plain.cases["left/ids"], plain.cases["step/ids"]
    passes = View(model.config).passes(ids, padding(ids), 0, torch.float32)
    cache = model(ids, use_cache=True, **passes.inputs(0)).past_key_values
    logits = model(chosen, past_key_values=cache, **passes.inputs(1)).logits
    torch.testing.assert_close(logits, plain.cases["step/logits"], **CLOSE)


def test_greedy_answers_are_those_of_the_original(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    for case in ("left", "single"):
        ids = plain.cases[f"{case}/ids" if case == "single" else "left/ids"]
        wanted = plain.cases[f"{case}/generated"]
        new = wanted.shape[1] - ids.shape[1]
        assert torch.equal(answered(model, ids, new), wanted[:, ids.shape[1] :])
        asked = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None}
        assert torch.equal(model.generate(ids, attention_mask=mask_of(ids), **asked), wanted)


@torch.no_grad()
def test_long_prompts_rotate_as_in_the_original(plain: Reference) -> None:
    ids, wanted = plain.cases["long/ids"], plain.cases["long/logits"]
    model = built(plain.config, plain.weights)
    exact = built(plain.config, plain.weights, half_precision_rope=False)
    torch.testing.assert_close(model(ids, logits_to_keep=1).logits[:, -1], wanted, **CLOSE)
    assert (exact(ids, logits_to_keep=1).logits[:, -1] - wanted).abs().max() > 1e-3
    assert model.half()(ids, logits_to_keep=1).logits.isfinite().all()


def test_rotation_in_16_bits_is_rounded_as_in_the_original(plain: Reference) -> None:
    config, wanted = chatglm1.config(plain.config), plain.cases["long/half_cos"]
    places = torch.arange(len(wanted)).expand(1, 2, -1)
    for dtype, unit in ((torch.float16, 2**-10), (torch.bfloat16, 2**-7)):
        cos, sin = rotation(places, config, dtype)
        both = torch.cat((wanted, wanted), -1).to(dtype)
        torch.testing.assert_close(cos[0, 0], both, atol=unit, rtol=0.0)
        both = torch.cat([plain.cases["long/half_sin"]] * 2, -1).to(dtype)
        torch.testing.assert_close(sin[0, 0], both, atol=unit, rtol=0.0)
    # positions in bfloat16 would be wrong by up to one token from 256 on
    coarse = rotation(places.bfloat16().long(), config, torch.float16)[0]
    assert (coarse - cos.half()).abs().max() > 0.5


@torch.no_grad()
def test_a_prefix_of_the_original_needs_no_conversion(
    prefixed: tuple[Reference, Prefix], model: ChatGlmForCausalLM
) -> None:
    found, prefix = prefixed
    view, cases = View(model.config), found.cases
    ids = cases["right/ids"]
    for growing in (False, True):
        cache = prefix.cache(len(ids), growing)
        passed = view.training(Batch(ids), prefix.tokens)
        logits = model(ids, past_key_values=cache, **passed).logits
        torch.testing.assert_close(logits, cases["right/logits"], **CLOSE)
    ids = cases["left/ids"]
    filled = mask_of(ids).bool()
    passes = view.passes(ids, padding(ids), prefix.tokens, torch.float32)
    cache = prefix.cache(len(ids), growing=True)
    logits = model(ids, past_key_values=cache, **passes.inputs(0)).logits
    torch.testing.assert_close(logits[filled], cases["left/logits"][filled], **CLOSE)


def test_greedy_answers_behind_a_prefix_are_those_of_the_original(
    prefixed: tuple[Reference, Prefix], model: ChatGlmForCausalLM
) -> None:
    found, prefix = prefixed
    for case in ("left", "single"):
        ids, wanted = found.cases[f"{case}/ids"], found.cases[f"{case}/generated"]
        new = wanted.shape[1] - ids.shape[1]
        assert torch.equal(answered(model, ids, new, prefix), wanted[:, ids.shape[1] :])


# batches


def test_an_answer_does_not_depend_on_its_batch(
    prefixed: tuple[Reference, Prefix], model: ChatGlmForCausalLM
) -> None:
    found, prefix = prefixed
    ids = found.cases["left/ids"]
    for own in (None, prefix):
        together = answered(model, ids, 12, own)
        for row, empty in enumerate(padding(ids).tolist()):
            alone = answered(model, ids[row : row + 1, empty:], 12, own)
            assert torch.equal(alone[0], together[row])


def test_rows_that_have_ended_may_leave_the_batch(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["left/ids"]
    whole = answered(model, ids, 9)
    ended = answered(model, ids, 9, ends=(9, 3, 6))
    assert torch.equal(ended[0], whole[0])
    assert torch.equal(ended[1, :3], whole[1, :3])
    assert torch.equal(ended[2, :6], whole[2, :6])


def test_bfloat16_stays_close_in_padded_batches(
    plain: Reference, gentle: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["left/ids"]
    filled, found = mask_of(ids).bool(), []
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            gentle.to(dtype)
            passes = View(gentle.config).passes(ids, padding(ids), 0, dtype)
            found.append(gentle(ids, **passes.inputs(0)).logits.float())
    assert found[1].isfinite().all()
    torch.testing.assert_close(found[1][filled], found[0][filled], atol=0.2, rtol=0.0)


def test_searching_with_beams_keeps_the_places_of_each_row(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["left/ids"]
    asked = {"max_new_tokens": 6, "do_sample": False, "num_beams": 3, "eos_token_id": None}
    together = model.generate(ids, attention_mask=mask_of(ids), **asked)
    for row, empty in enumerate(padding(ids).tolist()):
        alone = model.generate(ids[row : row + 1, empty:], **asked)
        assert torch.equal(alone[0, -6:], together[row, -6:])


# what sees what


def _changed(model: ChatGlmForCausalLM, ids: Tensor, column: int) -> list[bool]:
    """Return which columns' logits depend on the token in one column."""
    other = ids.clone()
    other[:, column] = (ids[:, column] + 1) % 70 + 5
    with torch.no_grad():
        passed = View(model.config).training(Batch(ids), 0)
        difference = model(ids, **passed).logits - model(other, **passed).logits
    return [bool(d > 1e-6) for d in difference.abs().amax((0, 2))]


def test_the_prompt_sees_itself_both_ways_and_the_answer_no_future(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["right/ids"][:1]
    width, start = ids.shape[1], ids[0].tolist().index(plain.config["bos_token_id"])
    assert _changed(model, ids, start - 3) == [True] * width
    for column in range(start + 1, width):
        assert _changed(model, ids, column) == [False] * column + [True] * (width - column)


def test_a_chosen_column_of_logits_is_computed_alone(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["right/ids"]
    columns = torch.tensor([3, 8, 9])
    with torch.no_grad():
        whole = model(ids).logits
        torch.testing.assert_close(model(ids, logits_to_keep=columns).logits, whole[:, columns])
        torch.testing.assert_close(model(ids, logits_to_keep=2).logits, whole[:, -2:])


def test_a_prompt_without_its_markers_is_refused(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    with pytest.raises(ValueError, match=r"lacks \[gMASK\] or <sop>"):
        model(torch.tensor([[5, 6, 7]]))
    with pytest.raises(ValueError, match=r"lacks \[gMASK\] or <sop>"):
        model(torch.tensor([[5, 6, plain.config["bos_token_id"]]]))
    with pytest.raises(ValueError, match="Pass position_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32))


def test_a_row_that_would_see_its_answer_is_refused_by_the_view(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    view, ids = View(model.config), plain.cases["right/ids"]
    for token in (model.config.bos_token_id, model.config.gmask_token_id):
        broken = ids.clone()
        broken[1][broken[1] == token] = 7
        with pytest.raises(ValueError, match=r"lacks \[gMASK\] or <sop>"):
            view.training(Batch(broken), 0)
        with pytest.raises(ValueError, match=r"lacks \[gMASK\] or <sop>"):
            view.passes(broken, torch.zeros(len(ids)).long(), 0, torch.float32)


def test_what_a_user_writes_never_moves_the_answer(tmp_path: Path) -> None:
    home = chatglm_6b.v1(tmp_path)
    config, pieces = layouts.config(home), tokenizer.load(home)
    family = families.load("chatglm")
    written = "[MASK] [gMASK] <sop> <eop> 上衣"
    prompt = family.prompt(pieces, [{"role": "user", "content": written}])
    ids = torch.tensor([prompt + family.answer(pieces, written)])
    for token in (config.mask_token_id, config.gmask_token_id, config.bos_token_id):
        assert (ids == token).sum() <= 1
    places = View(config).training(Batch(ids), 0)["position_ids"]
    assert (places[0, 1] == 0).sum() == len(prompt) - 1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_padding_behind_a_prefix_in_16_bits_changes_nothing(
    plain: Reference, gentle: ChatGlmForCausalLM, dtype: torch.dtype
) -> None:
    ids = plain.cases["left/ids"]
    torch.manual_seed(3)
    prefix = Prefix(Shape.of(gentle.config), 5, dtype).requires_grad_(False)
    gentle.to(dtype)

    def logits(rows: Tensor) -> Tensor:
        passes = View(gentle.config).passes(rows, padding(rows), prefix.tokens, dtype)
        cache = prefix.cache(len(rows), growing=True)
        return gentle(rows, past_key_values=cache, **passes.inputs(0)).logits[:, -1].float()

    together = logits(ids)
    assert together.isfinite().all()
    for row, empty in enumerate(padding(ids).tolist()):
        alone = logits(ids[row : row + 1, empty:])
        torch.testing.assert_close(alone[0], together[row], atol=0.15, rtol=0.0)


def test_packed_rows_are_refused(model: ChatGlmForCausalLM) -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="Switch packing off"):
        View(model.config).training(Batch(ids, ids), 0)
    assert not View.packs


# training


def gradients(
    model: ChatGlmForCausalLM, ids: Tensor, prefix: Prefix | None = None
) -> dict[str, Tensor]:
    """Return the gradients of the loss of the columns after `<sop>`, passed through the view."""
    labels = ids.masked_fill((ids == model.config.bos_token_id).cumsum(1) == 0, -100)
    labels = labels.masked_fill(ids == 3, -100)
    passed = View(model.config).training(Batch(ids), prefix.tokens if prefix else 0)
    cache = prefix.cache(len(ids), growing=False) if prefix else None
    model.train()
    loss = model(ids, labels=labels, use_cache=False, past_key_values=cache, **passed).loss
    loss.backward()
    modules = [model, *([prefix] if prefix else [])]
    named = [p for m in modules for p in m.named_parameters()]
    found = {name: p.grad.clone() for name, p in named if p.grad is not None}
    for _, p in named:
        p.grad = None
    model.eval()
    return found


def test_gradient_checkpointing_gives_equal_gradients(
    plain: Reference, fresh: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["right/ids"]
    plainly = gradients(fresh, ids)
    fresh.activation_checkpointing_enable({"use_reentrant": False})
    again = gradients(fresh, ids)
    assert plainly.keys() == again.keys() == dict(fresh.named_parameters()).keys()
    assert all(torch.equal(plainly[name], again[name]) for name in plainly)
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in plainly.values())


def test_a_prefix_gets_equal_gradients_with_gradient_checkpointing(
    plain: Reference, fresh: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["right/ids"]
    fresh.requires_grad_(False)
    torch.manual_seed(1)
    prefix = Prefix(Shape.of(fresh.config), 4, torch.float32)
    plainly = gradients(fresh, ids, prefix)
    fresh.activation_checkpointing_enable({"use_reentrant": False})
    for layer in fresh.model.layers:
        layer._can_checkpoint_with_cache = True
    again = gradients(fresh, ids, prefix)
    assert plainly.keys() == {"embedding.weight"}
    assert plainly["embedding.weight"].abs().sum() > 0
    assert torch.equal(plainly["embedding.weight"], again["embedding.weight"])


def test_lora_learns_the_rows_and_nothing_else_changes(
    plain: Reference, gentle: ChatGlmForCausalLM
) -> None:
    before = {name: p.clone() for name, p in gentle.named_parameters()}
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    torch.manual_seed(1)
    adapted = get_peft_model(gentle, LoraConfig(r=4, target_modules=targets))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert len(trained) == 2 * len(targets) * gentle.config.num_hidden_layers
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    ids, losses = plain.cases["right/ids"], []
    passed = View(gentle.config).training(Batch(ids), 0)
    for _ in range(12):
        loss = gentle(ids, labels=ids.masked_fill(ids == 3, -100), use_cache=False, **passed).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    after = dict(adapted.unload().named_parameters())
    assert all(torch.equal(after[name], was) for name, was in before.items())


def test_autocast_in_bfloat16_trains_whole_models_of_float32(
    plain: Reference, gentle: ChatGlmForCausalLM
) -> None:
    ids = plain.cases["right/ids"]
    exact = gradients(gentle, ids)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(gentle, ids)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"):
        assert rounded[name].dtype == torch.float32
        assert torch.cosine_similarity(rounded[name].flatten(), exact[name].flatten(), 0) > 0.99


# files


def test_saved_models_load_by_the_ordinary_path(
    plain: Reference, model: ChatGlmForCausalLM, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["model_type"] == "chatglm_6b"
    assert saved["architectures"] == ["ChatGlmForCausalLM"]
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() == model.config.to_diff_dict()
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is ChatGlmForCausalLM
    assert not report["missing_keys"]
    assert again.lm_head.weight is again.model.embed_tokens.weight
    ids = plain.cases["right/ids"]
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_published_files_load_without_their_own_code(
    plain: Reference, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"{'pytorch_model' if ending == 'bin' else 'model'}.{ending}"
    (tmp_path / "config.json").write_text(json.dumps(plain.config), encoding="utf-8")
    chatglm_6b.save({name: tensor.half() for name, tensor in plain.weights.items()}, path)
    loaded = layouts.model(tmp_path, families.load("chatglm"), torch.float32)
    assert type(loaded) is ChatGlmForCausalLM
    with torch.no_grad():
        logits = loaded(plain.cases["right/ids"]).logits
    torch.testing.assert_close(logits, plain.cases["right/logits"], **CLOSE)


def test_the_published_names_go_both_ways_without_a_changed_bit(
    plain: Reference, model: ChatGlmForCausalLM
) -> None:
    back = dict(chatglm1.to_original(model.state_dict(), model.config))
    expected = {k: t for k, t in plain.weights.items() if "inv_freq" not in k}
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())


def test_a_model_on_the_meta_device_has_no_numbers_to_lose(plain: Reference) -> None:
    native = chatglm1.config(plain.config)
    with torch.device("meta"):
        model = ChatGlmForCausalLM(native)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert not list(model.buffers())


def test_the_defaults_are_the_published_sizes() -> None:
    with torch.device("meta"):
        model = ChatGlmForCausalLM(ChatGlmConfig())
    # 6,173,286,400 is what the original reports for its published checkpoint
    assert sum(p.numel() for p in model.parameters()) == 6_173_286_400


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"quantization_bit": 4}, "method qlora quantises it on loading"),
        ({"pre_seq_len": 128}, "read the prefix with `adopt`"),
        ({"position_encoding_2d": False}, "position_encoding_2d must be true"),
        (
            {"bos_token_id": 150004, "vocab_size": 150528},
            "in its revision of 6 April 2023 or later",
        ),
        ({"num_layers": None}, "num_layers must be a whole number from 1 on"),
        ({"eos_token_id": None}, "eos_token_id must be a whole number from 0 on"),
        ({"hidden_size": 30}, "hidden_size must be a multiple"),
    ],
)
def test_checkpoints_that_are_not_covered_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chatglm1.config(chatglm_6b.config() | changed)


def test_the_revision_with_image_tokens_is_refused() -> None:
    c = chatglm_6b.config(150528, bos_token_id=150004, eos_token_id=150005)
    for name in ("mask_token_id", "gmask_token_id", "pad_token_id"):
        del c[name]
    with pytest.raises(ConfigError, match="a revision with image tokens"):
        chatglm1.config(c)


def test_tensors_of_other_models_are_refused(model: ChatGlmForCausalLM) -> None:
    tensor = torch.zeros(3, 3)
    for name, said in (
        ("transformer.prefix_encoder.embedding.weight", "read the prefix with `adopt`"),
        ("transformer.layers.0.attention.query_key_value.lora_A.weight", "to no ChatGLM-6B"),
        ("transformer.layers.0.mlp.dense_h_to_4h.weight_scale", "to no ChatGLM-6B"),
        ("transformer.layers.0.attention.query_key_value.weight", "asks for 96 rows"),
    ):
        with pytest.raises(ConfigError, match=said):
            list(chatglm1.to_native(name, tensor, model.config))
