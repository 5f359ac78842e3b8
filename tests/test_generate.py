"""Answers: equal to transformers' own, whoever else is in the batch, and never paid for twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch

from tasks.trainer import drawing, generate, loop, model, predict
from tasks.trainer.errors import ConfigError, DataError, Interrupted
from tasks.trainer.families import tiny
from tasks.trainer.job import DecodeSpec, Full, Job, TrainSpec
from tasks.trainer.model import Loaded
from tasks.trainer.stopping import Stop

SHORT = DecodeSpec(max_new_tokens=24, batch_rows=5)
ASKED = [tiny_models.record(i)["messages"][:1] for i in range(11)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GLM that has learnt to end its answers, and rows to ask it."""
    root = tmp_path_factory.mktemp("generate")
    data = tiny_models.dataset(root / "data", train=128)
    base = tiny_models.glm(root / "base")
    spec = TrainSpec(method=Full(), epochs=12, learning_rate=5e-3, dev_rows=0, global_batch=16)
    job = Job("train", "tiny", str(base), data=str(data), out=str(root / "tuned"), train=spec)
    loop.train(Job(**{**vars(job), "work": str(root / "work")}), Stop())
    return root


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Loaded:
    return model.load(Job("predict", "tiny", str(folder / "base"), tuned=str(folder / "tuned")))


def by_transformers(loaded: Loaded, messages: list[dict[str, str]], tokens: int) -> str:
    prompt = loaded.family.prompt(loaded.tokenizer, messages)
    stops = loaded.family.stop_ids(loaded.tokenizer)
    ids = loaded.model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=stops[0],
    )
    said = [i for i in ids[0, len(prompt) :].tolist() if i not in stops]
    return str(loaded.tokenizer.decode(said, skip_special_tokens=True))


def test_the_greedy_answers_are_those_of_transformers(tuned: Loaded) -> None:
    answers = generate.answer(tuned, ASKED, SHORT, 128)
    assert [a.text for a in answers] == [by_transformers(tuned, m, 24) for m in ASKED]
    assert len({a.answer_tokens for a in answers}) > 1
    assert {a.finish for a in answers} == {"stop"}


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_kin_of_llama_answers_as_transformers_does(kind: str, tmp_path: Path) -> None:
    loaded = model.load(Job("predict", "llama", str(tiny_models.llama(tmp_path, kind=kind))))
    answers = generate.answer(loaded, ASKED[:3], SHORT, 128)
    assert [a.text for a in answers] == [by_transformers(loaded, m, 24) for m in ASKED[:3]]


@pytest.mark.parametrize(
    "spec", [SHORT, DecodeSpec(max_new_tokens=24, temperature=0.9, top_p=0.95, batch_rows=4)]
)
def test_an_answer_does_not_depend_on_who_else_is_asked(tuned: Loaded, spec: DecodeSpec) -> None:
    together = generate.answer(tuned, ASKED, spec, 128)
    alone = [generate.answer(tuned, [messages], spec, 128)[0] for messages in ASKED]
    assert together == alone


@pytest.fixture(scope="module")
def strong(folder: Path) -> Loaded:
    """A random model that attends sharply to everything and often ends its answer."""
    loaded = model.load(Job("predict", "tiny", str(folder / "base")))
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    family = SimpleNamespace(**vars(loaded.family))
    family.stop_ids = lambda tokenizer: list(range(0, len(tokenizer), 12))
    return replace(loaded, family=family)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_padding_and_rows_that_have_ended_leave_no_trace(
    strong: Loaded, temperature: float
) -> None:
    texts = [tiny_models.record(i)["messages"][0]["content"] for i in range(40)]
    asked = [[{"role": "user", "content": "".join(texts[i : i + i % 7])}] for i in range(24)]
    spec = DecodeSpec(max_new_tokens=30, temperature=temperature, batch_rows=24)
    together = generate.answer(strong, asked, spec, 128)
    assert together == [generate.answer(strong, [messages], spec, 128)[0] for messages in asked]
    assert len({a.answer_tokens for a in together}) > 6
    if temperature == 0:
        assert [a.text for a in together] == [by_transformers(strong, m, 30) for m in asked]


