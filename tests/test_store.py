"""The store: whole or not there, whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import store
from tasks.errors import ConfigError

PROJECT = Path(__file__).parents[1]


def put(root: Path, text: str = "hello", name: str = "a.txt") -> tuple[str, str]:
    with store.scratch(str(root)) as folder:
        (folder / name).write_text(text)
        return store.commit(folder, str(root), "things", {"step": "test"})


def test_equal_bytes_have_one_address(tmp_path: Path) -> None:
    first, again = put(tmp_path), put(tmp_path)
    assert first == again
    assert store.trouble(*first) is None


def test_another_name_or_another_byte_is_another_digest(tmp_path: Path) -> None:
    digests = {put(tmp_path)[1], put(tmp_path, "hellO")[1], put(tmp_path, name="b.txt")[1]}
    assert len(digests) == 3


def test_how_it_was_made_is_in_the_record_and_not_in_the_digest(tmp_path: Path) -> None:
    with store.scratch(str(tmp_path)) as folder:
        (folder / "a.txt").write_text("hello")
        uri, digest = store.commit(folder, str(tmp_path), "things", {"step": "other"})
    assert digest == put(tmp_path)[1]
    assert store.record(uri)["made"] == {"step": "other"}


@pytest.mark.parametrize("harm", ["delete", "truncate", "alter", "record", "garbage"])
def test_every_harm_is_found_and_mended_by_committing_again(tmp_path: Path, harm: str) -> None:
    uri, digest = put(tmp_path)
    file, record = Path(uri) / "a.txt", Path(uri) / store.RECORD
    if harm == "delete":
        file.unlink()
    elif harm == "truncate":
        file.write_text("hell")
    elif harm == "alter":
        file.write_text("jello")
    elif harm == "record":
        record.unlink()
    else:
        record.write_text("[1, 2")
    assert store.trouble(uri, digest)
    assert put(tmp_path) == (uri, digest)
    assert store.trouble(uri, digest) is None


def test_what_is_not_committed_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.scratch(str(tmp_path)) as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from tasks import store\n"
        "with store.scratch(sys.argv[1]) as folder:\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=PROJECT, check=False
    )
    assert killed.returncode == -9
    assert list(tmp_path.rglob("half"))
    put(tmp_path)
    assert not list(tmp_path.rglob("half"))


def test_another_processes_scratch_is_left_alone(tmp_path: Path) -> None:
    with store.scratch(str(tmp_path)) as mine:
        (mine / "half").write_text("half")
        program = "import sys; from tasks import store\nwith store.scratch(sys.argv[1]): pass"
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=PROJECT, check=True)
        assert (mine / "half").exists()


def test_a_store_that_is_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"^store\.uri: .*cannot be written \(.*\)\. Choose"),
        store.scratch(str(tmp_path / "file")),
    ):
        pass


def test_addresses_are_relative_when_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINETUNE_HOME", raising=False)
    assert not store.local().startswith("/")
    assert store.resolve(store.local()) == PROJECT / ".finetune" / "store"


def test_the_root_of_an_artifact_is_the_store_it_lies_in(tmp_path: Path) -> None:
    uri, _ = put(tmp_path)
    assert store.root_of(uri) == str(tmp_path)


def test_the_record_lists_every_file_with_its_digest(tmp_path: Path) -> None:
    uri, digest = put(tmp_path)
    record = json.loads((Path(uri) / store.RECORD).read_text())
    assert record["digest"] == digest
    assert record["files"] == [
        {"path": "a.txt", "size": 5, "sha256": store.file_digest(Path(uri) / "a.txt")}
    ]


def test_a_file_called_record_below_a_folder_is_a_file_like_any_other(tmp_path: Path) -> None:
    with store.scratch(str(tmp_path)) as folder:
        (folder / "more").mkdir()
        (folder / "more" / store.RECORD).write_text("mine")
        uri, digest = store.commit(folder, str(tmp_path), "things", {})
    assert [file["path"] for file in store.record(uri)["files"]] == [f"more/{store.RECORD}"]
    (Path(uri) / "more" / store.RECORD).write_text("other")
    assert store.trouble(uri, digest)


def test_a_folder_can_be_copied_into_a_store_and_stays(tmp_path: Path) -> None:
    uri, digest = put(tmp_path / "one")
    copied, same = store.put(Path(uri), str(tmp_path / "two"), "things", {"step": "copy"})
    assert same == digest
    assert copied == f"{tmp_path}/two/things/{digest[:16]}"
    assert store.trouble(uri, digest) is None
    assert store.record(uri)["made"] == {"step": "test"}
    assert store.record(copied)["made"] == {"step": "copy"}
    assert store.put(Path(uri), str(tmp_path / "two"), "things", {}) == (copied, digest)


def test_a_store_is_recognised_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FINETUNE_HOME", raising=False)
    uri, _ = put(tmp_path)
    assert store.lies_in(uri, f"{tmp_path}/")
    assert store.lies_in(uri, f"file://{tmp_path}")
    assert not store.lies_in(uri, f"{tmp_path}/other")
    assert store.lies_in(f"{store.local()}/things/0", str(PROJECT / ".finetune" / "store"))
    assert store.lies_in("s3://bucket/x/things/0", "s3://bucket/x/")
    assert not store.lies_in("s3://bucket/x/things/0", "s3://bucket")
    assert not store.lies_in(uri, "s3://bucket/x")


def test_a_store_is_tried_before_anything_is_spent(tmp_path: Path) -> None:
    store.check(str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^store\.uri: .*cannot be written"):
        store.check(str(tmp_path / "file"))
    for other in ("gs://bucket/x", "https://host/x", "S3://bucket"):
        with pytest.raises(ConfigError, match=r"^store\.uri: only folders and buckets can be"):
            store.check(other)


def test_a_file_that_somebody_else_put_there_is_no_damage(tmp_path: Path) -> None:
    uri, digest = put(tmp_path)
    (Path(uri) / ".DS_Store").write_text("x")
    assert store.trouble(uri, digest) is None
    assert put(tmp_path) == (uri, digest)
    assert (Path(uri) / ".DS_Store").exists()
