"""The real flow, through the command line, with a small random model: what is done, and what is not done again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from running import Project, Said, json_lines

CACHEABLE = {
    "fetch",
    "convert",
    "stage",
    "fetch_model",
    "train-lora",
    "predict-tuned",
    "describe",
    "predict-base",
    "imitate-random",
    "imitate-retrieval",
    "imitate-template",
    "score-tuned",
    "score-base",
    "score-random",
    "score-retrieval",
    "score-template",
    "judge",
}
ALWAYS = {"register", "publish", "deploy"}


@pytest.fixture(scope="module")
def first(server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Said]:
    """A project at an awkward path, after its first run. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("flow") / "mein Projekt 微调"
    project = Project.make(folder, str(PREFECT_API_URL.value()))
    return project, project.run()


@pytest.fixture
def project(first: tuple[Project, Said], tmp_path: Path) -> Project:
    """A copy of the project, its store and its cache, at another path."""
    moved = tmp_path / "moved"
    shutil.copytree(first[0].folder, moved)
    return Project(moved, first[0].api, first[0].knobs)


def cached(said: Said) -> set[str]:
    return {name for name, state in said.states.items() if state in ("Cached", "cached")}


def test_the_first_run_does_every_step_and_says_what_it_made(first: tuple[Project, Said]) -> None:
    _, said = first
    assert set(said.states) == CACHEABLE | ALWAYS
    assert set(said.states.values()) == {"Completed"}
    assert len(said.table) == 5
    report = Path(said.out.rpartition("report   ")[2].splitlines()[0])
    page = report.read_text("utf-8")
    assert "verdict" in page.lower()
    assert "--source.uri rows" in page
    for word in ("verdict:", "prompt", "reference", "base", "tuned", "Next", "model"):
        assert word in said.out


def test_nothing_but_our_lines_is_printed(first: tuple[Project, Said]) -> None:
    said = first[1]
    for noise in ("INFO", "WARNING", "Traceback", "prefect.", "it/s", "http://127"):
        assert noise not in said.out + said.err


def test_the_second_run_is_cached_throughout_and_comes_to_the_same(project: Project) -> None:
    before = project.run()
    again = project.run()
    assert cached(again) == CACHEABLE
    assert again.table == before.table
    assert again.digests == before.digests


def test_a_moved_project_with_touched_files_runs_nothing_again(
    project: Project, first: tuple[Project, Said]
) -> None:
    for path in project.folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1_000_000, 1_000_000))
    (project.folder / "rows").rename(project.folder / "elsewhere")
    plan = project.run("--dry-run", source__uri="elsewhere")
    assert cached(plan) == CACHEABLE
    assert not set(plan.states.values()) - {"cached", "will run", "depends"}
    said = project.run(source__uri="elsewhere")
    assert cached(said) == CACHEABLE
    assert said.table == first[1].table


def test_where_it_runs_is_no_reason_to_train_again(project: Project) -> None:
    assert cached(project.run(compute__threads="2", compute__timeout_minutes="9")) == CACHEABLE


def test_an_edited_row_is_named_in_the_plan(project: Project) -> None:
    rows = project.folder / "rows" / "train.json"
    rows.write_text(rows.read_text("utf-8").replace("红色", "绿色", 1), "utf-8")
    plan = project.run("--dry-run")
    assert plan.states["fetch"] == "will run"
    assert plan.reason("fetch").startswith("config.uri.content: ")
    assert plan.reason("convert") == "on what fetch will produce"
    assert cached(plan) == {"fetch_model"}


def test_an_edited_knob_is_named_in_the_plan(project: Project) -> None:
    plan = project.run("--dry-run", train__learning_rate="0.003")
    assert cached(plan) >= {"fetch", "convert", "stage", "fetch_model", "predict-base"}
    assert plan.reason("train-lora") == "spec.learning_rate: 0.002 → 0.003"
    assert plan.reason("predict-tuned") == "on what train-lora will produce"


def test_a_plan_needs_no_server_and_starts_none(project: Project) -> None:
    online = project.run("--dry-run")
    offline = Project(project.folder, "http://127.0.0.1:9/api", project.knobs).run("--dry-run")
    assert offline.out == online.out
    assert not offline.err


