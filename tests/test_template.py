"""Prompt templates: around what users say wherever it is rendered, never in what is kept, and never cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tasks.trainer import families, generate, lengths, loop, model, predict, template
from tasks.trainer.errors import ConfigError
from tasks.trainer.fitting import fit_prompt
from tasks.trainer.job import DecodeSpec, Full, Job, Lora, TrainSpec
from tasks.trainer.stopping import Stop

GLM = tiny_models.tokenizer(tiny_models.GLM_TOKENS, "<|endoftext|>")
LLAMA = tiny_models.tokenizer(tiny_models.LLAMA_TOKENS, "<|stop|>")
LLAMA.chat_template = tiny_models.LLAMA_TEMPLATE
BOTH = pytest.mark.parametrize(
    ("name", "tokenizer"), [("tiny", GLM), ("llama", LLAMA)], ids=["tiny", "llama"]
)
QUESTION = "### Question:\n{prompt}\n\n### Answer:\n"
SPEC = TrainSpec(max_steps=4, global_batch=4, checkpoint_steps=2, dev_rows=2)
SHORT = DecodeSpec(max_new_tokens=8, rows=3)
Messages = list[dict[str, str]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def wrapped(messages: Sequence[dict[str, str]], around: str) -> Messages:
    """Put a template around what users say, by hand."""
    head, tail = around.split("{prompt}")
    said = [m["content"] if m["role"] != "user" else head + m["content"] + tail for m in messages]
    return [{**m, "content": text} for m, text in zip(messages, said, strict=True)]


@BOTH
@pytest.mark.parametrize(
    "around", [QUESTION, "{prompt}。", "{{x}} {0} {prompt} %s {", "问：{prompt}"]
)
def test_a_template_stands_around_every_message_of_a_user_and_of_nobody_else(
    name: str, tokenizer: PreTrainedTokenizerFast, around: str
) -> None:
    plain = families.load(name)
    family = template.templated(plain, around)
    messages = [
        {"role": "system", "content": "简短 {prompt}"},
        user("类型#{prompt}"),
        {"role": "assistant", "content": "{prompt}"},
        user("{}"),
    ]
    expected = plain.prompt(tokenizer, wrapped(messages, around))
    assert family.prompt(tokenizer, messages) == expected
    assert families.prompts(family, tokenizer, [messages, messages[1:2]])[0] == expected
    assert family.answer(tokenizer, "红色") == plain.answer(tokenizer, "红色")
    assert families.answers(family, tokenizer, ["红色"]) == [plain.answer(tokenizer, "红色")]
    assert family.stop_ids(tokenizer) == plain.stop_ids(tokenizer)
    assert (family.LORA_TARGETS, family.ARCHITECTURES) == (plain.LORA_TARGETS, plain.ARCHITECTURES)
    assert messages[1] == user("类型#{prompt}")


def test_no_template_is_the_family_itself() -> None:
    family = families.load("tiny")
    assert template.templated(family, "") is family
    assert template.of(family) == ""
    assert template.of(template.templated(family, QUESTION)) == QUESTION


@BOTH
@settings(deadline=None, max_examples=120)
@given(
    text=st.text("类型上衣#*ab 。\n#😀龘", min_size=1, max_size=120),
    around=st.sampled_from(
        [QUESTION, "{prompt}\n", "\n\n{prompt}\n\n### Answer:\n", "类型{prompt}上衣", " {prompt} "]
    ),
    room=st.integers(4, 40),
    before=st.integers(0, 2),
)
def test_a_cut_prompt_keeps_its_template_whole(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    around: str,
    room: int,
    before: int,
) -> None:
    plain = families.load(name)
    family = template.templated(plain, around)
    limit = len(family.prompt(tokenizer, [user("")])) + room
    old = [user("红色" * 30), {"role": "assistant", "content": "好"}] * before
    whole = family.prompt(tokenizer, [*old, user(text)])
    ids, cut = fit_prompt(family, tokenizer, [*old, user(text)], limit)
    assert len(ids) <= limit
    assert cut == (len(whole) > limit)
    alone = family.prompt(tokenizer, [user(text)])
    if len(alone) <= limit:
        assert ids == (alone if cut else whole)
        return
    # what is left is the template around the text's own beginning and end, as much of it as fits
    kept = [
        count
        for count in range(1, len(text))
        if ids == family.prompt(tokenizer, [user(shortened(text, count))])
    ]
    assert kept
    assert len(family.prompt(tokenizer, [user(shortened(text, kept[-1] + 1))])) > limit
    head, tail = around.split("{prompt}")
    opening = "<|user|>\n" if name == "tiny" else "<|start|>user\n"
    ending = "<|assistant|>\n" if name == "tiny" else "<|end|><|start|>assistant\n"
    said = tokenizer.decode(ids)
    assert f"{opening}{head}{text[0]}" in said
    assert said.endswith(f"{tail}{ending}")


def shortened(text: str, count: int) -> str:
    """Keep so many characters of a text: its beginning and, of an odd number one less, its end."""
    end = count // 2
    return text[: count - end] + text[len(text) - end :]


def test_a_limit_that_holds_the_template_but_no_text_is_refused() -> None:
    family = template.templated(families.load("tiny"), QUESTION)
    frame = len(family.prompt(GLM, [user("")]))
    with pytest.raises(ConfigError, match=rf"takes {frame} tokens \(found {frame}\)\. Raise train"):
        fit_prompt(family, GLM, [user("龘" * 9)], frame)


@pytest.mark.parametrize(
    "written",
    [
        '{"template": "### Question"}',
        '{"template": "{prompt} {prompt}"}',
        '{"template": "{ prompt }"}',
        '{"template": 3}',
        '{"template": null}',
        '["{prompt}"]',
        "{",
        "",
    ],
)
def test_a_template_without_one_place_for_the_prompt_is_refused(
    written: str, tmp_path: Path
) -> None:
    (tmp_path / "dataset.json").write_text(written, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"dataset\.json: .*onvert the data again"):
        template.of_dataset(tmp_path)


def test_a_dataset_may_say_nothing_of_a_template(tmp_path: Path) -> None:
    assert template.of_dataset(tmp_path) == ""
    for written, expected in (
        ("{}", ""),
        ('{"template": ""}', ""),
        ('{"template": "问：{prompt}", "rows": 3}', "问：{prompt}"),
    ):
        (tmp_path / "dataset.json").write_text(written, encoding="utf-8")
        assert template.of_dataset(tmp_path) == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, one dataset with raw prompts and a template, and one whose prompts are written out."""
    root = tmp_path_factory.mktemp("template")
    tiny_models.glm(root / "base")
    tiny_models.dataset(root / "raw", train=24, dev=6)
    (root / "raw/dataset.json").write_text(json.dumps({"template": QUESTION}), encoding="utf-8")
    (root / "written").mkdir()
    for split in ("train", "dev"):
        rows = read(root / "raw" / f"{split}.jsonl")
        written = [{"messages": wrapped(row["messages"], QUESTION)} for row in rows]
        tiny_models.write_rows(root / "written" / f"{split}.jsonl", written)
    for data in ("raw", "written"):
        loop.train(order(root, data, root / f"tuned-{data}"), Stop())
    return root


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def order(folder: Path, data: str, home: Path, spec: TrainSpec = SPEC) -> Job:
    return Job(
        action="train",
        family="tiny",
        base=str(folder / "base"),
        base_digest="ab" * 32,
        data=str(folder / data),
        out=str(home / "out"),
        work=str(home / "work"),
        train=spec,
        threads=1,
    )


