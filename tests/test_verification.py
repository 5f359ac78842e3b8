"""What a job names is what its record promises, or nothing is trained, answered or served."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models

from tasks import store
from tasks.trainer import events, verification
from tasks.trainer.__main__ import main
from tasks.trainer.errors import DataError, Interrupted
from tasks.trainer.job import Job, TrainSpec
from tasks.trainer.stopping import Stop


def committed(folder: Path, kind: str) -> tuple[Path, str]:
    """Put a directory into a store beside it, as the steps do, and return where it lies."""
    with store.scratch(str(folder.parent / "store")) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        uri, digest = store.commit(scratch, str(folder.parent / "store"), kind, {"step": "test"})
    return store.resolve(uri), digest


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, str]:
    """A staged dataset with rows that the trainer reads, and a ledger that it does not."""
    folder = tiny_models.dataset(tmp_path / "rows", train=6, dev=3)
    (folder / "dataset.json").write_text('{"template": ""}', encoding="utf-8")
    (folder / "ledger.json").write_text('{"kept": 9}', encoding="utf-8")
    return committed(folder, "datasets")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return committed(tiny_models.glm(tmp_path_factory.mktemp("base") / "glm"), "models")


@pytest.fixture
def own_base(base: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A copy of the base model that a test may damage."""
    return Path(shutil.copytree(base[0], tmp_path / "base")), base[1]


def order(data: Path, base: Path, home: Path) -> Job:
    return Job(
        action="train",
        family="tiny",
        base=str(base),
        data=str(data),
        out=str(home / "out"),
        work=str(home / "work"),
        train=TrainSpec(max_steps=1, global_batch=2, dev_rows=2),
        threads=1,
    )