def test_a_plan_changes_nothing(project: Project) -> None:
    def everything() -> dict[Path, int]:
        kept = (project.home / "store", project.home / "results")
        return {
            path: path.stat().st_mtime_ns
            for folder in kept
            for path in folder.rglob("*")
            if path.is_file()
        }

    before = everything()
    project.run("--dry-run", train__learning_rate="0.003")
    assert everything() == before


def test_an_edited_format_with_the_same_output_stops_there(project: Project) -> None:
    module = project.folder / "tasks" / "formats" / "messages.py"
    module.write_text(module.read_text("utf-8") + "\nUNUSED = 1\n", "utf-8")
    plan = project.run("--dry-run")
    assert plan.reason("convert").startswith("source tasks/formats/messages.py: ")
    said = project.run()
    assert said.states["convert"] == "Completed"
    assert cached(said) == CACHEABLE - {"convert"}


@pytest.mark.parametrize("harm", ["deleted", pytest.param("altered", marks=pytest.mark.slow)])
def test_a_harmed_artifact_is_found_before_use_and_made_again(project: Project, harm: str) -> None:
    (data,) = (project.home / "store" / "datasets").glob("*/train.jsonl")
    if harm == "deleted":
        shutil.rmtree(data.parent)
    else:
        data.write_bytes(data.read_bytes()[:-10])
    (scores, *_) = (project.home / "store" / "scores").glob("*/scores.jsonl")
    scores.unlink()
    plan = project.run("--dry-run")
    assert "store" in plan.reason("convert") or "record" in plan.reason("convert")
    said = project.run()
    ran = CACHEABLE - cached(said)
    assert "convert" in ran
    assert any(name.startswith("score-") for name in ran)
    assert not ran & {"train-lora", "predict-tuned", "predict-base"}
    assert cached(project.run()) == CACHEABLE


def test_one_bad_row_is_told_and_trains_nothing_again(project: Project) -> None:
    rows = project.folder / "rows" / "train.json"
    rows.write_text(rows.read_text("utf-8") + '{"messages": []}\n', "utf-8")
    said = project.run(data__max_bad_fraction="0.05")
    assert CACHEABLE - cached(said) == {"fetch", "convert", "describe", "stage"}
    cards = (project.home / "store" / "cards").glob("*/data-card.md")
    assert any("| turns | 1 |" in card.read_text("utf-8") for card in cards)


def test_a_step_can_be_asked_for_again(project: Project) -> None:
    said = project.run("--refresh", "judge", "--refresh", "convert")
    assert CACHEABLE - cached(said) == {"convert", "judge"}


def test_the_tuned_model_and_its_answers_lie_in_the_store(first: tuple[Project, Said]) -> None:
    project, _ = first
    (model,) = (project.home / "store" / "models").glob("*/adapter_model.safetensors")
    text = "".join(path.read_text("utf-8") for path in model.parent.glob("*.json"))
    assert str(project.folder) not in text.replace((model.parent / "record.json").read_text(), "")
    answers = [
        json_lines(path) for path in (project.home / "store" / "predictions").glob("*/*.jsonl")
    ]
    assert {len(rows) for rows in answers} == {59}  # two of the 60 say the same
    assert not list((project.home / "work").iterdir())


