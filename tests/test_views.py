"""What every kind of model sees: the same in training, in batches with padding, behind a prefix, in packed rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from bases import BASES
from transformers import DynamicCache

from tasks.trainer import cache, generate, methods, model, views
from tasks.trainer.ask import Ask
from tasks.trainer.batches import Batch
from tasks.trainer.errors import ConfigError
from tasks.trainer.job import DecodeSpec, Job, Lora, Method, Prefix, Qlora, TrainSpec
from tasks.trainer.model import Loaded
from tasks.trainer.service import Service

TEXTS = [tiny_models.record(i)["messages"][0]["content"] for i in range(12)]
ASKED = [[{"role": "user", "content": "".join(TEXTS[i : 2 * i + 1])}] for i in (2, 0, 3, 1, 0)]
SPEC = DecodeSpec(max_new_tokens=10, batch_rows=5)
METHODS: dict[str, Method] = {
    "lora": Lora(rank=4),
    "qlora": Qlora(rank=4),
    "prefix": Prefix(tokens=7),
    "projection": Prefix(tokens=3, projection=True, projection_width=8),
}
SHARP = {"chatglm1": 2}
"""How much larger the weights are made than those of a fresh model."""
Build = Callable[[str, str], Loaded]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("views")
    return {name: build(root / name) for name, (_, build) in BASES.items()}


@pytest.fixture(scope="module")
def build(homes: dict[str, Path]) -> Build:
    def built(name: str, method: str) -> Loaded:
        """Return a random model that attends sharply and often ends its answer."""
        tuned = METHODS.get(method)
        spec = TrainSpec(method=tuned) if tuned else TrainSpec()
        loaded = model.load(Job("train", BASES[name][0], str(homes[name]), train=spec))
        tied = loaded.model.get_input_embeddings().weight
        for weight in loaded.model.parameters():
            if weight.ndim > 1 and weight.is_floating_point() and weight is not tied:
                weight.data.mul_(SHARP.get(name, 6))
        if tuned:
            methods.load(tuned.kind).add(loaded, tuned, 3)
            for where, weight in loaded.trainable().items():
                if "lora_B" in where:
                    torch.nn.init.normal_(weight, std=0.2)
        loaded.model.train(False)
        family = SimpleNamespace(**vars(loaded.family))
        family.stop_ids = lambda tokenizer: list(range(0, len(tokenizer), 20))
        return replace(loaded, family=family)

    return built


def as_in_training(loaded: Loaded, prompt: list[int], said: int) -> list[int]:
    """Return an answer of so many tokens, each from one pass over all before it."""
    ids, prefix = list(prompt), loaded.prefix
    for _ in range(said):
        batch = Batch(torch.tensor([ids]), torch.tensor([ids]))
        beside = loaded.view.training(batch, prefix.tokens if prefix else 0)
        if prefix:
            beside["past_key_values"] = prefix.cache(1, growing=False)
        with torch.no_grad():
            logits = loaded.model(input_ids=batch.input_ids, use_cache=False, **beside).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


ALSO = [("glm", "qlora"), ("mpt", "qlora"), ("chatglm1", "qlora"), ("qwen2", "projection")]
CASES = [
    pytest.param(base, method, marks=[] if method in quick else [pytest.mark.slow])
    for base in BASES
    for method in ("base", "lora", "prefix")
    for quick in [("base", "prefix") if base in ("glm", "mpt", "chatglm1") else ("prefix",)]
] + [pytest.param(*case, marks=[pytest.mark.slow]) for case in ALSO]


@pytest.mark.parametrize(("base", "method"), CASES)
def test_answers_in_a_batch_are_those_of_training_and_of_each_row_alone(
    build: Build, base: str, method: str
) -> None:
    loaded = build(base, method)
    prompts = generate.encode(loaded, ASKED, 200)
    assert len({len(prompt) for prompt in prompts}) > 2
    together = generate.reply(loaded, prompts, SPEC)
    assert together == [generate.reply(loaded, [prompt], SPEC)[0] for prompt in prompts]
    for prompt, answer in zip(prompts, together, strict=True):
        stopped = answer.finish == "stop"
        ids = as_in_training(loaded, prompt, answer.answer_tokens + stopped)
        stops = set(loaded.family.stop_ids(loaded.tokenizer))
        assert [i in stops for i in ids] == [False] * answer.answer_tokens + [True] * stopped
        text = loaded.tokenizer.decode(ids[: answer.answer_tokens], skip_special_tokens=True)
        assert answer.text == text
    assert len({answer.text for answer in together}) > 1


@pytest.mark.parametrize("base", ["glm", "mpt", "chatglm1"])
def test_the_prefix_is_seen_and_its_distance_does_not_depend_on_the_batch(
    build: Build, base: str
) -> None:
    loaded = build(base, "prefix")
    assert loaded.prefix is not None
    prompts = generate.encode(loaded, ASKED[:2], 200)
    for weight in loaded.prefix.parameters():
        weight.data.mul_(4)
    with_prefix = logits_of_first_pass(loaded, prompts)
    alone = [logits_of_first_pass(loaded, [prompt])[0] for prompt in prompts]
    torch.testing.assert_close(with_prefix, torch.stack(alone), atol=2e-4, rtol=0)
    without = logits_of_first_pass(replace(loaded, prefix=None), prompts)
    assert (with_prefix - without).abs().max() > 0.1


def logits_of_first_pass(loaded: Loaded, prompts: list[list[int]]) -> torch.Tensor:
    """Return what follows each prompt, `(rows, vocabulary)`."""
    seen: list[torch.Tensor] = []
    hook = loaded.model.register_forward_hook(lambda _, __, out: seen.append(out.logits[:, -1]))
    generate.reply(loaded, prompts, replace(SPEC, max_new_tokens=1))
    hook.remove()
    lengths = [-len(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], i))
    return seen[0][torch.tensor(order).argsort()]


@pytest.mark.parametrize("base", [name for name in BASES if name != "chatglm1"])
def test_packed_examples_do_not_see_each_other(build: Build, base: str) -> None:
    loaded = build(base, "base")
    assert loaded.view.packs
    prompts = generate.encode(loaded, ASKED, 200)
    packed = [token for prompt in prompts for token in prompt]
    positions = [place for prompt in prompts for place in range(len(prompt))]
    width = len(packed) + 4
    ids = torch.tensor([each + [0] * (width - len(each)) for each in (packed, prompts[0])])
    places = torch.zeros_like(ids)
    places[0, : len(packed)] = torch.tensor(positions)
    places[1, : len(prompts[0])] = torch.arange(len(prompts[0]))
    with torch.no_grad():
        beside = loaded.view.training(Batch(ids, ids, places), 0)
        together = loaded.model(input_ids=ids, use_cache=False, **beside).logits
        first = 0
        for prompt in prompts:
            alone = loaded.model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0]
            found = together[0, first : first + len(prompt)]
            torch.testing.assert_close(found, alone, atol=2e-4, rtol=0)
            first += len(prompt)
    torch.testing.assert_close(
        together[1, : len(prompts[0])], together[0, : len(prompts[0])], atol=2e-4, rtol=0
    )


def test_a_model_that_cannot_pack_says_so(build: Build) -> None:
    view = build("chatglm1", "base").view
    assert not view.packs
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="Switch packing off"):
        view.training(Batch(ids, ids, ids), 0)


def test_bfloat16_answers_too(homes: dict[str, Path]) -> None:
    spec = TrainSpec(precision="bfloat16")
    for base in ("glm", "mpt", "chatglm1"):
        loaded = model.load(Job("predict", BASES[base][0], str(homes[base]), train=spec))
        assert loaded.model.dtype == torch.bfloat16
        loaded.family = SimpleNamespace(**vars(loaded.family))
        loaded.family.stop_ids = lambda tokenizer: [len(tokenizer)]
        said = generate.answer(loaded, ASKED, SPEC, 200)
        assert [answer.answer_tokens for answer in said] == [10] * len(ASKED)


def test_the_window_holds_prefix_prompt_and_answer(build: Build) -> None:
    loaded = build("mpt", "prefix")
    loaded.family.stop_ids = lambda tokenizer: [len(tokenizer)]  # type: ignore[method-assign]
    holds = loaded.model.config.max_seq_len
    assert generate.context(loaded) == holds - 7
    prompt = [5] * (holds - 7 - 3)
    (said,) = generate.reply(loaded, [prompt], SPEC)
    assert (said.answer_tokens, said.finish) == (3, "length")
    with pytest.raises(ConfigError, match="leaves no room for an answer"):
        generate.reply(loaded, [[5] * (holds - 7)], SPEC)


def test_a_model_without_a_limit_gets_what_was_asked_for() -> None:
    limits = SimpleNamespace(max_position_embeddings=512, sliding_window=None)
    assert views.window(limits) == 512  # type: ignore[arg-type]
    assert views.window(SimpleNamespace(max_position_embeddings=512, sliding_window=64)) == 64  # type: ignore[arg-type]
    assert views.window(SimpleNamespace()) is None  # type: ignore[arg-type]


def test_the_cache_holds_what_that_of_transformers_holds() -> None:
    torch.manual_seed(1)
    ours, theirs = cache.begun(None, None), DynamicCache()
    rows = 6
    for step, width in enumerate([9, *[1] * 150]):
        for layer in (0, 1):
            keys, values = torch.randn(2, rows, 3, width, 4).unbind()
            found = ours.update(keys, values, layer)
            held = theirs.update(keys, values, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, held, strict=True))
        if step in (3, 70):
            kept = torch.tensor([0, 2, 5][: rows - 2])
            ours.batch_select_indices(kept)
            theirs.batch_select_indices(kept)
            rows = len(kept)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_prefix_moves_behind_the_padding() -> None:
    prefix = DynamicCache()
    known = torch.tensor([101.0, 102.0]).view(1, 1, 2, 1)
    prefix.update(known.expand(3, 1, 2, 1), -known.expand(3, 1, 2, 1), 0)
    prompts = torch.tensor([[1.0, 2, 3], [0, 4, 5], [0, 0, 6]]).view(3, 1, 3, 1)
    held = cache.begun(prefix, torch.tensor([0, 1, 2]))
    assert held.get_seq_length() == 2
    keys, values = held.update(prompts, -prompts, 0)
    assert keys[:, 0, :, 0].tolist() == [
        [101, 102, 1, 2, 3],
        [0, 101, 102, 4, 5],
        [0, 0, 101, 102, 6],
    ]
    assert torch.equal(values, -keys)
    held.batch_select_indices(torch.tensor([2]))
    keys, _ = held.update(torch.full((1, 1, 1, 1), 7.0), torch.zeros(1, 1, 1, 1), 0)
    assert keys[0, 0, :, 0].tolist() == [0, 0, 101, 102, 6, 7]


@pytest.mark.parametrize(
    ("base", "method"), [("mpt", "prefix"), ("chatglm1", "prefix"), ("glm", "qlora")]
)
def test_every_kind_is_served_as_it_is_answered(build: Build, base: str, method: str) -> None:
    loaded = build(base, method)
    service = Service("served", SPEC)
    service.open(loaded)
    assert service.longest == max(10, (generate.context(loaded) or 0) - loaded.max_prompt_tokens)
    told: list[str] = []
    (said,) = service.answer(Ask(ASKED[:1], SPEC), told.append)
    assert [said] == generate.answer(loaded, ASKED[:1], SPEC, loaded.max_prompt_tokens)
    assert "".join(told) == said.text
