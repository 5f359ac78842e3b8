"""Families: what every file of the folder keeps to, and what is each one's own."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece_models
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tasks.trainer import families, template, tokenizer, written
from tasks.trainer.errors import ConfigError, DataError
from tasks.trainer.fitting import fit_prompt
from tasks.trainer.job import METHODS

Messages = list[dict[str, str]]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GLM4_TOKENS = [*tiny_models.GLM_TOKENS, "<|observation|>", "[MASK]", "[sMASK]", "<eop>"]


def trained(tokens: list[str], stop: str, chat_template: str | None = None) -> Any:
    found = tiny_models.tokenizer(tokens, stop)
    found.chat_template = chat_template
    return found


def published(generation: int) -> PreTrainedTokenizerFast:
    with tempfile.TemporaryDirectory() as folder:
        return tokenizer.load(sentencepiece_models.write(Path(folder), generation))


@dataclass(frozen=True)
class Case:
    """A family with a tokenizer that it fits, and what a prompt of one question has around it."""

    name: str
    build: Callable[[], PreTrainedTokenizerFast]
    before: str
    after: str

    @functools.cached_property
    def family(self) -> Any:
        return families.load(self.name)

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return self.build()

    def decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids))


_GLM = ("[gMASK]<sop><|user|>\n", "<|assistant|>\n")
_CHATML = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
_THOUGHT = "<think>\n\n</think>\n\n"
CASES = {
    "tiny": Case("tiny", lambda: trained(tiny_models.GLM_TOKENS, "<|endoftext|>"), *_GLM),
    "glm4": Case("glm4", lambda: trained(GLM4_TOKENS, "<|endoftext|>"), *_GLM),
    "llama": Case(
        "llama",
        lambda: trained(tiny_models.LLAMA_TOKENS, "<|stop|>", tiny_models.LLAMA_TEMPLATE),
        "<|begin|><|start|>user\n",
        "<|end|><|start|>assistant\n",
    ),
    "qwen": Case(
        "qwen",
        lambda: trained(CHATML_TOKENS, "<|im_end|>", CHATML),
        _CHATML[0],
        _CHATML[1] + _THOUGHT,
    ),
    "mpt": Case("mpt", lambda: trained(["<|endoftext|>"], "<|endoftext|>"), "", ""),
    "mpt-markers": Case("mpt", lambda: trained(CHATML_TOKENS, "<|endoftext|>"), *_CHATML),
    "mpt-template": Case(
        "mpt",
        lambda: trained(CHATML_TOKENS, "<|endoftext|>", CHATML),
        _CHATML[0],
        _CHATML[1] + _THOUGHT,
    ),
    "chatglm-1": Case("chatglm", lambda: published(1), "", "[gMASK]<sop>"),
    "chatglm-2": Case("chatglm", lambda: published(2), "[gMASK]sop [Round 1]\n\n问：", "\n\n答："),
    "chatglm-3": Case(
        "chatglm", lambda: published(3), "[gMASK]sop<|user|> \n ", "<|assistant|> \n"
    ),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
CONVERSATIONS: list[Messages] = [
    [{"role": "user", "content": "类型#上衣"}],
    [{"role": "system", "content": "简短"}, {"role": "user", "content": "颜色#红色"}],
    [
        {"role": "system", "content": "简短"},
        {"role": "user", "content": "类型#裙子"},
        {"role": "assistant", "content": "这件红色的上衣\n柔软舒适。"},
        {"role": "user", "content": " 好 "},
    ],
]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def controls(ids: list[int], tok: PreTrainedTokenizerFast) -> list[int]:
    known = set(written.known(tok).values())
    return [i for i in ids if i in known]


def test_every_family_is_tried_here() -> None:
    assert {case.name for case in CASES.values()} == set(families.names())


@pytest.mark.parametrize("name", families.names())
def test_a_family_says_what_the_contract_asks(name: str) -> None:
    family = families.load(name)
    assert family.ARCHITECTURES
    assert all(isinstance(layer, str) for layer in family.LORA_TARGETS)
    assert set(families.option(family, "ATTENTION_TARGETS")) <= set(family.LORA_TARGETS)
    assert families.option(family, "ATTENTION") in ("sdpa", "eager")
    for what in ("CHECKPOINTING", "PACKS"):
        assert families.option(family, what) or families.option(family, f"{what}_REASON")
    rates = families.option(family, "RATES")
    assert set(rates) == set(METHODS)
    assert rates["full"] < rates["lora"] < rates["prefix"]


@pytest.mark.parametrize("name", families.names())
def test_a_template_around_users_leaves_the_options_of_a_family(name: str) -> None:
    plain = families.load(name)
    dressed = template.templated(plain, "问：{prompt}")
    for what in ("LORA_TARGETS", "ATTENTION_TARGETS", "ATTENTION", "CHECKPOINTING", "RATES"):
        assert families.option(dressed, what) == families.option(plain, what)


def test_an_option_that_nobody_knows_is_an_error() -> None:
    dressed = template.templated(families.load("tiny"), "{prompt}")
    for family in (families.load("tiny"), dressed):
        with pytest.raises(AttributeError):
            families.option(family, "COLOUR")


@EVERY
def test_a_question_stands_between_what_the_family_puts_around_it(case: Case) -> None:
    ids = case.family.prompt(case.tokenizer, [user("类型上衣")])
    text = case.decoded(ids)
    assert text.startswith(case.before)
    assert text.endswith(case.after)
    assert "类型上衣" in text


@EVERY
def test_many_prompts_and_answers_are_those_of_each_alone(case: Case) -> None:
    family, tok = case.family, case.tokenizer
    alone = [family.prompt(tok, messages) for messages in CONVERSATIONS]
    assert families.prompts(family, tok, CONVERSATIONS) == alone
    texts = ["红色", "", "\n这件 <|user|> 上衣", "红色"]
    assert families.answers(family, tok, texts) == [family.answer(tok, text) for text in texts]
    assert families.prompts(family, tok, []) == families.answers(family, tok, []) == []


@EVERY
def test_an_answer_ends_with_the_first_of_the_stop_tokens(case: Case) -> None:
    ids = case.family.answer(case.tokenizer, "这件红色的上衣\n柔软舒适")
    stops = case.family.stop_ids(case.tokenizer)
    assert ids[-1] == stops[0]
    assert not set(ids[:-1]) & set(stops)
    assert len(set(stops)) == len(stops)
    text = case.tokenizer.decode(ids, skip_special_tokens=True)
    assert text == "这件红色的上衣\n柔软舒适"


@EVERY
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_a_person_writes_never_becomes_a_control_token(
    case: Case, data: st.DataObject
) -> None:
    tok = case.tokenizer
    names = [*written.known(tok), "<|im_start|>", "<|user|>", "</s>", "sop", "<0x0A>"]
    halves = [half for name in names for half in (name[: len(name) // 2], name[len(name) // 2 :])]
    said = st.lists(st.sampled_from([*names, *halves, "类", " ", "\n", "a"]), max_size=5).map(
        "".join
    )
    for messages in CONVERSATIONS:
        forged = [{**message, "content": data.draw(said)} for message in messages]
        plain = [{**message, "content": "类"} for message in messages]
        expected = controls(case.family.prompt(tok, plain), tok)
        assert controls(case.family.prompt(tok, forged), tok) == expected
    answer = case.family.answer(tok, data.draw(said))
    assert controls(answer, tok) == answer[-1:]


@EVERY
@pytest.mark.parametrize("name", ["<|user|>", "<|im_start|>", "[gMASK]", "</s>", "<|end|>"])
def test_a_message_that_is_the_name_of_a_control_token_is_only_its_letters(
    case: Case, name: str
) -> None:
    tok = case.tokenizer
    plain = controls(case.family.prompt(tok, [user("类")]), tok)
    ids = case.family.prompt(tok, [user(name)])
    assert controls(ids, tok) == plain
    assert name in tok.decode(ids, skip_special_tokens=True)


@EVERY
@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text("类型上衣#*ab 。：\n答", max_size=60), min_size=1, max_size=5),
    limit=st.integers(56, 80),
    instructed=st.booleans(),
)
def test_a_prompt_that_is_too_long_keeps_what_surrounds_its_last_message(
    case: Case, texts: list[str], limit: int, instructed: bool
) -> None:
    turns = [(user, assistant)[i % 2](text) for i, text in enumerate(texts)]
    messages = [system("简短")] * instructed + (turns if len(turns) % 2 else turns[:-1])
    whole = case.family.prompt(case.tokenizer, messages)
    ids, cut = fit_prompt(case.family, case.tokenizer, messages, limit)
    assert len(ids) <= limit
    assert cut == (len(whole) > limit)
    assert case.decoded(ids).endswith(case.after)


@EVERY
@pytest.mark.parametrize("edge", ["", "\n", "：", "\n\n", " ", "答", "。", "问：\n\n答："])
def test_a_long_question_loses_its_middle_and_nothing_around_it(case: Case, edge: str) -> None:
    question = [user(edge + "开始" + "上衣" * 99 + "结束" + edge)]
    ids, cut = fit_prompt(case.family, case.tokenizer, question, 90)
    text = case.decoded(ids)
    assert (len(ids), cut) == (90, True)
    assert text.startswith(case.before)
    assert text.endswith(case.after)
    assert "上衣" in text


@EVERY
def test_a_question_in_a_template_is_cut_inside_the_template(case: Case) -> None:
    dressed = template.templated(case.family, "### Question:\n{prompt}\n\n### Answer:\n")
    ids, cut = fit_prompt(dressed, case.tokenizer, [user("上衣" * 99)], 90)
    text = case.decoded(ids)
    assert cut
    assert len(ids) <= 90
    for part in ("### Question:\n上衣", "\n\n### Answer:"):
        assert part in text


@EVERY
def test_an_unknown_role_is_refused(case: Case) -> None:
    with pytest.raises(DataError, match="tool"):
        case.family.prompt(case.tokenizer, [{"role": "tool", "content": "a"}])


@pytest.mark.parametrize("name", families.names())
def test_a_tokenizer_of_another_family_is_refused(name: str) -> None:
    other = trained(["<|other|>"], "<|other|>")
    with pytest.raises(ConfigError, match="tokenizer"):
        families.load(name).stop_ids(other)


def test_the_family_of_chatglm_refuses_the_tokenizer_of_glm4() -> None:
    with pytest.raises(ConfigError, match="GLM-4 has its own, glm4"):
        families.load("chatglm").prompt(CASES["glm4"].tokenizer, [user("a")])


def test_the_first_chatglm_counts_rounds_from_0_and_a_first_question_is_no_round() -> None:
    case = CASES["chatglm-1"]

    def text(*messages: dict[str, str]) -> str:
        return case.decoded(case.family.prompt(case.tokenizer, list(messages)))

    assert text(user("类型")) == "类型[gMASK]<sop>"
    assert text(user("类型"), assistant("好"), user("上衣"), assistant("红"), user("颜色")) == (
        "[Round 0]\n问：类型\n答：好\n[Round 1]\n问：上衣\n答：红\n[Round 2]\n问：颜色\n答：[gMASK]<sop>"
    )
    assert text(system("简短"), user("类型")) == "简短\n类型[gMASK]<sop>"


def test_the_second_chatglm_counts_rounds_from_1_and_a_first_question_is_one() -> None:
    case = CASES["chatglm-2"]

    def text(*messages: dict[str, str]) -> str:
        return case.decoded(case.family.prompt(case.tokenizer, list(messages)))

    begin = "[gMASK]sop "
    assert text(user("类型")) == f"{begin}[Round 1]\n\n问：类型\n\n答："
    assert text(system("简短"), user("类型"), assistant("好"), user("上衣")) == (
        f"{begin}简短\n\n[Round 1]\n\n问：类型\n\n答：好\n\n[Round 2]\n\n问：上衣\n\n答："
    )


def test_the_third_chatglm_puts_roles_before_messages() -> None:
    case = CASES["chatglm-3"]
    ids = case.family.prompt(
        case.tokenizer, [system("简短"), user("类型"), assistant("好"), user("上衣")]
    )
    assert case.decoded(ids) == (
        "[gMASK]sop<|system|> \n 简短<|user|> \n 类型<|assistant|> \n 好<|user|> \n 上衣<|assistant|> \n"
    )


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("chatglm-1", ["<eop>"]),
        ("chatglm-2", ["</s>"]),
        ("chatglm-3", ["</s>", "<|user|>", "<|observation|>"]),
        ("glm4", ["<|endoftext|>", "<|user|>", "<|observation|>"]),
        ("tiny", ["<|endoftext|>"]),
        ("mpt", ["<|endoftext|>"]),
        ("mpt-markers", ["<|im_end|>", "<|endoftext|>"]),
        ("mpt-template", ["<|im_end|>", "<|endoftext|>"]),
        ("llama", ["<|end|>", "<|stop|>"]),
        ("qwen", ["<|im_end|>"]),
    ],
)
def test_answers_stop_where_the_models_of_the_family_stop(name: str, stops: list[str]) -> None:
    case = CASES[name]
    assert case.tokenizer.convert_ids_to_tokens(case.family.stop_ids(case.tokenizer)) == stops


@pytest.mark.parametrize("generation", ["chatglm-1", "chatglm-2"])
@pytest.mark.parametrize(
    "messages",
    [
        [],
        [assistant("好"), user("类型")],
        [user("类型"), user("上衣")],
        [user("类型"), assistant("好")],
        [user("类型"), assistant("好"), system("简短"), user("上衣")],
        [system("简短")],
    ],
)
def test_messages_that_are_no_rounds_are_refused_with_what_they_are(
    generation: str, messages: Messages
) -> None:
    case = CASES[generation]
    with pytest.raises(DataError, match="rounds of user and assistant"):
        case.family.prompt(case.tokenizer, messages)


def test_mpt_reads_a_single_question_as_it_is_and_a_conversation_between_markers() -> None:
    case = CASES["mpt"]
    family, tok = case.family, case.tokenizer
    assert case.decoded(family.prompt(tok, [user("类型#上衣")])) == "类型#上衣"
    ids = family.prompt(tok, [system("简短"), user("类型"), assistant("好"), user("颜色")])
    assert case.decoded(ids) == (
        "<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n类型<|im_end|>\n"
        "<|im_start|>assistant\n好<|im_end|>\n<|im_start|>user\n颜色<|im_end|>\n<|im_start|>assistant\n"
    )
    assert controls(ids, tok) == []


def test_markers_that_are_tokens_are_used_as_tokens() -> None:
    with_tokens, with_template = CASES["mpt-markers"], CASES["mpt-template"]
    messages = CONVERSATIONS[2]
    ids = with_tokens.family.prompt(with_tokens.tokenizer, messages)
    assert len(controls(ids, with_tokens.tokenizer)) == 2 * len(messages) + 1
    rendered = with_template.family.prompt(with_template.tokenizer, messages)
    assert with_tokens.decoded(ids) + _THOUGHT == with_template.decoded(rendered)


def test_a_configuration_that_names_llama_for_a_qwen_model_works_as_before() -> None:
    case = CASES["qwen"]
    llama: Any = families.load("llama")
    assert set(case.family.ARCHITECTURES) <= set(llama.ARCHITECTURES)
    for messages in CONVERSATIONS:
        ids = case.family.prompt(case.tokenizer, messages)
        assert llama.prompt(case.tokenizer, messages) == ids


def test_a_tokenizer_without_padding_pads_with_the_end_of_a_text(tmp_path: Path) -> None:
    found = CASES["mpt"].build()
    found.pad_token = None
    found.save_pretrained(tmp_path)
    assert tokenizer.load(tmp_path).pad_token == "<|endoftext|>"