def test_an_answer_ends_at_the_limit(tuned: Loaded) -> None:
    (whole,) = generate.answer(tuned, ASKED[:1], SHORT, 128)
    (cut,) = generate.answer(tuned, ASKED[:1], DecodeSpec(max_new_tokens=3), 128)
    assert (whole.finish, cut.finish) == ("stop", "length")
    assert cut.answer_tokens == 3
    assert whole.text.startswith(cut.text)
    assert whole.answer_tokens == len(tuned.family.answer(tuned.tokenizer, whole.text)) - 1
    assert whole.prompt_tokens == len(tuned.family.prompt(tuned.tokenizer, ASKED[0]))


def test_a_nucleus_of_the_likeliest_token_is_greedy(tuned: Loaded) -> None:
    narrow = DecodeSpec(max_new_tokens=24, temperature=1.5, top_p=1e-6)
    greedy = generate.answer(tuned, ASKED, SHORT, 128)
    assert generate.answer(tuned, ASKED, narrow, 128) == greedy


def test_draws_follow_the_probabilities(tuned: Loaded) -> None:
    prompt = tuned.family.prompt(tuned.tokenizer, ASKED[0])
    with torch.no_grad():
        logits = tuned.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = (logits / 2.5).softmax(-1)
    drawn = [
        generate.answer(tuned, ASKED[:1], DecodeSpec(max_new_tokens=1, temperature=2.5, seed=s), 99)
        for s in range(400)
    ]
    top = int(expected.argmax())
    share = sum(a.text == tuned.tokenizer.decode([top]) for (a,) in drawn) / len(drawn)
    deviation = float((expected[top] * (1 - expected[top]) / len(drawn)) ** 0.5)
    assert abs(share - float(expected[top])) < 4 * deviation
    assert deviation > 0.005


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("tokens", [300, 6000])
def test_sorting_the_likeliest_tokens_draws_what_sorting_all_draws(
    tokens: int, top_p: float
) -> None:
    stream = torch.Generator().manual_seed(5)
    for heat in (0.3, 1.0, 4.0):
        logits = torch.randn(48, tokens, generator=stream) / heat
        logits[::2] = logits[::2].round()  # many tokens are equally likely
        shares, numbers = logits.softmax(-1), torch.rand(48, generator=stream)
        chosen = drawing.draw(shares, top_p, numbers)
        for row, (share, number) in enumerate(zip(shares, numbers, strict=True)):
            ordered, order = share.sort(stable=True, descending=True)
            before = ordered.cumsum(0) - ordered
            nucleus = ordered[before < top_p].cumsum(0)
            place = int((nucleus <= number * nucleus[-1]).sum())
            assert chosen[row] == order[min(place, len(nucleus) - 1)]


def test_seeds_differ_and_repeat(tuned: Loaded) -> None:
    def drawn(seed: int) -> list[generate.Answer]:
        spec = DecodeSpec(max_new_tokens=24, temperature=1.5, seed=seed)
        return generate.answer(tuned, ASKED, spec, 128)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_nobody_asked_means_nothing_answered(tuned: Loaded) -> None:
    assert generate.answer(tuned, [], SHORT, 128) == []


def test_the_window_of_the_model_bounds_prompt_and_answer(tuned: Loaded) -> None:
    long = [{"role": "user", "content": "上衣" * 600}]
    unending = replace(tuned, family=SimpleNamespace(**vars(tuned.family)))
    unending.family.stop_ids = lambda tokenizer: [len(tokenizer)]
    spec = DecodeSpec(max_new_tokens=30)
    answers = generate.answer(unending, [long, ASKED[0]], spec, 500)
    assert [a.prompt_tokens + a.answer_tokens for a in answers] == [
        512,
        answers[1].prompt_tokens + 30,
    ]
    with pytest.raises(ConfigError, match="leaves no room for an answer"):
        generate.answer(tuned, [long], SHORT, 512)


