"""Who is trained on and who is held out: by name, or by prompt."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import DataError
from tasks.splits import HELD_OUT, Hashes, Seen, by_name, held_out, repeated, shared


def hashes(*prompts: object) -> Hashes:
    digests = (hashlib.blake2b(str(p).encode(), digest_size=8).digest() for p in prompts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


@pytest.mark.parametrize(
    ("names", "train", "dev", "left_out"),
    [
        (["ads.json"], ["ads.json"], [], []),
        (["train.json", "dev.json"], ["train.json"], ["dev.json"], []),
        (["a_train.csv", "a_test.csv"], ["a_train.csv"], ["a_test.csv"], []),
        (["latest.json", "contest.json"], ["latest.json", "contest.json"], [], []),
        (["train.json", "val.json", "test.json"], ["train.json"], ["val.json"], ["test.json"]),
        (["训练集.xlsx.csv", "验证集.csv"], ["训练集.xlsx.csv"], ["验证集.csv"], []),
        (
            ["data/train-00000-of-00002.parquet", "data/validation-00000-of-00001.parquet"],
            ["data/train-00000-of-00002.parquet"],
            ["data/validation-00000-of-00001.parquet"],
            [],
        ),
        (["train/a.json", "dev/a.json"], ["train/a.json"], ["dev/a.json"], []),
        (
            [
                "AdvertiseGen.tar.gz:AdvertiseGen/train.json",
                "AdvertiseGen.tar.gz:AdvertiseGen/dev.json",
            ],
            ["AdvertiseGen.tar.gz:AdvertiseGen/train.json"],
            ["AdvertiseGen.tar.gz:AdvertiseGen/dev.json"],
            [],
        ),
        (
            ["test.zip:train.json", "test.zip:x.json"],
            ["test.zip:train.json"],
            ["test.zip:x.json"],
            [],
        ),
        (["dev.json", f"{HELD_OUT}/train.json"], ["dev.json"], [f"{HELD_OUT}/train.json"], []),
        (
            ["train.json", "dev.json", "test.json", f"{HELD_OUT}/a.json"],
            ["train.json"],
            [f"{HELD_OUT}/a.json"],
            ["dev.json", "test.json"],
        ),
        (["训练集.csv", "开发集.csv"], ["训练集.csv"], ["开发集.csv"], []),
        (["訓練集.csv", "驗證集.csv"], ["訓練集.csv"], ["驗證集.csv"], []),
        (["trainData.json", "testData.json"], ["trainData.json"], ["testData.json"], []),
        (["a.json", "holdout.json"], ["a.json"], ["holdout.json"], []),
        (["a.json", "development.json"], ["a.json"], ["development.json"], []),
        (["a.json", "tests/a.json"], ["a.json"], ["tests/a.json"], []),
        (["a.json", "README.txt"], ["a.json"], [], ["README.txt"]),
        (["eval_rows.json"], ["eval_rows.json"], [], []),
        (["train.json", "EvalSet.json"], ["train.json"], ["EvalSet.json"], []),
        (["dataset_infos.json", "a/rows.json"], ["a/rows.json"], [], ["dataset_infos.json"]),
        (["config.json"], ["config.json"], [], []),
    ],
)
def test_a_file_says_by_its_name_what_it_is_for(
    names: list[str], train: list[str], dev: list[str], left_out: list[str]
) -> None:
    plan = by_name(names)
    assert (list(plan.train), list(plan.dev), list(plan.left_out)) == (train, dev, left_out)


def test_a_source_without_training_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"no training file \(found: dev\.json, test\.json\)"):
        by_name(["dev.json", "test.json"])


def test_a_name_that_speaks_of_two_splits_is_not_guessed_at() -> None:
    with pytest.raises(DataError, match=r"train_dev\.json: names two splits"):
        by_name(["train_dev.json", "a.json"])


@given(st.lists(st.integers(0, 500), min_size=40), st.randoms())
def test_added_and_shuffled_rows_move_nobody(prompts: list[int], random: object) -> None:
    before = dict(zip(prompts, held_out(hashes(*prompts), 0, 0.5), strict=True))
    added = [*prompts, *range(1000, 1100)]
    random.shuffle(added)  # type: ignore[attr-defined]
    after = dict(zip(added, held_out(hashes(*added), 0, 0.5), strict=True))
    assert any(before.values())
    assert {prompt: after[prompt] for prompt in prompts} == before


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(0, 90))
def test_no_prompt_lies_in_both_splits(prompts: list[int], rows: int) -> None:
    held = held_out(hashes(*prompts), rows, 0.3)
    kept = {prompt for prompt, out in zip(prompts, held, strict=True) if not out}
    assert not kept & {prompt for prompt, out in zip(prompts, held, strict=True) if out}
    assert held.sum() >= 1


def test_a_count_is_met_with_whole_prompts() -> None:
    assert held_out(hashes(*range(200)), 20, 0.1).sum() == 20
    doubled = held_out(hashes(*[n // 2 for n in range(200)]), 19, 0.1)
    assert doubled.sum() == 20
    assert held_out(hashes("a", "b"), 9, 0.1).all()


def test_a_fraction_is_met_on_the_average() -> None:
    assert held_out(hashes(*range(20_000)), 0, 0.1).sum() == pytest.approx(2000, abs=150)


def test_of_nothing_nothing_is_held_out() -> None:
    assert len(held_out(hashes(), 5, 0.1)) == 0


@given(st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=12))
def test_seen_says_what_a_set_would_say(batches: list[list[int]]) -> None:
    seen, known = Seen(), set[int]()
    for batch in batches:
        expected = []
        for key in batch:
            expected.append(key not in known)
            known.add(key)
        assert list(seen.fresh(np.array(batch, dtype=np.uint64))) == expected


@given(st.lists(st.integers(0, 9), max_size=20), st.lists(st.integers(0, 9), max_size=20))
def test_prompts_are_counted_as_lists_would_count_them(dev: list[int], train: list[int]) -> None:
    assert list(shared(hashes(*dev), hashes(*train))) == [prompt in train for prompt in dev]
    assert repeated(hashes(*train)) == len(train) - len(set(train))
