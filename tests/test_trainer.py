"""The trainer on tiny random models: it learns, resumes to the bit, and says what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from tasks.trainer import events, generate, loop, model, objective, tuned
from tasks.trainer.__main__ import main
from tasks.trainer.batches import collate
from tasks.trainer.errors import ConfigError, Interrupted
from tasks.trainer.job import DecodeSpec, Full, Job, Lora, TrainSpec
from tasks.trainer.model import Loaded
from tasks.trainer.rates import learning_rate
from tasks.trainer.stopping import Stop

PROJECT = Path(__file__).parents[1]
DIGEST = "ab" * 32
QUICK = TrainSpec(epochs=2, global_batch=8, checkpoint_steps=5, dev_rows=4, learning_rate=5e-3)
FULL = replace(QUICK, method=Full(), max_steps=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bases of both families and a dataset; no test writes here."""
    root = tmp_path_factory.mktemp("trainer")
    tiny_models.glm(root / "glm")
    tiny_models.llama(root / "llama")
    tiny_models.dataset(root / "data")
    return root


def order(folder: Path, home: Path, spec: TrainSpec = QUICK, base: str = "glm") -> Job:
    return Job(
        action="train",
        family="tiny" if base == "glm" else base,
        base=str(folder / base),
        base_digest=DIGEST,
        data=str(folder / "data"),
        out=str(home / "out"),
        work=str(home / "work"),
        train=spec,
        threads=1,
    )


def trained(job: Job, stop: Stop | None = None) -> dict[str, str]:
    """Train and return the sha256 of each file of the result."""
    loop.train(job, stop or Stop())
    return digests(Path(job.out))


def digests(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())}


