"""The bundled data set and base model: what they promise, and that the repository can make them again."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GlmForCausalLM, PreTrainedTokenizerFast

from deployments.sample import pretrain
from deployments.sample.garments import HERE, LEXICON, ROWS, Garment, advertise, lines, splits
from tasks.trainer import families

BASE = HERE / "base"
TINY = families.load("tiny")


@cache
def rows() -> dict[str, list[Garment]]:
    return splits()


@cache
def exercises() -> list[pretrain.Exercise]:
    return pretrain.exercises()


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(BASE, local_files_only=True)


@cache
def base() -> GlmForCausalLM:
    loaded = GlmForCausalLM.from_pretrained(BASE, dtype=torch.float32, local_files_only=True)
    return loaded.eval()


@pytest.mark.parametrize("split", ["train", "dev"])
def test_the_generator_reproduces_the_committed_rows(split: str) -> None:
    committed = (HERE / "data" / f"{split}.json").read_bytes()
    assert lines(rows()[split]).encode() == committed


def test_there_are_enough_rows() -> None:
    assert len(rows()["train"]) == ROWS["train"] >= 2000
    assert len(rows()["dev"]) == ROWS["dev"] >= 200


def test_no_two_rows_have_the_same_attributes_or_the_same_text() -> None:
    everything = rows()["train"] + rows()["dev"]
    assert len({frozenset(row.attributes) for row in everything}) == len(everything)
    assert len({row.summary for row in everything}) == len(everything)


def test_no_training_row_tells_all_that_a_dev_row_tells() -> None:
    train = [set(row.attributes) for row in rows()["train"]]
    assert not any(set(row.attributes) <= other for row in rows()["dev"] for other in train)


def test_an_advertisement_names_every_attribute_in_the_order_of_the_prompt() -> None:
    for row in rows()["train"] + rows()["dev"]:
        place = 0
        for _, value in row.attributes[1:]:
            place = row.summary.find(value, place)
            assert place >= 0, (value, row.summary)


def test_advertisements_are_as_long_as_a_short_paragraph() -> None:
    lengths = sorted(len(row.summary) for split in rows().values() for row in split)
    assert lengths[0] >= 40
    assert lengths[-1] <= 130
    assert 70 <= lengths[len(lengths) // 2] <= 90


def test_the_same_attributes_are_praised_in_many_ways() -> None:
    attributes = rows()["dev"][0].attributes
    assert len({advertise(attributes, random.Random(seed)) for seed in range(50)}) >= 45


def test_every_value_a_kind_allows_has_its_words() -> None:
    for garment in LEXICON["garments"].values():
        for only in (garment.get("every", {}), *garment["kinds"].values()):
            for key, values in only.items():
                assert set(values) <= set(LEXICON["words"][garment["keys"][key]]["praise"]), key


def test_every_clash_and_rival_is_of_known_words() -> None:
    values = {value for words in LEXICON["words"].values() for value in words["praise"]}
    assert {value for line in LEXICON["clashes"] for value in line} <= values
    for garment in LEXICON["garments"].values():
        assert {key for pair in garment["rivals"] for key in pair} <= set(garment["keys"])


def test_every_value_of_the_lexicon_occurs_in_the_training_rows() -> None:
    told = {attribute for row in rows()["train"] for attribute in row.attributes}
    for garment in LEXICON["garments"].values():
        for key, table in garment["keys"].items():
            allowed = garment.get("every", {}).get(key, LEXICON["words"][table]["praise"])
            kinds = garment["kinds"].values()
            drawn = {v for v in allowed if any(v in only.get(key, allowed) for only in kinds)}
            assert {(key, value) for value in drawn} <= told


def test_the_base_model_has_seen_nothing_of_the_data_set() -> None:
    assert len(exercises()) == pretrain.ROWS
    prompts = {row.content for split in rows().values() for row in split}
    summaries = {row.summary for split in rows().values() for row in split}
    for prompt, answer in exercises():
        assert not {prompt, answer} & (prompts | summaries)


def test_the_base_model_never_saw_attributes_answered_with_an_advertisement() -> None:
    praises = {
        praise
        for words in LEXICON["words"].values()
        for found in words["praise"].values()
        for praise in found
    }
    answers = [answer for prompt, answer in exercises() if prompt.startswith("类型#")]
    assert len(answers) > 0.5 * pretrain.ROWS
    assert not any(praise in answer for answer in answers[:2000] for praise in praises)


def test_the_recipe_makes_the_tokenizer_that_is_shipped(tmp_path: Path) -> None:
    pretrain.train_tokenizer(text for row in exercises() for text in row).save_pretrained(tmp_path)
    made = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert made == json.loads((BASE / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "类型#裙*颜色#白色",
        "  two  spaces\n\n\ttab ",
        "《ＡＢＣ》，full-width and half, 1234567890",
        "龘靐齉爩 㐀㐁 𠀀𪛖",
        "".join(
            bytes((high, low)).decode("gb18030")
            for high in (0xB0, 0xD8, 0xFD)
            for low in (0xA1, 0xB5)
        ),
        "\N{DRESS}\N{JEANS}\N{ZERO WIDTH JOINER}\N{KIMONO}",
        "<|user|> [gMASK]<sop> <|endoftext|>",
        "\x00\x7f\u200b\ufeff",
        "",
    ],
)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    ids = tokenizer().encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer().decode(ids) == text
    control = {tokenizer().convert_tokens_to_ids(token) for token in pretrain.CONTROL}
    assert not control & set(ids)


def test_the_chat_template_writes_the_prompt_of_the_family() -> None:
    messages = [{"role": "system", "content": "简短。"}, {"role": "user", "content": "类型#裤"}]
    told: Any = tokenizer().apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert told == TINY.prompt(tokenizer(), messages)


def test_the_base_model_is_a_small_glm_of_at_most_ten_megabytes() -> None:
    assert 1_000_000 <= base().num_parameters() <= 5_000_000
    assert type(base()).__name__ in TINY.ARCHITECTURES
    assert len(tokenizer()) == base().get_input_embeddings().num_embeddings
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 10_000_000


def test_the_base_model_tells_what_it_is_asked_about_soberly() -> None:
    values = told = 0
    for row in rows()["dev"][:8]:
        answer = ask([{"role": "user", "content": row.content}])
        wanted = [value for _, value in row.attributes[1:]]
        values += len(wanted)
        told += sum(value in answer for value in wanted)
        assert len(answer) < len(row.summary)
    assert told >= 0.9 * values


def ask(messages: list[dict[str, str]]) -> str:
    prompt = torch.tensor([TINY.prompt(tokenizer(), messages)])
    stop = TINY.stop_ids(tokenizer())
    with torch.no_grad():
        whole = base().generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=120,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=stop[0],
        )
    answer: str = tokenizer().decode(whole[0, prompt.shape[1] :], skip_special_tokens=True)
    return answer


def test_the_recipe_learns_and_gives_the_same_weights_again(tmp_path: Path) -> None:
    told = exercises()[:256]
    losses = []
    for out in (tmp_path / "one", tmp_path / "two"):
        model = pretrain.new_model(tokenizer())
        losses.append([loss for _, _, loss in pretrain.learn(model, tokenizer(), told)])
        pretrain.save(model, tokenizer(), out)
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.8 * losses[0][0]
    one, two = ((out / "model.safetensors").read_bytes() for out in tmp_path.iterdir())
    assert one == two
    assert len(one) == (BASE / "model.safetensors").stat().st_size
