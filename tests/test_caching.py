"""Keys see content and nothing else; locks end with their holder."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tasks import caching, store
from tasks.artifacts import Dataset, Model
from tasks.caching import Locks, components, key_of
from tasks.config import BaseConfig, FinetuneConfig, LocalConfig, SourceConfig
from tasks.data import convert, fetch, stage
from tasks.describing import describe
from tasks.evaluation import score
from tasks.training import train

PROJECT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("home")


def key(**inputs: object) -> str:
    return key_of(components("step", (), inputs))


def test_two_steps_with_equal_inputs_have_two_keys() -> None:
    assert key_of(components("a", (), {"x": 1})) != key_of(components("b", (), {"x": 1}))


def test_every_leaf_counts() -> None:
    default = FinetuneConfig().train
    keys = {key(spec=default)}
    for name, value in (("seed", 18), ("epochs", 2.5), ("precision", "float32")):
        keys.add(key(spec=FinetuneConfig.model_validate({"train": {name: value}}).train))
    keys.add(key(spec=FinetuneConfig.model_validate({"train": {"method": {"rank": 3}}}).train))
    assert len(keys) == 5


def test_lists_of_other_lengths_or_orders_differ() -> None:
    assert len({key(x=[]), key(x=[1]), key(x=[1, 2]), key(x=[2, 1])}) == 4


def test_what_has_no_value_is_refused() -> None:
    with pytest.raises(TypeError, match="x: a object cannot be part of a cache key"):
        key(x=object())


def test_a_moved_or_touched_source_has_the_same_key_and_an_edited_one_has_not(
    tmp_path: Path,
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "train.json").write_text("{}\n")
    first = fetch.key(SourceConfig(uri=str(here)))
    os.utime(here / "train.json", (1, 1))
    assert fetch.key(SourceConfig(uri=str(here))) == first
    (there / "train.json").write_text("{}\n")
    assert fetch.key(SourceConfig(uri=str(there))) == first
    (there / "train.json").write_text("{} \n")
    assert fetch.key(SourceConfig(uri=str(there))) != first


def test_a_moved_base_model_has_the_same_key(tmp_path: Path) -> None:
    keys = set()
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text("weights")
        keys.add(key(config=BaseConfig(uri=str(folder))))
    assert len(keys) == 1


def test_where_a_step_runs_is_in_no_key() -> None:
    policy = train.cache_policy
    assert isinstance(policy, caching.ContentPolicy)
    base = Model.model_construct(digest="d", family="tiny", kind="base")
    here = policy.parts({"base": base, "on": LocalConfig()})
    there = policy.parts({"base": base, "on": LocalConfig(threads=1, timeout_minutes=5)})
    assert here == there


def test_what_a_step_reads_of_an_artifact_counts_beside_its_bytes() -> None:
    tiny = Model.model_construct(digest="d", family="tiny", kind="base")
    for other in ({"family": "llama"}, {"kind": "full"}, {"digest": "e"}):
        assert key(model=tiny) != key(model=tiny.model_copy(update=other))
    data = Dataset.model_construct(digest="d", content="c", format="messages", records={})
    assert key(data=data) != key(data=data.model_copy(update={"content": "x"}))


def test_how_rows_came_about_counts_only_where_it_is_told() -> None:
    told = Dataset.model_construct(digest="d", content="c", format="messages", records={})
    other = told.model_copy(update={"digest": "e"})
    for step, counts in ((train, False), (describe, True), (stage, True)):
        policy = step.cache_policy
        assert isinstance(policy, caching.ContentPolicy)
        base = Model.model_construct(digest="b", family="tiny", kind="base")
        keys = {key_of(policy.parts({"data": each, "base": base})) for each in (told, other)}
        assert (len(keys) == 2) == counts


def test_only_the_family_in_use_and_the_named_packages_count() -> None:
    policy = train.cache_policy
    assert isinstance(policy, caching.ContentPolicy)
    base = Model.model_construct(digest="d", family="tiny", kind="base")
    names = policy.parts({"base": base})
    assert "source tasks/trainer/families/tiny.py" in names
    assert "source tasks/trainer/families/llama.py" not in names
    scoring = score.cache_policy
    assert isinstance(scoring, caching.ContentPolicy)
    assert scoring.parts({})["package jieba"] == version("jieba")


def test_the_declared_sources_exist_and_count() -> None:
    policy = convert.cache_policy
    assert isinstance(policy, caching.ContentPolicy)
    names = policy.parts({})
    assert "source tasks/formats/advertisegen.py" in names
    assert "source tasks/rows/json_text.py" in names


class TestWhy:
    """A miss names the component that differs."""

    def remember(self, **inputs: object) -> None:
        parts = components("step", (), inputs)
        caching.remember(key_of(parts), parts)

    def why(self, **inputs: object) -> str:
        return caching.why(components("step", (), inputs))

    def test_nothing_ran_before(self) -> None:
        assert self.why(x=1) == "has not run here before"

    def test_the_nearest_earlier_call_is_compared(self) -> None:
        self.remember(x=1, y=1, z=1)
        self.remember(x=2, y=1, z=2)
        assert self.why(x=1, y=2, z=1) == "y: 1 → 2"

    def test_the_same_call_without_a_result(self) -> None:
        self.remember(x=1)
        assert "its result was not finished or is damaged" in self.why(x=1)

    def test_a_component_that_came_or_went(self) -> None:
        self.remember(x=1)
        assert self.why(x=1, y=2) == "y: absent → 2"


class TestLocks:
    """The lock manager that Prefect is given."""

    def test_one_holder_at_a_time(self) -> None:
        mine, other = Locks(), Locks()
        assert mine.acquire_lock("k", "me")
        assert mine.is_lock_holder("k", "me")
        assert other.is_locked("k")
        assert not other.acquire_lock("k", "you", acquire_timeout=0)
        mine.release_lock("k", "me")
        assert other.acquire_lock("k", "you", acquire_timeout=0)
        other.release_lock("k", "you")

    def test_the_same_holder_may_take_it_twice(self) -> None:
        locks = Locks()
        assert locks.acquire_lock("k", "me")
        assert locks.acquire_lock("k", "me", acquire_timeout=0)
        locks.release_lock("k", "me")
        assert not locks.is_locked("k")

    def test_only_the_holder_gives_it_back(self) -> None:
        locks = Locks()
        locks.acquire_lock("k", "me")
        with pytest.raises(ValueError, match="you does not hold"):
            locks.release_lock("k", "you")
        locks.release_lock("k", "me")

    def test_a_copy_holds_nothing(self) -> None:
        locks = Locks()
        locks.acquire_lock("k", "me")
        twin = copy.deepcopy(locks)
        assert twin == locks
        assert not twin.is_lock_holder("k", "me")
        locks.release_lock("k", "me")

    def test_waiting_has_an_end(self) -> None:
        mine, other = Locks(), Locks()
        mine.acquire_lock("k", "me")
        started = time.monotonic()
        assert not other.wait_for_lock("k", timeout=0.3)
        assert not other.acquire_lock("k", "you", acquire_timeout=0.3)
        assert 0.5 < time.monotonic() - started < 5
        mine.release_lock("k", "me")
        assert other.wait_for_lock("k", timeout=0.3)

    def test_a_killed_holder_frees_it(self) -> None:
        program = (
            "import sys\n"
            "from tasks.caching import Locks\n"
            "Locks().acquire_lock('k', 'me') and print('held', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            env=os.environ | {"FINETUNE_HOME": str(store.home())},
        ) as holder:
            assert holder.stdout
            assert holder.stdout.readline() == b"held\n"
            assert Locks().is_locked("k")
            holder.kill()
            holder.wait()
        locks = Locks()
        assert locks.acquire_lock("k", "you", acquire_timeout=5)
        locks.release_lock("k", "you")