class TestRefusals:
    """What cannot work is said before anything is spent: before a server is even looked for."""

    @pytest.mark.parametrize(
        ("knobs", "message"),
        [
            ({"source.uri": "nowhere"}, "source.uri: no such file or folder (found 'nowhere')"),
            ({"source.uri": "flows"}, "source.uri: no file to read in the folder"),
            ({"base.uri": "rows"}, "base.uri: not a model in the transformers layout"),
            ({"base.uri": "nowhere"}, "base.uri: no such file or folder"),
            ({"base.family": "gpt5"}, "base.family: "),
            ({"data.format": "csv"}, "data.format: "),
            ({"train.epochs": "many"}, "train.epochs: "),
            ({"train.micro_batch": "3"}, "train.micro_batch: must divide global_batch (found 3)"),
            ({"train.epoch": "1"}, "--train.epoch: unknown knob"),
            ({"store.uri": "prefect.yaml"}, "store.uri: "),
            ({"store.uri": "gs://bucket/x"}, "store.uri: only folders and buckets"),
            ({"serving.when": "always", "serving.host": "no.such.host"}, "serving."),
        ],
    )
    def test_a_choice_that_cannot_work(
        self, first: tuple[Project, Said], knobs: dict[str, str], message: str
    ) -> None:
        project, _ = first
        offline = Project(project.folder, "http://127.0.0.1:9/api", project.knobs | knobs)
        said = offline.run(expect=2)
        assert f"error: {message}" in said.err
        assert "Traceback" not in said.err
        assert not said.out

    def test_an_empty_file(self, project: Project) -> None:
        (project.folder / "rows" / "train.json").write_text("")
        assert "train.json is empty" in project.run(expect=2).err

    def test_a_port_that_is_taken(self, first: tuple[Project, Said]) -> None:
        project, _ = first
        port = project.api.split(":")[2].split("/")[0]
        said = project.run(expect=2, serving__when="always", serving__port=port)
        assert f"serving.port: {port} is taken on 127.0.0.1" in said.err

    def test_a_malformed_row_ends_the_run_with_its_place(self, project: Project) -> None:
        rows = project.folder / "rows" / "train.json"
        rows.write_text(rows.read_text("utf-8") + '{"messages": []}\n', "utf-8")
        said = project.run(expect=1, data__max_bad_fraction="0")
        assert 'error: train.json:65: field "messages" must be a list of turns' in said.err
        assert said.states["convert"] == "Failed"
        assert "Traceback" not in said.err + said.out
        kept = Path(said.err.strip().rpartition(": ")[2])
        assert [row["line"] for row in json_lines(kept)] == [65]

    def test_an_unknown_deployment(self, first: tuple[Project, Said]) -> None:
        said = first[0].run("nothing-local", expect=2)
        assert "no such deployment in prefect.yaml (found smoke-local" in said.err


def test_a_registered_model_is_scored_again_beside_a_file_of_answers(project: Project) -> None:
    (base,) = (
        path
        for path in (project.home / "store" / "predictions").glob("*/predictions.jsonl")
        if _is_of_base(path)
    )
    knobs = {
        "source.uri": "rows",
        "data.format": "messages",
        "subject.name": "test",
        "subject.version": "1",
        "against.kind": "answers",
        "against.path": str(base),
        "decode.max_new_tokens": "8",
    }
    words = [word for name, value in knobs.items() for word in (f"--{name}", value)]
    said = Said(project.run_module("flows.evaluate", *words), "")
    assert said.states["predict-tuned"] == "Cached"
    assert said.states["take-against"] == "Completed"
    assert said.states["fetch"] == said.states["convert"] == "Cached"
    before = project.run()
    tuned = next(line for line in before.table if line.startswith("tuned"))
    other = next(line for line in before.table if line.startswith("base"))
    assert tuned in said.table
    assert other.split()[1:] in [line.split()[1:] for line in said.table]
    assert "against on ROUGE-2" in said.out
    page = next(line for line in said.out.splitlines() if line.startswith("  report "))
    text = Path(page.split(maxsplit=1)[1]).read_text("utf-8")
    assert "<title>" in text
    assert f"test, version 1 against {base.name}" in text


@pytest.mark.slow
def test_a_run_that_serves_nothing_says_why(project: Project) -> None:
    said = project.run(judge__beats="[]", judge__min_rows="1", judge__slice_margin="-1")
    assert "served   no: serving.when is never" in said.out
    said = project.run(judge__min_rows="10000", serving__when="pass")
    assert "served   no: the verdict is " in said.out


def test_a_knob_that_would_be_ignored_ends_the_run_before_it_begins(project: Project) -> None:
    said = project.run(expect=2, train__method__tokens="16")
    assert "error: --train.method.tokens: belongs to train.method.kind prefix" in said.err
    assert not said.out


def test_one_endpoint_or_all_are_stopped_and_named(project: Project) -> None:
    assert project.run_module("flows.teardown", "nobody") == (
        "nothing is served under the name nobody\n"
    )
    assert project.run_module("flows.teardown") == "nothing is served\n"


def _is_of_base(path: Path) -> bool:
    made = json.loads((path.parent / "record.json").read_text("utf-8"))["made"]
    return made["step"] == "predict" and made["inputs"][0]["kind"] == "base"