def predicted(folder: Path, work: Path, stop: Stop, spec: DecodeSpec = SHORT) -> bytes:
    job = Job(
        action="predict",
        family="tiny",
        base=str(folder / "base"),
        tuned=str(folder / "tuned"),
        data=str(folder / "data"),
        out=str(work / "out"),
        work=str(work),
        decode=spec,
    )
    predict.predict(job, stop)
    return (work / "out" / "predictions.jsonl").read_bytes()


def test_predictions_follow_the_order_of_the_split(folder: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in predicted(folder, tmp_path, Stop()).splitlines()]
    rows = [
        json.loads(line)["messages"] for line in (folder / "data/dev.jsonl").open(encoding="utf-8")
    ]
    assert [line["prompt"] for line in lines] == [row[:-1] for row in rows]
    assert [line["reference"] for line in lines] == [row[-1]["content"] for row in rows]
    assert all(set(line) == {"prompt", "reference", "prediction", "finish"} for line in lines)


def test_the_tools_of_the_how_tos_find_the_answers_in_their_own_file(
    folder: Path, tmp_path: Path
) -> None:
    said = [json.loads(line) for line in predicted(folder, tmp_path, Stop()).splitlines()]
    text = (tmp_path / "out" / "generated_predictions.txt").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"labels": one["reference"].strip(), "predict": one["prediction"].strip()} for one in said
    ]
    assert said[0]["reference"] in text  # not escaped
    assert {one["finish"] for one in said} == {"stop"}


def test_a_row_that_a_family_cannot_express_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = json.loads((folder / "data/dev.jsonl").open(encoding="utf-8").readlines()[6])
    told = tiny.prompts

    def prompts(tokenizer: object, asked: list[list[dict[str, str]]]) -> list[list[int]]:
        if refused["messages"][:-1] in asked:
            raise DataError("role: unknown.")
        return told(tokenizer, asked)  # type: ignore[arg-type]

    monkeypatch.setattr(tiny, "prompts", prompts)
    with pytest.raises(DataError, match=r"dev\.jsonl:7: role: unknown"):
        predicted(folder, tmp_path, Stop())


def test_only_the_first_rows_are_answered_when_asked(folder: Path, tmp_path: Path) -> None:
    spec = DecodeSpec(max_new_tokens=4, rows=3)
    assert len(predicted(folder, tmp_path, Stop(), spec).splitlines()) == 3


DRAWN = DecodeSpec(max_new_tokens=24, temperature=0.9, top_p=0.95, batch_rows=5)


@pytest.mark.parametrize(("spec", "looks"), [(SHORT, 0), (SHORT, 16), (DRAWN, 16)])
def test_interrupted_predictions_end_as_if_they_had_not_been(
    folder: Path, tmp_path: Path, spec: DecodeSpec, looks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = predicted(folder, tmp_path / "whole", Stop(), spec)
    with pytest.raises(Interrupted, match=r"of 12 rows; run again"):
        predicted(folder, tmp_path / "cut", tiny_models.StopAfter(looks), spec)
    with (tmp_path / "cut" / "answers.jsonl").open("ab") as ledger:
        ledger.write(b'{"3": {"pred')  # what a kill in the middle of a write leaves
    capsys.readouterr()
    assert predicted(folder, tmp_path / "cut", Stop(), spec) == whole
    assert ("continues after" in capsys.readouterr().out) == (looks > 0)


def test_answers_of_another_job_are_refused(folder: Path, tmp_path: Path) -> None:
    predicted(folder, tmp_path, Stop())
    with pytest.raises(ConfigError, match="answers of another job"):
        predicted(folder, tmp_path, Stop(), DecodeSpec(max_new_tokens=9))


def test_finished_answers_are_not_generated_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = predicted(folder, tmp_path, Stop())
    capsys.readouterr()
    assert predicted(folder, tmp_path, tiny_models.StopAfter(0)) == first
    assert "tokens/s" not in capsys.readouterr().out