def predicted(job: Job, home: Path) -> list[dict[str, Any]]:
    asked = replace(job, action="predict", out=str(home), work=str(home / "work"), decode=SHORT)
    predict.predict(asked, Stop())
    return read(home / "predictions.jsonl")


def test_training_in_a_template_is_training_on_prompts_that_are_written_out(folder: Path) -> None:
    raw, written = (folder / f"tuned-{data}/out" for data in ("raw", "written"))
    for name in ("adapter_model.safetensors", "adapter_config.json", "metrics.jsonl"):
        assert (raw / name).read_bytes() == (written / name).read_bytes(), name
    records = [json.loads((out / "model.json").read_bytes()) for out in (raw, written)]
    assert [record.pop("template") for record in records] == [QUESTION, ""]
    assert records[0] == records[1]


@pytest.mark.parametrize("tuned", [True, False], ids=["tuned", "base"])
def test_answers_come_through_the_template_and_the_prompt_is_kept_raw(
    tuned: bool, folder: Path, tmp_path: Path
) -> None:
    said = {}
    for data in ("raw", "written"):
        job = order(folder, data, tmp_path)
        own = replace(job, tuned=str(folder / f"tuned-{data}/out") if tuned else "")
        said[data] = predicted(own, tmp_path / data)
    assert [r["prediction"] for r in said["raw"]] == [r["prediction"] for r in said["written"]]
    rows = read(folder / "raw/dev.jsonl")
    assert [r["prompt"] for r in said["raw"]] == [row["messages"][:1] for row in rows[:3]]


