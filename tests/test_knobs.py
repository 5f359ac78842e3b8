"""The command line's knobs come from the schema that the UI shows."""

from __future__ import annotations

import pytest

from flows import knobs
from tasks.config import EvaluateConfig, FinetuneConfig
from tasks.errors import ConfigError

KNOWN = knobs.knobs(FinetuneConfig)
BY_NAME = {knob.name: knob for knob in KNOWN}


def test_every_knob_has_a_sentence_and_a_kind() -> None:
    assert len(KNOWN) > 40
    for knob in KNOWN:
        assert knob.kind, knob.name
        assert knob.help.endswith("."), knob.name


def test_the_default_shown_is_the_one_that_is_used() -> None:
    default = FinetuneConfig()
    assert BY_NAME["train.learning_rate"].default == default.train.learning_rate
    assert BY_NAME["data.format"].default == default.data.format
    assert BY_NAME["train.method.rank"].default == default.train.method.rank  # type: ignore[union-attr]


def test_choices_and_variants_are_shown() -> None:
    assert (
        BY_NAME["data.format"].kind
        == "auto|advertisegen|alpaca|chatglm3|messages|pairs|question|sharegpt"
    )
    assert BY_NAME["train.method.rank"].when == "train.method.kind=lora|qlora"
    assert BY_NAME["train.method.tokens"].when == "train.method.kind=prefix"
    assert BY_NAME["train.method.freeze_embeddings"].when == "train.method.kind=full"
    assert BY_NAME["judge.metrics"].kind.startswith("list of rouge_1|")


def built(*pairs: tuple[str, str]) -> FinetuneConfig:
    return knobs.build(FinetuneConfig, knobs.parse(list(pairs), KNOWN))


def test_values_are_taken_as_their_knob_needs_them() -> None:
    config = built(
        ("train.learning_rate", "5e-5"),
        ("train.epochs", "3"),
        ("judge.metrics", "[rouge_l]"),
        ("name", "2026"),
        ("source.uri", "a: b"),
    )
    assert config.train.learning_rate == 5e-5
    assert config.train.epochs == 3
    assert config.judge.metrics == ["rouge_l"]
    assert config.name == "2026"
    assert config.source.uri == "a: b"


def test_another_method_brings_its_own_knobs() -> None:
    config = built(("train.method.kind", "full"), ("train.method.freeze_embeddings", "true"))
    assert config.train.method.kind == "full"
    assert config.train.method.freeze_embeddings


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.epoch", "3", r"unknown knob \(found 'train\.epoch'\)\. Did you mean train\.epochs"),
        ("zzz", "3", r"unknown knob \(found 'zzz'\)\. See --help"),
        ("train.epochs", "many", r"train\.epochs: .*\(found 'many'\)"),
        ("train.epochs", "-1", r"^train\.epochs: must be above 0"),
        ("data.format", "csv", r"data\.format: .*advertisegen.*\(found 'csv'\)"),
        ("base.family", "gpt5", r"base\.family: .*tiny.*\(found 'gpt5'\)"),
        ("train.micro_batch", "5", r"^train\.micro_batch: must divide global_batch \(found 5\)"),
        ("serving.port", "70000", r"serving\.port: .*\(found 70000\)"),
        ("compute.kind", "moon", r"compute\.kind: .*\(found 'moon'\)"),
        ("name", "Ünïcode", r"name: .*\(found 'Ünïcode'\)"),
        ("train.method.kind", "magic", r"train\.method.*\(found 'magic'\)"),
    ],
)
def test_a_wrong_knob_is_named_with_what_was_found(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built((name, value))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"train.method.rank": "0"}, "train.method.rank: must be at least 1 (found 0)."),
        (
            {"train.method.kind": "magic"},
            "train.method.kind: there is no such choice (found 'magic'). "
            "Choose lora, qlora, prefix or full.",
        ),
        ({"train.method.kind": "prefix", "train.method.tokens": "0"}, "train.method.tokens: "),
        ({"judge.beats": "base"}, "judge.beats: Input should be a valid list (found 'base')."),
    ],
)
def test_only_what_is_wrong_is_told_of_a_choice_with_variants(
    pairs: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        built(*pairs.items())
    (line,) = str(refused.value).splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize("raw", ["[base", "{a: b", "'x"])
def test_a_value_that_cannot_be_read_is_named(raw: str) -> None:
    with pytest.raises(ConfigError, match=r"--judge\.beats: not a value \(found"):
        built(("judge.beats", raw))


def test_a_list_is_asked_for_in_the_form_that_is_read() -> None:
    with pytest.raises(ConfigError, match=r"Write it as \[one,another\]"):
        built(("judge.beats", "base"))
    assert built(("judge.beats", "[base,random]")).judge.beats == ["base", "random"]


def test_a_knob_of_a_choice_that_was_not_made_is_refused_not_ignored() -> None:
    given = [("train.method.tokens", "64"), ("train.epochs", "3")]
    with pytest.raises(ConfigError, match=r"^--train\.method\.tokens: .*prefix.*\(found lora\)"):
        knobs.refuse_idle(given, KNOWN, built(*given))
    chosen = [*given, ("train.method.kind", "prefix")]
    knobs.refuse_idle(chosen, KNOWN, built(*chosen))
    known = knobs.knobs(EvaluateConfig)
    lost = [("subject.base.uri", "elsewhere")]
    config = knobs.build(EvaluateConfig, knobs.parse(lost, known))
    with pytest.raises(ConfigError, match=r"Add --subject\.kind model, or leave it out"):
        knobs.refuse_idle(lost, known, config)


def test_merging_lays_the_second_over_the_first() -> None:
    under = {"a": {"x": 1, "y": 2}, "b": 1}
    assert knobs.merge(under, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}


def test_another_kind_replaces_its_section() -> None:
    under = {"method": {"kind": "lora", "rank": 4}}
    assert knobs.merge(under, {"method": {"kind": "full"}}) == {"method": {"kind": "full"}}
    assert knobs.merge(under, {"method": {"rank": 8}}) == {"method": {"kind": "lora", "rank": 8}}
