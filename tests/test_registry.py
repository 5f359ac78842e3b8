"""The line of models of a name: one champion, chosen by verdicts, never by chance."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks import registry, store
from tasks.artifacts import Model

pytestmark = pytest.mark.usefixtures("home")


def model(text: str) -> Model:
    with store.scratch(store.local()) as folder:
        (folder / "weights").write_text(text)
        uri, digest = store.commit(folder, store.local(), "models", {})
    return Model(uri=uri, digest=digest, family="tiny", kind="base")


def add(which: Model, outcome: str, score: float = 1.0) -> registry.Registration:
    return registry.add("line", which, outcome, {"bleu_4": score}, "data")  # type: ignore[arg-type]


def test_a_model_that_passes_becomes_champion_and_one_that_fails_does_not() -> None:
    good, bad = model("good"), model("bad")
    assert registry.incumbent("line", good) is None
    assert add(good, "pass").champion
    assert registry.incumbent("line", bad) == good
    assert not add(bad, "fail").champion
    assert registry.incumbent("line", model("third")) == good


def test_registering_the_same_again_changes_nothing() -> None:
    first = add(model("good"), "pass")
    assert add(model("good"), "pass") == first
    assert len(registry.line("line").entries) == 1


def test_a_champion_is_judged_again_against_the_one_it_beat() -> None:
    old, new = model("old"), model("new")
    add(old, "pass")
    add(new, "pass")
    assert registry.incumbent("line", new) == old
    assert registry.incumbent("line", old) is None


def test_a_model_that_passes_at_the_second_look_becomes_champion() -> None:
    assert not add(model("good"), "inconclusive").champion
    again = add(model("good"), "pass", 2.0)
    assert (again.champion, again.version) == (True, 1)
    (entry,) = registry.line("line").entries
    assert (entry.outcome, entry.scores) == ("pass", {"bleu_4": 2.0})


def test_an_old_model_does_not_take_the_place_of_one_that_came_since() -> None:
    add(model("late"), "inconclusive")
    newer = add(model("newer"), "pass")
    assert not add(model("late"), "pass").champion
    assert registry.line("line").champion == newer.version


def test_a_champion_whose_bytes_are_gone_is_no_rival(caplog: pytest.LogCaptureFixture) -> None:
    gone = model("gone")
    add(gone, "pass")
    shutil.rmtree(Path(gone.uri))
    assert registry.incumbent("line", model("new")) is None
    assert "cannot be compared" in caplog.text
