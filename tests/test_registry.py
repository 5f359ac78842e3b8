"""The line of models of a name: one champion, chosen by verdicts, never by chance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows import champions
from tasks import registry, store
from tasks.artifacts import Interval, Model, Scores
from tasks.errors import ConfigError

pytestmark = pytest.mark.usefixtures("home")


def model(text: str) -> Model:
    with store.scratch(store.local()) as folder:
        (folder / "weights").write_text(text)
        uri, digest = store.commit(folder, store.local(), "models", {})
    return Model(uri=uri, digest=digest, family="tiny", kind="base")


def scores(mean: float, dataset: str = "data", rows: int = 60, seed: int = 0) -> Scores:
    draw = np.random.default_rng(seed).normal(mean, 2.0, rows)
    with store.scratch(store.local()) as folder:
        lines = (json.dumps({"bleu_4": value}) + "\n" for value in draw.tolist())
        (folder / "scores.jsonl").write_text("".join(lines))
        uri, digest = store.commit(folder, store.local(), "scores", {})
    return Scores(
        uri=uri,
        digest=digest,
        protocol="chatglm2-v1",
        dataset=dataset,
        rows=rows,
        empty=0,
        metrics={"bleu_4": Interval(mean=mean, low=mean - 1, high=mean + 1)},
        extras={},
    )


def add(
    which: Model, outcome: str, score: float = 1.0, data: str = "data"
) -> registry.Registration:
    lineage = {"dataset": data, "base": "b" * 64}
    return registry.add("line", which, outcome, scores(score, data), lineage)  # type: ignore[arg-type]


def champion() -> int | None:
    return registry.line("line").champion


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


def test_a_person_promotes_a_version_and_the_reason_is_kept() -> None:
    add(model("good"), "pass")
    add(model("bad"), "fail")
    registry.promote("line", 2, "the launch needs it")
    line = registry.line("line")
    assert line.champion == 2
    assert [(one.version, one.why) for one in line.changes] == [
        (1, "passed"),
        (2, "the launch needs it"),
    ]


def test_rolling_back_returns_to_the_champion_before_and_no_verdict_undoes_it() -> None:
    old, new = model("old"), model("new")
    add(old, "pass")
    add(new, "pass")
    registry.roll_back("line", "complaints")
    assert champion() == 1
    # the same run again, from the cache: its verdict still is pass
    assert not add(new, "pass").champion
    assert champion() == 1
    registry.promote("line", 2, "mended")
    assert champion() == 2


def test_there_must_be_something_to_roll_back_to() -> None:
    add(model("only"), "pass")
    with pytest.raises(ConfigError, match="nothing to roll back to"):
        registry.roll_back("line", "why not")
    add(model("new"), "pass")
    registry.roll_back("line", "once")
    with pytest.raises(ConfigError, match="nothing to roll back to"):
        registry.roll_back("line", "twice")
    assert champion() == 1


def test_a_version_without_bytes_or_a_change_without_reason_is_refused() -> None:
    add(model("good"), "pass")
    gone = model("gone")
    add(gone, "fail")
    with pytest.raises(ConfigError, match="needs a reason"):
        registry.promote("line", 2, " ")
    with pytest.raises(ConfigError, match=r"no version 9 \(found 1, 2\)"):
        registry.promote("line", 9, "why")
    shutil.rmtree(Path(gone.uri))
    with pytest.raises(ConfigError, match="not there any more"):
        registry.promote("line", 2, "why")
    assert champion() == 1


def test_two_versions_are_compared_row_by_row(capsys: pytest.CaptureFixture[str]) -> None:
    add(model("good"), "pass", 24.0)
    add(model("bad"), "fail", 21.0)
    (one,) = champions.compare("line", [1, 2])
    # both drew the same rows, three points apart
    assert (one.mean, one.low, one.high) == pytest.approx((3.0, 3.0, 3.0))
    assert champions.main(["line", "compare", "1", "2"]) == 0
    assert "+3.0 (+3.0 to +3.0)" in capsys.readouterr().out


def test_versions_that_answered_other_rows_are_not_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(model("good"), "pass")
    add(model("bad"), "fail", data="other rows")
    assert champions.main(["line", "compare", "1", "2"]) == 2
    assert "answered other rows" in capsys.readouterr().err


def test_the_line_of_models_fits_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    base = "s3://bucket/models/chatglm3-6b-of-a-long-name/"
    for name in ("good", "bad"):
        registry.add("line", model(name), "pass", scores(24.0), {"base from": base})
    assert champions.main(["line"]) == 0
    told = capsys.readouterr().out
    first, second = (line for line in told.splitlines() if line[:2] in ("1 ", "2 "))
    assert "pass" in first
    assert second.split()[-2:] == ["pass", "champion"]
    assert f"base of 1, 2: {base}" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nobody", "nothing is registered as 'nobody' (found line). Choose one of them."),
        ("line promote 1 --why again", "version 1 is the champion already (found since "),
        ("line promote --why x", "promote takes one version (found 0). See --help"),
        ("line list 1", "list takes no version (found 1). See --help"),
        ("line list --why x", "nothing is decided here (found --why 'x'). Add promote"),
        ("line compare 1", "compare needs two versions (found 1). Write NAME compare"),
        ("line compare 1 1", "a version cannot be compared with itself (found 1 twice)"),
        ("line roll-back --why x", "nothing to roll back to (found no other champion before)."),
    ],
)
def test_what_cannot_be_done_to_a_line_is_refused_and_changes_nothing(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(model("good"), "pass", 24.0)
    before = registry.line("line")
    assert champions.main(words.split()) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert not told.out
    assert registry.line("line") == before


def test_the_command_lists_promotes_and_rolls_back(capsys: pytest.CaptureFixture[str]) -> None:
    add(model("good"), "pass", 24.0)
    add(model("bad"), "fail", 21.0)
    assert champions.main([]) == 0
    assert "line" in capsys.readouterr().out
    assert champions.main(["line", "promote", "2", "--why", "trial"]) == 0
    assert champions.main(["line", "roll-back", "--why", "worse"]) == 0
    told = capsys.readouterr().out
    assert "version 2: trial" in told
    assert "version 1: worse" in told
    assert "rolled back" in told
    assert champion() == 1
    assert champions.main(["nobody"]) == 2
    assert "nothing is registered as 'nobody' (found line)" in capsys.readouterr().err