def test_a_tuned_model_is_asked_in_its_own_template_whatever_the_dataset_says(
    folder: Path, tmp_path: Path
) -> None:
    job = replace(order(folder, "raw", tmp_path), tuned=str(folder / "tuned-raw/out"))
    other = tiny_models.dataset(tmp_path / "plain", train=1, dev=1)
    for data in (folder / "raw", other):
        loaded = model.load(replace(job, action="predict", data=str(data)))
        assert loaded.template == QUESTION
    assert model.load(replace(job, action="serve", data="")).template == QUESTION
    assert model.load(replace(job, action="serve", tuned="")).template == QUESTION
    assert model.load(replace(job, action="serve", tuned="", data="")).template == ""
    (other / "dev.jsonl").write_bytes((folder / "raw/dev.jsonl").read_bytes())
    expected = predicted(job, tmp_path / "one")
    assert predicted(replace(job, data=str(other)), tmp_path / "two") == expected


def test_a_model_of_before_templates_has_none(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "old"
    out.mkdir()
    for path in (folder / "tuned-raw/out").iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    record = json.loads((out / "model.json").read_bytes())
    del record["template"]
    (out / "model.json").write_text(json.dumps(record), encoding="utf-8")
    job = replace(order(folder, "raw", tmp_path), action="predict", tuned=str(out))
    assert model.load(job).template == ""
    (out / "model.json").write_text(json.dumps(record | {"template": "?"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"model\.json: template must be"):
        model.load(job)


@pytest.mark.parametrize("method", [Lora(), Full()], ids=lambda method: method.kind)
def test_a_tuned_model_answers_after_loading_as_it_did_in_training(
    method: Lora | Full, folder: Path, tmp_path: Path
) -> None:
    job = order(folder, "raw", tmp_path, replace(SPEC, method=method))
    loop.train(job, Stop())
    loaded = model.load(replace(job, action="serve", tuned=job.out, data=""))
    asked = [row["messages"][:1] for row in read(folder / "raw/dev.jsonl")]
    plain = replace(loaded, family=families.load("tiny"))
    by_hand = [wrapped(messages, QUESTION) for messages in asked]
    assert generate.answer(loaded, asked, SHORT, 128) == generate.answer(plain, by_hand, SHORT, 128)
    assert loaded.template == QUESTION


def test_half_done_work_in_another_template_is_not_taken_up(folder: Path, tmp_path: Path) -> None:
    tiny_models.dataset(tmp_path / "data", train=24, dev=6)
    job = replace(order(folder, "raw", tmp_path), data=str(tmp_path / "data"))
    loop.train(job, Stop())
    predicted(job, tmp_path / "base")
    (tmp_path / "data/dataset.json").write_text(json.dumps({"template": QUESTION}), "utf-8")
    with pytest.raises(ConfigError, match="a checkpoint of another job"):
        loop.train(job, Stop())
    with pytest.raises(ConfigError, match="answers of another job"):
        predicted(job, tmp_path / "base")


def test_lengths_count_the_template(folder: Path, tmp_path: Path) -> None:
    found = []
    for data in ("raw", "written"):
        job = replace(order(folder, data, tmp_path / data), action="lengths")
        lengths.measure(job, Stop())
        found.append((tmp_path / data / "out/lengths.json").read_bytes())
    assert found[0] == found[1]