def metrics(job: Job) -> list[dict[str, float]]:
    lines = (Path(job.out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answering(job: Job) -> Loaded:
    return model.load(replace(job, action="predict", tuned=job.out))


@pytest.mark.parametrize("base", ["glm", "llama"])
@pytest.mark.parametrize("method", [Lora(), Full()], ids=lambda method: method.kind)
def test_the_loss_falls(base: str, method: Lora | Full, folder: Path, tmp_path: Path) -> None:
    job = order(folder, tmp_path, replace(QUICK, method=method, epochs=5), base)
    trained(job)
    points = metrics(job)
    # adapters alone cannot do much with random embeddings
    much = 0.1 if method.kind == "lora" else 0.5
    assert points[-1]["loss"] < points[0]["loss"] - much
    assert points[-1]["dev_loss"] < points[0]["dev_loss"] - much
    assert [p["step"] for p in points] == [5, 10, 15, 20, 25, 30, 35, 40]


def moved(folder: Path, spec: TrainSpec, home: Path) -> tuple[set[str], set[str]]:
    """Return the names of the parameters that training changed, and of those it left."""
    job = order(folder, home, spec)
    loaded = model.load(job)
    tuned.prepare_training(loaded, spec)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    run = loop.Run(
        loaded, spec, loop.read_rows(job, loaded, spec).examples, [], home / "work", "x", Stop()
    )
    run.finish()
    after = dict(loaded.model.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return changed, set(before) - changed


def test_lora_moves_its_adapters_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    changed, left = moved(folder, QUICK, tmp_path)
    assert all(".lora_" in name for name in changed)
    assert not any(".lora_" in name for name in left)
    # 2 layers of 6 matrices, each with A and B
    assert len(changed) == 24


def test_full_tuning_moves_every_weight(folder: Path, tmp_path: Path) -> None:
    assert moved(folder, FULL, tmp_path)[1] == set()


def test_frozen_embeddings_stay(folder: Path, tmp_path: Path) -> None:
    spec = replace(FULL, method=Full(freeze_embeddings=True))
    assert moved(folder, spec, tmp_path)[1] == {"model.embed_tokens.weight"}


def test_every_linear_layer_of_the_blocks_has_an_adapter(folder: Path, tmp_path: Path) -> None:
    for base in ("glm", "llama"):
        loaded = model.load(order(folder, tmp_path, QUICK, base))
        linear = {
            name.rpartition(".")[2]
            for name, layer in loaded.model.named_modules()
            if isinstance(layer, torch.nn.Linear) and ".layers." in name
        }
        assert linear == set(loaded.family.LORA_TARGETS)


def test_the_gradient_does_not_depend_on_the_micro_batch(folder: Path, tmp_path: Path) -> None:
    weights = []
    for micro in (0, 1, 4):
        job = order(folder, tmp_path / str(micro), replace(QUICK, micro_batch=micro, epochs=0.5))
        trained(job)
        weights.append(load_file(Path(job.out) / "adapter_model.safetensors"))
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            assert torch.allclose(tensor, other[name], atol=2e-5), name


def test_the_loss_is_the_mean_over_answer_tokens(folder: Path, tmp_path: Path) -> None:
    job = order(folder, tmp_path)
    loaded = model.load(job)
    rows = loop.read_rows(job, loaded, QUICK).examples[:5]
    with torch.no_grad():
        ours = float(objective.summed_loss(loaded, collate(rows))) / objective.scored(rows)
    single = [
        (
            loaded.model(input_ids=batch.input_ids, labels=batch.labels).loss,
            objective.scored([row]),
        )
        for row in rows
        for batch in [collate([row])]
    ]
    expected = sum(loss.item() * n for loss, n in single) / sum(n for _, n in single)
    assert ours == pytest.approx(expected, rel=1e-5)


def test_the_rate_rises_and_then_decays() -> None:
    def rates(**knobs: Any) -> list[float]:
        spec = TrainSpec(learning_rate=1.0, **knobs)
        return [learning_rate(step, 100, spec) for step in range(100)]

    cosine = rates(warmup=0.1, decay="cosine")
    assert cosine[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert cosine[10] == 1.0
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert 0 < cosine[-1] < 0.01
    assert rates(warmup=0.0, decay="linear")[50] == pytest.approx(0.5)
    assert set(rates(warmup=0.0, decay="constant")) == {1.0}


def test_a_tuned_model_answers_as_it_did_in_training(folder: Path, tmp_path: Path) -> None:
    spec = DecodeSpec(max_new_tokens=16)
    asked = [tiny_models.record(i)["messages"][:1] for i in range(6)]
    for method in (Lora(), Full()):
        job = order(folder, tmp_path / method.kind, replace(QUICK, method=method, epochs=4))
        loaded = model.load(job)
        parameters = tuned.prepare_training(loaded, job.train or QUICK)
        rows = loop.read_rows(job, loaded, QUICK)
        run = loop.Run(loaded, job.train or QUICK, rows.examples, [], Path(job.work), "x", Stop())
        run.finish()
        tuned.save(loaded, job, parameters, run.history, {})
        said = generate.answer(loaded, asked, spec, 128)
        again = answering(job)
        assert generate.answer(again, asked, spec, 128) == said
        assert said != generate.answer(model.load(replace(job, action="predict")), asked, spec, 128)
        ids = collate(rows.examples[:4]).input_ids
        with torch.no_grad():
            difference = loaded.model(input_ids=ids).logits - again.model(input_ids=ids).logits
        assert difference.abs().max() < 1e-5


def test_bfloat16_trains_and_answers_with_adapters_beside_the_weights(
    folder: Path, tmp_path: Path
) -> None:
    for method in (Lora(), Full()):
        spec = replace(QUICK, precision="bfloat16", method=method, epochs=2)
        job = order(folder, tmp_path / method.kind, spec)
        trained(job)
        assert metrics(job)[-1]["loss"] < metrics(job)[0]["loss"]
        loaded = answering(job)
        assert loaded.model.get_input_embeddings().weight.dtype == torch.bfloat16
        assert (loaded.adapted is not None) == (method.kind == "lora")
        (said,) = generate.answer(
            loaded, [tiny_models.record(1)["messages"][:1]], DecodeSpec(max_new_tokens=8), 128
        )
        assert said.text


def test_equal_jobs_give_equal_bytes_and_name_no_place(folder: Path, tmp_path: Path) -> None:
    for method in (Lora(dropout=0.1), Full()):
        spec = replace(QUICK, method=method, epochs=1)
        homes = [tmp_path / method.kind / name for name in ("one", "two")]
        first, second = (trained(order(folder, home, spec)) for home in homes)
        assert first == second
        for path in (homes[0] / "out").iterdir():
            raw = path.read_bytes()
            assert str(tmp_path).encode() not in raw
            assert str(folder).encode() not in raw


def test_the_record_of_a_tuned_model_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    job = order(folder, tmp_path)
    trained(job)
    record = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    assert (record["kind"], record["family"], record["base_digest"]) == ("lora", "tiny", DIGEST)
    assert record["train"]["max_prompt_tokens"] == QUICK.max_prompt_tokens
    assert record["template"] == ""
    assert record["data"]["rows"] == 64
    assert record["data"]["steps"] == 16
    assert 0 < record["parameters"]["trainable"] < record["parameters"]["total"]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == DIGEST
    assert answering(job).spec == QUICK


RESUMED = replace(QUICK, method=Lora(dropout=0.2), micro_batch=4, checkpoint_steps=6)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return trained(order(folder, tmp_path_factory.mktemp("whole"), RESUMED))


# two passes a step; after steps 6, 12 and 16 the held-out loss takes one more
@pytest.mark.parametrize(
    ("looks", "step"),
    [
        (1, 0),
        (14, 6),
        (34, 16),
        *(pytest.param(*where, marks=pytest.mark.slow) for where in ((0, 0), (12, 6), (29, 13))),
    ],
)
def test_a_stopped_run_ends_with_the_bits_of_one_that_was_not(
    folder: Path, tmp_path: Path, uninterrupted: dict[str, str], looks: int, step: int
) -> None:
    job = order(folder, tmp_path, RESUMED)
    with pytest.raises(Interrupted, match=f"interrupted after step {step};"):
        trained(job, tiny_models.StopAfter(looks))
    assert not Path(job.out).exists()
    assert trained(job) == uninterrupted


def test_a_run_stopped_again_and_again_still_ends_with_the_same_bits(
    folder: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    job = order(folder, tmp_path, RESUMED)
    for _ in range(4):
        with pytest.raises(Interrupted):
            trained(job, tiny_models.StopAfter(7))
    assert trained(job) == uninterrupted


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    folder: Path,
    tmp_path: Path,
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = order(folder, tmp_path, RESUMED)
    with pytest.raises(Interrupted):
        trained(job, tiny_models.StopAfter(28))
    weights = Path(job.work) / "step-000013" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert trained(job) == uninterrupted
    assert "continues after step 12 of 16" in capsys.readouterr().out


def test_a_run_that_was_killed_while_saving_its_result_saves_it_again(
    folder: Path, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    job = order(folder, tmp_path, RESUMED)
    trained(job)
    (tmp_path / "out" / "model.json").unlink()
    assert trained(job, tiny_models.StopAfter(0)) == uninterrupted


def test_the_checkpoints_of_another_job_are_not_taken_up(folder: Path, tmp_path: Path) -> None:
    trained(order(folder, tmp_path))
    with pytest.raises(ConfigError, match="a checkpoint of another job"):
        trained(order(folder, tmp_path, replace(QUICK, seed=18)))


def lines_until(process: subprocess.Popen[str], step: int) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        event = events.parse(line)
        if isinstance(event, events.Metric) and event.step >= step:
            return


@pytest.mark.slow
def test_a_killed_and_an_orphaned_process_are_continued_from_a_copy_of_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    spec = replace(RESUMED, epochs=12, micro_batch=0)
    expected = trained(order(folder, tmp_path / "whole", spec))
    job = order(folder, tmp_path / "cut", spec)
    job.write(tmp_path / "job.json")
    shutil.copytree(PROJECT / "tasks/trainer", tmp_path / "trainer")

    def start(module: str, cwd: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                module,
                "train",
                "--job",
                tmp_path / "job.json",
                "--watch-stdin",
            ],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    with start("tasks.trainer", PROJECT) as killed:
        list(lines_until(killed, 12))
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    with start("trainer", tmp_path) as orphaned:
        said = list(lines_until(orphaned, 40))
        assert any(line.startswith("continues after step") for line in said)
        rest, _ = orphaned.communicate()  # ends its standard input
    assert orphaned.returncode == 75
    said += rest.splitlines()
    assert isinstance(events.parse(said[-1]), events.Failure)
    assert all(line.isprintable() for line in map(str.rstrip, said))
    assert trained(job) == expected


def test_a_signal_is_noted() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in before:
            stop = Stop()
            stop.listen()
            assert not stop.asked
            os.kill(os.getpid(), number)
            assert stop.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without(folder: Path, home: Path, *names: str) -> Path:
    """Copy the GLM without some of its files."""
    return Path(
        shutil.copytree(folder / "glm", home / "base", ignore=shutil.ignore_patterns(*names))
    )


def test_a_directory_without_a_model_is_refused(folder: Path, tmp_path: Path) -> None:
    job = order(folder, tmp_path)
    for missing, what in (
        ("config.json", "no model here"),
        ("tokenizer.json", "no tokenizer.json"),
        ("*.safetensors", r"no weights that are read \(found none\)"),
    ):
        base = without(folder, tmp_path / missing, missing)
        with pytest.raises(ConfigError, match=what):
            model.load(replace(job, base=str(base)))


def test_pickled_weights_are_never_run(folder: Path, tmp_path: Path) -> None:
    base = without(folder, tmp_path, "*.safetensors")
    (base / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(
        ConfigError, match=r"pytorch_model\.bin: not a file of tensors that can be read"
    ):
        model.load(replace(order(folder, tmp_path), base=str(base)))


def test_a_missing_or_damaged_weight_is_an_error(folder: Path, tmp_path: Path) -> None:
    base = without(folder, tmp_path)
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    job = replace(order(folder, tmp_path), base=str(base))
    with pytest.raises(ConfigError, match=r"1 weights are missing \(first: model\.layers\.1\.mlp"):
        model.load(job)
    (base / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="the weights cannot be read"):
        model.load(job)


def test_a_base_that_its_family_does_not_cover_is_refused(folder: Path, tmp_path: Path) -> None:
    job = replace(order(folder, tmp_path), family="llama")
    with pytest.raises(ConfigError, match=r"found GlmForCausalLM; it covers LlamaForCausalLM"):
        model.load(job)


def test_a_tokenizer_larger_than_the_model_is_refused(folder: Path, tmp_path: Path) -> None:
    base = without(folder, tmp_path, "tokenizer*")
    large = tiny_models.tokenizer([*tiny_models.GLM_TOKENS, "<|extra|>"], "<|endoftext|>", 421)
    large.save_pretrained(base)
    with pytest.raises(ConfigError, match=r"do not belong together \(421 tokens, 420 embeddings\)"):
        model.load(replace(order(folder, tmp_path), base=str(base)))


def test_adapters_are_refused_on_another_base(folder: Path, tmp_path: Path) -> None:
    job = order(folder, tmp_path)
    trained(job)
    asked = replace(job, action="predict", tuned=job.out)
    with pytest.raises(ConfigError, match="tuned on another base model"):
        model.load(replace(asked, base_digest="cd" * 32))
    with pytest.raises(ConfigError, match="tuned as 'tiny'"):
        model.load(replace(asked, family="llama"))
    (tmp_path / "out" / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no adapter_model\.safetensors"):
        model.load(asked)
    (tmp_path / "out" / "model.json").unlink()
    with pytest.raises(ConfigError, match="not the record of a tuned model"):
        model.load(asked)


def test_a_diverging_run_stops_before_the_weights_are_lost(folder: Path, tmp_path: Path) -> None:
    job = order(folder, tmp_path, replace(QUICK, learning_rate=1e30, clip=0.0, warmup=0.0))
    with pytest.raises(ConfigError, match=r"step \d+: training diverges .* Lower learning_rate"):
        trained(job)
    assert not (tmp_path / "out").exists()


def test_no_rows_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").touch()
    job = replace(order(folder, tmp_path), data=str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="no rows to train on"):
        trained(job)


@pytest.mark.parametrize(
    ("changed", "code", "what"),
    [
        ({"action": "predict"}, 64, "the job says 'predict'"),
        ({"tuned": "."}, 64, "only a base model is trained"),
        ({"base": ""}, 64, "base: is empty"),
        ({"base": "nowhere"}, 64, "base: no such directory"),
        ({"family": "gpt9"}, 64, "there is no 'gpt9'"),
        ({"train": {"epochs": -1}}, 64, "not a job"),
        ({"colour": "red"}, 64, "not a job"),
        ({"work": "torn/train.jsonl"}, 64, "torn/train.jsonl: File exists. Free space, or choose"),
        ({"data": "empty"}, 64, "no train.jsonl here"),
        ({"data": "torn"}, 65, "train.jsonl:2: not a JSON object"),
        ({"data": "mute"}, 65, "train.jsonl:1: nothing is left of the answer"),
        ({"data": "framed"}, 64, "dataset.json: template must be"),
        ({"data_digest": "ab" * 32}, 65, "nothing vouches for its digest"),
    ],
)
def test_the_exit_code_and_the_last_line_say_what_is_wrong(
    folder: Path,
    tmp_path: Path,
    changed: dict[str, Any],
    code: int,
    what: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "empty").mkdir()
    torn = tiny_models.dataset(tmp_path / "torn", train=1) / "train.jsonl"
    torn.write_bytes(torn.read_bytes() + b"{")
    mute = tiny_models.dataset(tmp_path / "mute", train=1) / "train.jsonl"
    mute.write_text(mute.read_text("utf-8").replace("这件", "\\n" * 300), "utf-8")
    framed = tiny_models.dataset(tmp_path / "framed", train=1) / "dataset.json"
    framed.write_text('{"template": "no place"}', "utf-8")
    path = tmp_path / "job.json"
    order(folder, tmp_path).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed), encoding="utf-8")
    assert main(["train", "--job", str(path)]) == code
    last = capsys.readouterr().out.splitlines()[-1]
    failure = events.parse(last)
    assert isinstance(failure, events.Failure)
    assert what in failure.message
