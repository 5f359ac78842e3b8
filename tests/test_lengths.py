"""The lengths of a dataset in tokens: exact, of the rows as training encodes them, and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from tasks.backends import local
from tasks.config import LocalConfig
from tasks.errors import DataError as FlowDataError
from tasks.trainer import encode, events, families, lengths, tokenizer
from tasks.trainer.errors import ConfigError, DataError, Interrupted
from tasks.trainer.job import Job, TrainSpec
from tasks.trainer.stopping import Stop

PROJECT = Path(__file__).parents[1]
SPEC = TrainSpec(max_prompt_tokens=24, max_answer_tokens=12)


def turns(*texts: str) -> dict[str, Any]:
    """Return a row in which user and assistant alternate."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": messages}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.glm(tmp_path_factory.mktemp("lengths"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of one and of several turns, short and long."""
    folder = tiny_models.dataset(tmp_path / "data", train=300, dev=40)
    rows = [tiny_models.record(i) for i in range(300)]
    rows += [turns("类型", "上衣", f"颜色#{i}" * 9, "红色" * i) for i in range(1, 30)]
    tiny_models.write_rows(folder / "train.jsonl", rows)
    return folder


def order(data: Path, base: Path, home: Path, spec: TrainSpec = SPEC) -> Job:
    return Job(
        action="lengths",
        family="tiny",
        base=str(base),
        data=str(data),
        out=str(home / "out"),
        work=str(home / "work"),
        train=spec,
        threads=1,
    )


def measured(job: Job, stop: Stop | None = None) -> dict[str, Any]:
    lengths.measure(job, stop or Stop())
    found: dict[str, Any] = json.loads((Path(job.out) / "lengths.json").read_bytes())
    return found


def nearest_rank(values: list[int], percent: int) -> int:
    """Return the smallest value that so many percent of the values do not exceed."""
    return min(v for v in values if sum(w <= v for w in values) * 100 >= percent * len(values))


@given(values=st.lists(st.integers(0, 400), min_size=1, max_size=120))
def test_the_statistics_are_exact(values: list[int]) -> None:
    found = lengths.statistics(Counter(values))
    for percent in (50, 95, 99):
        assert found[f"p{percent}"] == nearest_rank(values, percent)
    assert found["max"] == max(values)
    assert found["mean"] == pytest.approx(sum(values) / len(values), abs=1e-3)


@given(values=st.lists(st.integers(0, 2000) | st.integers(0, 10**7), max_size=200))
def test_the_histogram_counts_every_length_once_in_the_bin_of_its_edges(values: list[int]) -> None:
    histogram = lengths.statistics(Counter(values))["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert len(edges) == len(counts) + 1 <= 31
    assert edges == sorted(set(edges))
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == sum(low <= value < high for value in values)
    assert sum(counts) == len(values)


def test_every_answer_is_measured_as_training_encodes_it(
    data: Path, base: Path, tmp_path: Path
) -> None:
    found = measured(order(data, base, tmp_path))
    assert found["limits"] == {"max_prompt_tokens": 24, "max_answer_tokens": 12}
    family, fast = families.load("tiny"), tokenizer.load(base)
    for name in ("train", "dev"):
        split, prompts, answers = found["splits"][name], [], []
        path = data / f"{name}.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines():
            messages = json.loads(line)["messages"]
            for i in range(1, len(messages), 2):
                prompts.append(len(family.prompt(fast, messages[:i])))
                answers.append(len(family.answer(fast, messages[i]["content"])))
        assert split["examples"] == len(prompts)
        for kind, values in (("prompt_tokens", prompts), ("answer_tokens", answers)):
            assert split[kind] == lengths.statistics(Counter(values))
        trained = encode.split(path, family, fast, SPEC)
        cut = (split["rows"], split["prompts_cut"], split["answers_cut"], split["emptied"])
        assert cut == (trained.rows, trained.prompts_cut, trained.answers_cut, 0)
    train = found["splits"]["train"]
    assert (train["rows"], train["examples"]) == (329, 358)
    assert 0 < train["prompts_cut"] < 358
    assert 0 < train["answers_cut"] < 358


def test_equal_rows_give_equal_bytes(data: Path, base: Path, tmp_path: Path) -> None:
    written = []
    for threads in (1, 2):
        job = replace(order(data, base, tmp_path / str(threads)), threads=threads)
        lengths.measure(job, Stop())
        written.append((Path(job.out) / "lengths.json").read_bytes())
    assert written[0] == written[1]
    assert [path.name for path in (tmp_path / "1/out").iterdir()] == ["lengths.json"]
    assert str(tmp_path).encode() not in written[0]


@pytest.mark.parametrize(("kept", "missing"), [("train", "dev"), ("dev", "train")])
def test_only_the_splits_that_are_there_are_measured(
    kept: str, missing: str, data: Path, base: Path, tmp_path: Path
) -> None:
    (data / f"{missing}.jsonl").unlink()
    assert list(measured(order(data, base, tmp_path))["splits"]) == [kept]


def test_nothing_to_measure_is_an_error(base: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError, match=r"no rows to measure .* Give it a train\.jsonl"):
        measured(order(tmp_path / "data", base, tmp_path))


def test_an_answer_of_which_nothing_is_left_is_an_error_that_names_the_first(
    data: Path, base: Path, tmp_path: Path
) -> None:
    rows = [tiny_models.record(i) for i in range(500)]
    for number in (16, 300):
        rows[number] = turns("类型", " \n" * 40 + "上衣")
    tiny_models.write_rows(data / "train.jsonl", rows)
    job = order(data, base, tmp_path)
    with pytest.raises(
        DataError, match=r"train\.jsonl:17: nothing is left of the answer .*found 2 such"
    ):
        lengths.measure(job, Stop())
    written = json.loads((tmp_path / "out/lengths.json").read_bytes())
    assert written["splits"]["train"]["emptied"] == 2
    assert measured(order(data, base, tmp_path, replace(SPEC, max_answer_tokens=99)))


def test_an_emptied_answer_of_the_held_out_rows_is_an_error_too(
    data: Path, base: Path, tmp_path: Path
) -> None:
    tiny_models.write_rows(data / "dev.jsonl", [turns("类型", "\n" * 99 + "上衣")])
    with pytest.raises(DataError, match=r"dev\.jsonl:1: nothing is left of the answer"):
        lengths.measure(order(data, base, tmp_path), Stop())


def test_a_malformed_row_is_named(data: Path, base: Path, tmp_path: Path) -> None:
    with (data / "dev.jsonl").open("ab") as rows:
        rows.write(b"{\n")
    with pytest.raises(DataError, match=r"dev\.jsonl:41: not a JSON object"):
        lengths.measure(order(data, base, tmp_path), Stop())
    assert not (tmp_path / "out").exists()


def test_a_limit_that_holds_no_prompt_is_said_here_already(
    data: Path, base: Path, tmp_path: Path
) -> None:
    (data / "dataset.json").write_text(
        json.dumps({"template": "### Question:\n{prompt}\n\n### Answer:\n"}), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="max_prompt_tokens: what surrounds an empty prompt"):
        lengths.measure(order(data, base, tmp_path), Stop())


def test_measuring_can_be_interrupted(data: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="interrupted after 100 rows"):
        lengths.measure(order(data, base, tmp_path), tiny_models.StopAfter(100))


def test_lengths_are_measured_without_torch(data: Path, base: Path, tmp_path: Path) -> None:
    order(data, base, tmp_path).write(tmp_path / "job.json")
    program = (
        "import sys\n"
        "from tasks.trainer.__main__ import main\n"
        "code = main(['lengths', '--job', sys.argv[1]])\n"
        "print(code, sorted({'torch', 'peft', 'safetensors'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "job.json")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    *said, last = done.stdout.splitlines()
    assert last == "0 []"
    shown = [events.parse(line) for line in said]
    assert events.Progress(369, 369, "row") in shown


def test_a_flow_runs_it_and_gets_its_errors(data: Path, base: Path, tmp_path: Path) -> None:
    job, on = order(data, base, tmp_path), LocalConfig(threads=1, timeout_minutes=2)
    listen: Callable[[str], None] = [].append
    local.run(job, on, listen)
    assert (tmp_path / "out/lengths.json").is_file()
    tiny_models.write_rows(data / "train.jsonl", [turns("类型", "\n" * 99 + "上衣")])
    with pytest.raises(FlowDataError, match=r"train\.jsonl:1: nothing is left of the answer"):
        local.run(job, on, listen)
