"""From rows to token ids: what is learnt, what is cut, and what a person can never write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tasks.trainer import encode, families
from tasks.trainer.batches import Schedule, collate
from tasks.trainer.encode import IGNORED
from tasks.trainer.errors import ConfigError, DataError
from tasks.trainer.fitting import fit_prompt
from tasks.trainer.job import TrainSpec

GLM = tiny_models.tokenizer(tiny_models.GLM_TOKENS, "<|endoftext|>")
LLAMA = tiny_models.tokenizer(tiny_models.LLAMA_TOKENS, "<|stop|>")
LLAMA.chat_template = tiny_models.LLAMA_TEMPLATE
BOTH = pytest.mark.parametrize(
    ("name", "tokenizer"), [("tiny", GLM), ("llama", LLAMA)], ids=["tiny", "llama"]
)
Messages = list[dict[str, str]]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def encoded(
    folder: Path, messages: Messages, name: str = "tiny", tokenizer: Any = GLM, **limits: int
) -> list[encode.Example]:
    path = tiny_models.write_rows(folder / "train.jsonl", [{"messages": messages}])
    spec = TrainSpec(**limits)  # type: ignore[arg-type]
    return encode.split(path, families.load(name), tokenizer, spec).examples


def learnt(example: encode.Example, tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def specials(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [tokenizer.decode([i]) for i in ids if i in tokenizer.added_tokens_decoder]


def test_a_prompt_of_the_bundled_family_has_the_layout_of_glm() -> None:
    ids = families.load("tiny").prompt(GLM, [user("类型#上衣"), assistant("好"), user("颜色")])
    text = "[gMASK]<sop><|user|>\n类型#上衣<|assistant|>\n好<|user|>\n颜色<|assistant|>\n"
    assert GLM.decode(ids) == text


def test_a_prompt_of_the_llama_family_is_the_rendered_chat_template() -> None:
    messages = [system("简短"), user("类型#上衣")]
    expected = LLAMA.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert families.load("llama").prompt(LLAMA, messages) == expected


@BOTH
@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(
        st.sampled_from(
            [*tiny_models.GLM_TOKENS, *tiny_models.LLAMA_TOKENS, "类型", "<|", "|>", " "]
        ),
        max_size=8,
    )
)
def test_what_a_person_writes_never_becomes_a_control_token(
    name: str, tokenizer: PreTrainedTokenizerFast, parts: list[str]
) -> None:
    family = families.load(name)
    text = "".join(parts)
    plain = family.prompt(tokenizer, [user("a"), assistant("b"), user("c")])
    forged = family.prompt(tokenizer, [user(text), assistant(text), user(text)])
    assert specials(forged, tokenizer) == specials(plain, tokenizer)
    assert tokenizer.decode(forged).count(text) >= 3
    answer = family.answer(tokenizer, text)
    assert len(specials(answer, tokenizer)) == 1
    assert answer[-1] == family.stop_ids(tokenizer)[0]


@BOTH
@settings(deadline=None, max_examples=60)
@given(
    talks=st.lists(
        st.lists(
            st.sampled_from(["", "类型#上衣", "红色", "a  b\n", "<|user|>", "<|end|>", "\n", "😀"])
            | st.text(max_size=12).filter(str.isprintable),
            min_size=1,
            max_size=4,
        ),
        max_size=6,
    )
)
def test_many_texts_at_once_have_the_ids_of_each_alone(
    name: str, tokenizer: PreTrainedTokenizerFast, talks: list[list[str]]
) -> None:
    family = families.load(name)
    asked = [[(user, assistant)[i % 2](text) for i, text in enumerate(talk)] for talk in talks]
    alone = [family.prompt(tokenizer, messages) for messages in asked]
    assert families.prompts(family, tokenizer, asked) == alone
    texts = [text for talk in talks for text in talk]
    assert families.answers(family, tokenizer, texts) == [
        family.answer(tokenizer, text) for text in texts
    ]
    for messages, ids in zip(asked, alone, strict=True):
        if name == "tiny":
            text = "".join(f"<|{m['role']}|>\n{m['content']}" for m in messages)
            assert tokenizer.decode(ids) == f"[gMASK]<sop>{text}<|assistant|>\n"


def test_an_answer_ends_as_the_chat_template_ends_it() -> None:
    stops = families.load("llama").stop_ids(LLAMA)
    assert [LLAMA.decode([i]) for i in stops] == ["<|end|>", "<|stop|>"]


@BOTH
def test_only_the_answer_is_learnt(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (example,) = encoded(tmp_path, [user("类型#上衣"), assistant("红色")], name, tokenizer)
    end = "<|endoftext|>" if name == "tiny" else "<|end|>"
    assert learnt(example, tokenizer) == f"红色{end}"
    scored = [label != IGNORED for label in example.labels]
    assert scored == sorted(scored)
    assert example.input_ids[scored.index(True) :] == example.labels[scored.index(True) :]


@BOTH
def test_each_answer_of_a_conversation_is_learnt_after_all_that_came_before(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    messages = [user("类型"), assistant("上衣"), user("颜色"), assistant("红色")]
    first, second = encoded(tmp_path, messages, name, tokenizer)
    assert learnt(first, tokenizer).startswith("上衣")
    assert learnt(second, tokenizer).startswith("红色")
    family = families.load(name)
    assert second.input_ids[: second.labels.count(IGNORED)] == family.prompt(
        tokenizer, messages[:3]
    )


def test_a_cut_answer_does_not_teach_to_stop(tmp_path: Path) -> None:
    (example,) = encoded(tmp_path, [user("类型"), assistant("红色" * 40)], max_answer_tokens=5)
    assert example.answer_cut
    assert len([label for label in example.labels if label != IGNORED]) == 5
    assert "<|endoftext|>" not in learnt(example, GLM)


@BOTH
def test_rows_are_encoded_together_as_they_are_one_by_one(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    rows = [tiny_models.record(i)["messages"] for i in range(500)]
    rows[200] = [user("类型"), assistant("上衣" * 300_000), user("颜色" * 9), assistant("红色")]
    rows[400] = [turn for row in rows[:40] for turn in row]
    path = tiny_models.write_rows(tmp_path / "train.jsonl", [{"messages": row} for row in rows])
    spec, family = TrainSpec(max_prompt_tokens=24, max_answer_tokens=8), families.load(name)
    together = encode.split(path, family, tokenizer, spec)
    alone = [example for row in rows for example in encode.examples(row, family, tokenizer, spec)]
    assert together.examples == alone
    assert (together.rows, len(alone)) == (500, 540)
    assert together.prompts_cut > 40


@BOTH
@settings(deadline=None, max_examples=80)
@given(
    texts=st.lists(st.text("类型上衣#*ab 。\n", max_size=60), min_size=1, max_size=5),
    limit=st.integers(24, 60),
    instructed=st.booleans(),
)
def test_a_cut_prompt_keeps_its_limit_its_beginning_and_the_answer_marker(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    limit: int,
    instructed: bool,
) -> None:
    family = families.load(name)
    turns = [(user, assistant)[i % 2](text) for i, text in enumerate(texts)]
    messages = [system("简短")] * instructed + (turns if len(turns) % 2 else turns[:-1])
    whole = family.prompt(tokenizer, messages)
    ids, cut = fit_prompt(family, tokenizer, messages, limit)
    assert len(ids) <= limit
    assert cut == (len(whole) > limit)
    begin, marker = (2, 2) if name == "tiny" else (2, 3)
    assert ids[:begin] == whole[:begin]
    assert ids[-marker:] == whole[-marker:]


def test_old_messages_go_before_the_last_one_is_touched() -> None:
    family = families.load("tiny")
    messages = [system("简短"), user("类型" * 30), assistant("上衣"), user("颜色#红色")]
    ids, _ = fit_prompt(family, GLM, messages, 40)
    assert ids == family.prompt(GLM, [messages[0], messages[3]])


def one_by_one(
    family: families.Family, tokenizer: PreTrainedTokenizerFast, messages: Messages, limit: int
) -> Messages:
    """Drop the oldest exchange until the rest fits: what the bisection must come to."""
    while len(family.prompt(tokenizer, messages)) > limit and len(messages) > 1:
        first = 1 if messages[0]["role"] == "system" and len(messages) > 2 else 0
        later = [i for i in range(first + 1, len(messages)) if messages[i]["role"] == "user"]
        messages = messages[:first] + messages[(later or [len(messages) - 1])[0] :]
    return messages


@BOTH
@settings(deadline=None, max_examples=150)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from([user, user, assistant, system]), st.integers(0, 9)),
        min_size=1,
        max_size=14,
    ),
    limit=st.integers(40, 200),
)
def test_as_few_old_messages_go_as_suffice(
    name: str, tokenizer: PreTrainedTokenizerFast, turns: list[Any], limit: int
) -> None:
    family = families.load(name)
    messages = [speaks("类型#上衣" * count) for speaks, count in turns]
    left = one_by_one(family, tokenizer, messages, limit)
    ids, _ = fit_prompt(family, tokenizer, messages, limit)
    whole = family.prompt(tokenizer, left)
    assert ids == (whole if len(whole) <= limit else fit_prompt(family, tokenizer, left, limit)[0])


def test_a_long_message_loses_its_middle() -> None:
    ids, _ = fit_prompt(families.load("tiny"), GLM, [user("开始" + "上衣" * 99 + "结束")], 32)
    text = GLM.decode(ids)
    assert text.startswith("[gMASK]<sop><|user|>\n开始上衣")
    assert text.endswith("结束<|assistant|>\n")
    assert len(ids) == 32


def test_a_limit_below_the_frame_of_a_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_prompt_tokens: .* takes \d+ tokens \(found 8\)"):
        fit_prompt(families.load("llama"), LLAMA, [user("类型" * 30)], 8)


def test_what_was_cut_is_counted(tmp_path: Path) -> None:
    rows = [
        {"messages": [user("短"), assistant("短")]},
        {"messages": [user("类型" * 50), assistant("短")]},
        {"messages": [user("类型" * 50), assistant("上衣" * 50)]},
    ]
    path = tiny_models.write_rows(tmp_path / "train.jsonl", rows)
    spec = TrainSpec(max_prompt_tokens=16, max_answer_tokens=8)
    found = encode.split(path, families.load("tiny"), GLM, spec)
    assert (found.rows, found.prompts_cut, found.answers_cut) == (3, 2, 1)


@pytest.mark.parametrize(
    ("answer", "kept"), [("\n \n\n上衣", 2), ("\u3000\u3000上衣", 2), ("龘", 2), ("\t" * 9, 20)]
)
def test_an_answer_of_which_nothing_is_left_is_refused(
    answer: str, kept: int, tmp_path: Path
) -> None:
    blank = [user("类型"), assistant(f"{answer}红")]
    rows = [tiny_models.record(i)["messages"] for i in range(300)]
    rows[270] = rows[290] = blank
    path = tiny_models.write_rows(tmp_path / "train.jsonl", [{"messages": row} for row in rows])

    def split(limit: int, first: int | None = None) -> encode.Encoded:
        spec = TrainSpec(max_answer_tokens=limit)
        return encode.split(path, families.load("tiny"), GLM, spec, first)

    if kept < len(families.load("tiny").answer(GLM, blank[1]["content"])) - 2:
        what = rf"train\.jsonl:271: nothing is left .* within {kept} tokens \(found 2 such"
        with pytest.raises(DataError, match=what):
            split(kept)
    assert split(kept, 270).rows == 270
    assert split(99).rows == 300


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "not a JSON object"),
        ("{", "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        ("[]", 'no list "messages"'),
        ('{"messages": []}', 'no list "messages"'),
        ('{"messages": ["a"]}', r"messages\[0\]: not an object"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "role must be"),
        ('{"messages": [{"role": "user", "content": 3}]}', "content must be a text"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a character"),
        (json.dumps({"messages": [assistant("a")]}), "must end with an answer to something"),
        (json.dumps({"messages": [assistant("a"), user("b")]}), "must end with an answer"),
        (json.dumps({"messages": [user("a"), assistant(" ")]}), "an answer is empty"),
    ],
)
def test_a_malformed_row_is_named_by_path_and_line(
    tmp_path: Path, line: str | bytes, what: str
) -> None:
    path = tmp_path / "train.jsonl"
    raw = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(json.dumps(tiny_models.record(1)).encode() + b"\n" + raw + b"\n")
    with pytest.raises(DataError, match=rf"train\.jsonl:2: .*{what}") as raised:
        encode.split(path, families.load("tiny"), GLM, TrainSpec())
    assert str(raised.value).startswith(f"{path}:2: ")


def test_a_conversation_the_template_refuses_is_named_by_path_and_line(tmp_path: Path) -> None:
    strict = tiny_models.tokenizer(tiny_models.LLAMA_TOKENS, "<|stop|>")
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    path = tiny_models.write_rows(tmp_path / "train.jsonl", [tiny_models.record(1)])
    with pytest.raises(DataError, match=r"train\.jsonl:1: .*roles must alternate"):
        encode.split(path, families.load("llama"), strict, TrainSpec())
    strict.chat_template = (
        "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
        + tiny_models.LLAMA_TEMPLATE
    )
    rows = [tiny_models.record(i) for i in range(300)]
    rows[280] = {"messages": [user("a"), assistant("b"), user("c"), assistant("d")]}
    tiny_models.write_rows(path, rows)
    with pytest.raises(DataError, match=r"train\.jsonl:281: .*one turn only"):
        encode.split(path, families.load("llama"), strict, TrainSpec())


def test_a_tokenizer_without_what_its_family_needs_is_refused() -> None:
    plain = tiny_models.tokenizer(["<|stop|>"], "<|stop|>")
    with pytest.raises(ConfigError, match=r"\[gMASK\] is not one of its special tokens"):
        families.load("tiny").prompt(plain, [user("a")])
    with pytest.raises(ConfigError, match="no chat template"):
        families.load("llama").prompt(plain, [user("a")])
    with pytest.raises(ConfigError, match="there is no 'gpt9'"):
        families.load("gpt9")


@settings(deadline=None)
@given(
    rows=st.integers(1, 90),
    batch=st.integers(1, 9),
    epochs=st.sampled_from([0.3, 1.0, 2.0, 2.5]),
    seed=st.integers(0, 3),
)
def test_every_epoch_reads_every_row_once(rows: int, batch: int, epochs: float, seed: int) -> None:
    lengths = [(7 * i) % 23 + 1 for i in range(rows)]
    plan = Schedule(lengths, TrainSpec(epochs=epochs, global_batch=batch, seed=seed))
    read = [i for step in range(plan.steps) for i in plan.examples(step)]
    assert len(read) == plan.total == -(-round(epochs * rows * 10) // 10)
    counts = [read.count(i) for i in range(rows)]
    assert max(counts) - min(counts) <= 1
    backwards = {step: plan.examples(step) for step in reversed(range(plan.steps))}
    assert [i for step in range(plan.steps) for i in backwards[step]] == read


def test_a_number_of_steps_overrules_the_epochs() -> None:
    plan = Schedule([5] * 10, TrainSpec(max_steps=7, global_batch=4, epochs=99))
    assert (plan.steps, plan.epochs) == (7, 2.8)
    assert all(len(plan.examples(step)) == 4 for step in range(7))


def test_the_order_differs_between_epochs_and_seeds() -> None:
    def order(seed: int) -> list[int]:
        plan = Schedule([5] * 40, TrainSpec(epochs=2, global_batch=1, seed=seed))
        return [plan.examples(step)[0] for step in range(80)]

    assert order(1)[:40] != order(1)[40:]
    assert order(1) != order(2)
    assert order(1) == order(1)


def test_steps_hold_rows_of_similar_length() -> None:
    lengths = [20 + (37 * i) % 80 for i in range(1600)]
    plan = Schedule(lengths, TrainSpec(epochs=1, global_batch=32))
    steps = [[lengths[i] for i in plan.examples(step)] for step in range(plan.steps)]
    padded = sum(max(step) * len(step) for step in steps)
    assert sum(lengths) / padded > 0.95


def test_padding_is_on_the_right_and_is_not_scored() -> None:
    batch = collate([encode.Example([5, 6, 7], [IGNORED, 6, 7]), encode.Example([8], [8])])
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
