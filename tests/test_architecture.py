"""The house of the design: who may import whom, and what a first import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import plugins
from tasks.artifacts import Model
from tasks.caching import ContentPolicy
from tasks.data import convert, fetch
from tasks.describing import describe
from tasks.evaluation import imitate, judge, score
from tasks.steps import Step
from tasks.training import fetch_model, predict, train

PROJECT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(PROJECT)
    for folder in ("flows", "tasks", "deployments")
    for path in (PROJECT / folder).rglob("*.py")
)
# Steps, and what every step wears; everything else works without Prefect.
WITH_PREFECT = {
    "tasks/caching.py",
    "tasks/steps.py",
    "tasks/provenance.py",
    "tasks/progress.py",
    "tasks/data.py",
    "tasks/answering.py",
    "tasks/describing.py",
    "tasks/tuned_models.py",
    "tasks/training.py",
    "tasks/evaluation.py",
    "tasks/publishing.py",
    "tasks/serving.py",
}
FORMATS = plugins.names("formats")
SPEAKING_S3 = {"tasks/s3.py"}
LEARNING = {"torch", "transformers", "peft", "safetensors", "tokenizers"}


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of the modules that a file imports, relative ones resolved."""
    package = list(path.with_suffix("").parts)
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse((PROJECT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = [part for part in package if part != "__init__"]
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def names(path: Path) -> set[str]:
    return set(imported(path))


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def below(path: Path, folder: str) -> bool:
    return path.as_posix().startswith(f"{folder}/")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    found = roots(path)
    if below(path, "tasks"):
        assert not found & {"flows", "deployments"}
    if below(path, "flows"):
        assert "deployments" not in found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_prefect_stays_in_the_flows_and_the_steps(path: Path) -> None:
    if below(path, "tasks") and path.as_posix() not in WITH_PREFECT:
        assert "prefect" not in roots(path)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_s3_is_spoken_in_one_place(path: Path) -> None:
    if path.as_posix() not in SPEAKING_S3:
        assert not roots(path) & {"boto3", "botocore", "s3fs", "aiobotocore"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_learning_stays_in_the_trainer(path: Path) -> None:
    if not below(path, "tasks/trainer") and not below(path, "deployments"):
        assert not roots(path) & LEARNING


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_trainer_imports_nothing_of_the_repository_but_itself(path: Path) -> None:
    if below(path, "tasks/trainer"):
        ours = {name for name in names(path) if name.split(".")[0] in ("flows", "tasks")}
        assert all(name.startswith("tasks.trainer") for name in ours)


@pytest.mark.parametrize("kind", ["formats", "backends", "trainer/families"])
def test_plug_ins_never_import_each_other(kind: str) -> None:
    package = f"tasks.{kind.replace('/', '.')}"
    for name in plugins.names(kind):
        others = {f"{package}.{other}" for other in plugins.names(kind) if other != name}
        assert not names(Path("tasks") / kind / f"{name}.py") & others


def test_importing_the_flow_loads_nothing_heavy() -> None:
    program = (
        "import sys, flows.finetune\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'sagemaker', 'jieba'}\n"
        "heavy |= {'boto3', 'botocore', 's3fs', 'pyarrow', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_flow_file_holds_a_task() -> None:
    for path in FILES:
        if below(path, "flows"):
            text = (PROJECT / path).read_text(encoding="utf-8")
            assert "@task" not in text, path
            assert "@step" not in text, path


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    told = ast.get_docstring(ast.parse((PROJECT / path).read_text(encoding="utf-8")))
    assert told, path
    assert told.split("\n\n")[0].rstrip().endswith((".", ":"))


def reached(entry: Path) -> set[Path]:
    """Return the files of the repository that a file imports, directly or not."""
    found, waiting = set(), [entry]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if covered(path, AROUND):
            continue
        for name in imported(path):
            file = Path(*name.split(".")).with_suffix(".py")
            package = Path(*name.split(".")) / "__init__.py"
            waiting += [each for each in (file, package) if (PROJECT / each).exists()]
    return found


# Imported everywhere without deciding any output: how errors, events, progress and directories are handled; and the
# configuration and the artifacts, whose values are in the key.
AROUND = {
    "tasks/__init__.py",
    "tasks/artifacts.py",
    "tasks/config.py",
    "tasks/errors.py",
    "tasks/store",
    "tasks/plugins.py",
    "tasks/reports/progress.py",
    "tasks/trainer/__init__.py",
    "tasks/trainer/errors.py",
    "tasks/trainer/events.py",
    "tasks/trainer/stopping.py",
    "tasks/trainer/verification.py",
}


def covered(path: Path, declared: set[str]) -> bool:
    return any(path.as_posix() == each or below(path, each) for each in declared)


@pytest.mark.parametrize(
    ("step", "entries"),
    [
        (fetch, ["tasks/fetching.py"]),
        (fetch_model, ["tasks/fetching.py", "tasks/models.py"]),
        (convert, ["tasks/conversion.py", *(f"tasks/formats/{name}.py" for name in FORMATS)]),
        (describe, ["tasks/reports/data.py", "tasks/trainer/lengths.py"]),
        (train, ["tasks/trainer/loop.py", "tasks/trainer/families/tiny.py"]),
        (predict, ["tasks/trainer/predict.py", "tasks/trainer/families/tiny.py"]),
        (imitate, ["tasks/baselines.py"]),
        (score, ["tasks/metrics/protocol.py", "tasks/metrics/faithfulness.py"]),
        (judge, ["tasks/metrics/statistics.py"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_declared_sources_of_a_step_hold_all_that_decides_its_output(
    step: Step[..., object], entries: list[str]
) -> None:
    policy = step.cache_policy
    assert isinstance(policy, ContentPolicy)
    family = Model.model_construct(digest="", family="tiny", kind="base")
    declared = {source.format(base=family, model=family) for source in policy.sources}
    assert all((PROJECT / each).exists() for each in declared)
    imported_by_them = {path for entry in entries for path in reached(Path(entry))}
    missing = [path for path in imported_by_them if not covered(path, declared | AROUND)]
    assert not missing