def flip(path: Path, offset: int = -1) -> None:
    """Change one byte, and not the size."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def rewrite(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """Return what changes a record."""

    def act(folder: Path) -> None:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        change(record)
        (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")

    return act


def test_what_the_store_has_written_is_accepted(
    data: tuple[Path, str], base: tuple[Path, str], tmp_path: Path
) -> None:
    job = order(data[0], base[0], tmp_path)
    verification.check(job, Stop())
    promised = replace(job, data_digest=data[1], base_digest=base[1], thorough=True)
    verification.check(promised, Stop())


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda d: flip(d / "train.jsonl"), r"train\.jsonl: is not what its record"),
        (lambda d: cut(d / "dev.jsonl"), r"dev\.jsonl: is not what its record\.json promises"),
        (lambda d: flip(d / "dataset.json"), r"dataset\.json: is not what its record"),
        (lambda d: flip(d / "ledger.json"), r"ledger\.json: is not what its record"),
        (lambda d: (d / "train.jsonl").unlink(), r"train\.jsonl: is not there"),
        (lambda d: (d / "dev.jsonl").unlink(), r"dev\.jsonl: is not there"),
        (lambda d: (d / "dataset.json").unlink(), r"dataset\.json: is not there"),
        (lambda d: (d / "record.json").write_text("{"), r"record\.json: cannot be read"),
        (lambda d: (d / "record.json").write_text("[]"), r"record\.json: cannot be read"),
        (rewrite(lambda r: r.pop("files")), r"record\.json: cannot be read \(KeyError"),
        (rewrite(lambda r: r.update(files=[3])), r"record\.json: cannot be read \(TypeError"),
        (rewrite(lambda r: r.update(digest="0" * 64)), "was changed after it was written"),
        (rewrite(lambda r: r["files"].pop()), "was changed after it was written"),  # type: ignore[attr-defined]
        (
            rewrite(lambda r: r["files"][0].update(path="../rows/dev.jsonl")),  # type: ignore[index]
            r"cannot be read .*leads elsewhere",
        ),
        (
            rewrite(lambda r: r["files"][0].update(path="/etc/hosts")),  # type: ignore[index]
            r"cannot be read .*leads elsewhere",
        ),
    ],
)
def test_a_damaged_dataset_is_refused_by_name(
    data: tuple[Path, str], damage: Callable[[Path], None], what: str
) -> None:
    damage(data[0])
    with pytest.raises(DataError, match=rf"{what}.*Stage the dataset again\."):
        verification.dataset(data[0], "", Stop())


def test_the_message_has_the_file_and_both_digests(data: tuple[Path, str]) -> None:
    path = data[0] / "train.jsonl"
    promised = verification.sha256(path)
    flip(path)
    with pytest.raises(DataError) as raised:
        verification.dataset(data[0], "", Stop())
    told = str(raised.value)
    assert told.startswith(f"{path}: ")
    assert promised in told
    assert verification.sha256(path) in told


def test_what_the_trainer_does_not_read_may_stay_behind(data: tuple[Path, str]) -> None:
    (data[0] / "ledger.json").unlink()
    verification.dataset(data[0], data[1], Stop())


@pytest.mark.parametrize("name", ["dev.jsonl", "dataset.json"])
def test_rows_and_templates_that_nobody_promised_are_refused(name: str, tmp_path: Path) -> None:
    folder = tiny_models.dataset(tmp_path / "rows", train=2, dev=1)
    (folder / "dev.jsonl").unlink()
    place, _ = committed(folder, "datasets")
    verification.dataset(place, "", Stop())
    (place / name).write_text('{"template": "{prompt}!"}', encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}: is not in the record\.json beside it"):
        verification.dataset(place, "", Stop())


def test_a_dataset_of_another_digest_is_refused(data: tuple[Path, str], tmp_path: Path) -> None:
    wanted = "ab" * 32
    with pytest.raises(DataError, match=rf"found digest {data[1]}, the job has {wanted}"):
        verification.dataset(data[0], wanted, Stop())
    (data[0] / "record.json").unlink()
    verification.dataset(data[0], "", Stop())
    with pytest.raises(DataError, match="nothing vouches for its digest"):
        verification.dataset(data[0], wanted, Stop())


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda b: flip(b / "config.json"), r"config\.json: is not what its record"),
        (lambda b: flip(b / "model.safetensors"), r"model\.safetensors: is not what its record"),
        (lambda b: (b / "tokenizer.json").unlink(), r"tokenizer\.json: is not there"),
        (
            lambda b: (b / "chat_template.jinja").write_text("x"),
            r"chat_template\.jinja: is not in the record\.json",
        ),
        (
            lambda b: (b / "pytorch_model.bin").write_text("x"),
            r"pytorch_model\.bin: is not in the record\.json",
        ),
        (
            lambda b: (b / "tokenizer.model").write_text("x"),
            r"tokenizer\.model: is not in the record\.json",
        ),
    ],
)
def test_a_damaged_model_is_refused_by_name(
    own_base: tuple[Path, str], damage: Callable[[Path], None], what: str
) -> None:
    damage(own_base[0])
    with pytest.raises(DataError, match=rf"{what}.*Fetch the model again\."):
        verification.model(own_base[0], "", False, Stop())


def test_a_model_of_another_digest_is_refused(base: tuple[Path, str]) -> None:
    with pytest.raises(DataError, match="is the record of something else"):
        verification.model(base[0], "ab" * 32, False, Stop())


def test_large_weights_are_hashed_only_when_asked(
    own_base: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = own_base[0] / "model.safetensors"
    monkeypatch.setattr(verification, "LARGE", weights.stat().st_size - 1)
    flip(weights)
    verification.model(*own_base, False, Stop())
    with pytest.raises(DataError, match=r"with SHA-256 \w{64}, promised"):
        verification.model(*own_base, True, Stop())
    cut(weights)
    with pytest.raises(DataError, match=r"found [\d,]+ bytes, promised [\d,]+\)"):
        verification.model(*own_base, False, Stop())


def test_nothing_is_hashed_twice(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    stat, first = path.stat(), verification.sha256(path)
    path.write_bytes(b"behind")  # same size and, by the next line, same time: not looked at again
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert verification.sha256(path) == first
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert verification.sha256(path) != first


def test_checking_can_be_interrupted(data: tuple[Path, str]) -> None:
    with pytest.raises(Interrupted):
        verification.dataset(data[0], "", tiny_models.StopAfter(2))


@pytest.mark.parametrize("action", ["train", "predict", "lengths", "serve"])
def test_every_action_stops_at_a_damaged_file_before_it_does_anything(
    action: str,
    data: tuple[Path, str],
    base: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    monkeypatch.setattr(os, "environ", dict(os.environ))
    flip(data[0] / "train.jsonl")
    job = replace(order(data[0], base[0], tmp_path), action=action)  # type: ignore[arg-type]
    job.write(tmp_path / "job.json")
    assert main([action, "--job", str(tmp_path / "job.json")]) == 65
    failure = events.parse(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(failure, events.Failure)
    assert "train.jsonl: is not what its record.json promises" in failure.message
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work").exists()
