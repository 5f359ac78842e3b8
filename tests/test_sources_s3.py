"""Objects of an S3 on this machine."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_servers
from botocore.loaders import create_loader
from s3_servers import Answer, Server

from tasks.errors import ConfigError, DataError, PipelineError, TransientError
from tasks.s3 import S3Access
from tasks.sources import ROWS, Arrival, Request, s3

ROW = b'{"content": "a", "summary": "b"}\n'
LARGE = random.Random(17).randbytes(300_000)
NUMBERS = itertools.count()
LOADER = create_loader()
"""Shared by all sessions: to read what AWS offers costs each of them 0.2 s."""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with s3_servers.serving() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what arrives half is kept."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server(running: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    s3_servers.alone(monkeypatch)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 2)  # it sleeps in between
    monkeypatch.setattr("botocore.session.create_loader", lambda _: LOADER)
    monkeypatch.setattr(s3, "_BLOCK", 100_000)
    running.forget()
    return running


class Bucket:
    """A bucket of its own for a test."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder, self.name = server, folder, f"sources-{next(NUMBERS)}"
        server.client().create_bucket(Bucket=self.name)
        self.told: list[tuple[int, int]] = []

    def put(self, **contents: bytes) -> None:
        """Write objects; keys are given as `a__b.json` through `**{}`."""
        for key, body in contents.items():
            self.server.client().put_object(Bucket=self.name, Key=key.replace("__", "/"), Body=body)
        self.server.requests.clear()

    def fetch(self, key: str = "", tag: str = "", **more: Any) -> Arrival:
        """Fetch into a new folder, `into`."""
        self.into = self.folder / f"into-{next(NUMBERS)}"
        self.into.mkdir()
        given = {"patterns": ROWS, "where": "source.uri", "s3": self.server.access} | more
        request = Request(f"s3://{self.name}/{key}", **given)
        arrival = s3.fetch(
            request, self.into, tag, lambda done, total: self.told.append((done, total))
        )
        return arrival

    def got(self) -> list[str]:
        """Return the keys that were read."""
        return [
            path.removeprefix(f"/{self.name}/")
            for path in self.server.sent("GET")
            if path.count("/") > 1
        ]


@pytest.fixture
def bucket(server: Server, tmp_path: Path) -> Bucket:
    return Bucket(server, tmp_path)


def test_one_object_arrives_in_blocks_with_progress(bucket: Bucket, home: Path) -> None:
    bucket.put(**{"rows__train.json": LARGE})
    assert bucket.fetch("rows/train.json").names == ("train.json",)
    assert (bucket.into / "train.json").read_bytes() == LARGE
    assert len(bucket.got()) == 3
    assert bucket.told[0] == (0, len(LARGE))
    assert bucket.told[-1] == (len(LARGE), len(LARGE))
    assert not list((home / "downloads").iterdir())


@pytest.mark.parametrize("key", ["rows", "rows/"])
def test_of_a_prefix_the_objects_that_count_arrive(bucket: Bucket, key: str) -> None:
    bucket.put(
        **{
            "rows__train.jsonl": ROW,
            "rows__Test__part.CSV": b"a,b\n",
            "rows__data__x.parquet": ROW,
            "rows__.hidden.json": ROW,
            "rows__other__train.json": ROW,
            "rows__data__deeper__x.json": ROW,
            "rows__README.md": ROW,
            "rows__": b"",
            "rows2__train.json": ROW,
        }
    )
    assert set(bucket.fetch(key).names) == {"train.jsonl", "Test/part.CSV", "data/x.parquet"}
    assert (bucket.into / "Test" / "part.CSV").read_bytes() == b"a,b\n"


def test_a_whole_bucket_can_be_a_source(bucket: Bucket) -> None:
    bucket.put(**{"train.json": ROW, "dev.json": ROW})
    assert bucket.fetch().names == ("dev.json", "train.json")


def test_an_object_is_meant_where_a_folder_has_the_same_name(bucket: Bucket) -> None:
    bucket.put(**{"rows": LARGE, "rows__train.json": ROW})
    assert bucket.fetch("rows").names == ("rows",)
    assert bucket.fetch("rows/").names == ("train.json",)


def test_a_listing_that_has_not_changed_is_not_sent_again(bucket: Bucket) -> None:
    bucket.put(**{"train.json": ROW, "dev.json": ROW})
    tag = bucket.fetch().tag
    bucket.server.requests.clear()
    assert bucket.fetch(tag=tag) == Arrival((), tag)
    assert bucket.got() == []
    bucket.put(**{"README.md": ROW})
    assert bucket.fetch(tag=tag).names == ()
    bucket.put(**{"dev.json": ROW + ROW})
    assert bucket.fetch(tag=tag).names == ("dev.json", "train.json")


def test_a_new_version_of_an_object_is_another_tag(bucket: Bucket) -> None:
    bucket.put(**{"train.json": ROW})
    first = bucket.fetch("train.json").tag
    assert bucket.fetch("train.json").tag == first
    bucket.put(**{"train.json": ROW[::-1]})
    assert bucket.fetch("train.json").tag != first


def test_what_was_cut_goes_on_and_what_was_finished_is_not_sent_again(bucket: Bucket) -> None:
    bucket.put(**{"dev.json": ROW, "train.json": LARGE})

    def busy(request: s3_servers.Request) -> Answer | None:
        late = request.headers.get("range", "").startswith("bytes=200000-")
        return Answer(503, "SlowDown") if late else None

    bucket.server.refuse = busy
    with pytest.raises(TransientError, match=r"^source\.uri: s3://.*SlowDown"):
        bucket.fetch()
    bucket.server.forget()
    assert bucket.fetch().names == ("dev.json", "train.json")
    assert (bucket.into / "train.json").read_bytes() == LARGE
    assert bucket.got() == ["train.json"]
    (last,) = [each for each in bucket.server.requests if "range" in each.headers]
    assert last.headers["range"] == "bytes=200000-299999"


@pytest.mark.parametrize("moment", ["before its first block", "between two blocks"])
def test_an_object_that_is_replaced_meanwhile_is_noticed(bucket: Bucket, moment: str) -> None:
    bucket.put(**{"train.json": LARGE})

    def replace(request: s3_servers.Request) -> Answer | None:
        late = request.headers.get("range", "").startswith("bytes=100000-")
        if late or (len(bucket.server.requests) == 2 and moment == "before its first block"):
            bucket.server.refuse = lambda _: None
            client = bucket.server.client()
            client.put_object(Bucket=bucket.name, Key="train.json", Body=LARGE[::-1])
        return None

    bucket.server.refuse = replace
    with pytest.raises(
        TransientError, match=r"^source\.uri: s3://.*it was replaced while it was being fetched"
    ):
        bucket.fetch("train.json")
    bucket.fetch("train.json")
    assert (bucket.into / "train.json").read_bytes() == LARGE[::-1]


def test_an_object_that_is_removed_meanwhile_is_an_error(bucket: Bucket) -> None:
    bucket.put(**{"train.json": LARGE})

    def remove(request: s3_servers.Request) -> Answer | None:
        if request.method == "GET" and request.path.endswith("/train.json"):
            bucket.server.refuse = lambda _: None
            bucket.server.client().delete_object(Bucket=bucket.name, Key="train.json")
        return None

    bucket.server.refuse = remove
    with pytest.raises(PipelineError, match=r"^source\.uri: s3://"):
        bucket.fetch("train.json")


def test_an_answer_that_is_cut_is_asked_for_again(bucket: Bucket) -> None:
    bucket.put(**{"train.json": LARGE})
    cuts = iter([True])
    bucket.server.cut = lambda request: "range" in request.headers and next(cuts, False)
    bucket.fetch("train.json")
    assert (bucket.into / "train.json").read_bytes() == LARGE


@pytest.mark.parametrize("key", ["nothing.json", "nothing/"])
def test_nothing_there_is_said(bucket: Bucket, key: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^source\.uri: there is nothing \(found s3://sources-\d+/nothing"
    ):
        bucket.fetch(key)


def test_a_bucket_that_is_not_there_is_said(server: Server, tmp_path: Path) -> None:
    request = Request("s3://no-such-bucket/x", ROWS, "source.uri", s3=server.access)
    with pytest.raises(ConfigError, match=r"^source\.uri: .*s3://no-such-bucket/x"):
        s3.fetch(request, tmp_path)


def test_a_prefix_without_rows_lists_what_is_there(bucket: Bucket) -> None:
    bucket.put(**{"rows__README.md": ROW})
    with pytest.raises(
        ConfigError, match=r"no file to read in the folder \(found README\.md in s3://.*\*\.jsonl"
    ):
        bucket.fetch("rows")


def test_an_empty_object_is_refused(bucket: Bucket) -> None:
    bucket.put(**{"train.json": b""})
    with pytest.raises(ConfigError, match=r"train\.json is empty"):
        bucket.fetch("train.json")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", ConfigError),
        (503, "SlowDown", TransientError),
        (500, "InternalError", TransientError),
    ],
)
def test_what_s3_refuses_is_told_apart_by_whether_waiting_helps(
    bucket: Bucket, status: int, code: str, kind: type[PipelineError]
) -> None:
    bucket.put(**{"train.json": ROW})
    bucket.server.refuse = lambda _: Answer(status, code)
    with pytest.raises(kind, match=r"^source\.uri: s3://"):
        bucket.fetch("train.json")


def test_a_store_that_is_not_there_is_worth_another_try(server: Server, tmp_path: Path) -> None:
    access = S3Access(endpoint="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(TransientError, match=r"^source\.uri: s3://b/x: .*127\.0\.0\.1:9"):
        s3.fetch(Request("s3://b/x", ROWS, "source.uri", s3=access), tmp_path)


def test_without_credentials_it_says_how_to_have_some(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put(**{"train.json": ROW})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(
        ConfigError, match=r"no credentials for s3://.*Sign in.*anyone may read is also at https://"
    ):
        bucket.fetch("train.json")


def test_the_expected_digest_is_looked_at(bucket: Bucket) -> None:
    bucket.put(**{"train.json": ROW, "dev.json": ROW})
    with pytest.raises(
        ConfigError, match=r"^source\.sha256: a digest is of one file \(found 2 files\)"
    ):
        bucket.fetch(sha256="0" * 64)
    assert bucket.got() == []
    with pytest.raises(DataError, match=r"^source\.sha256: the source is not the expected one"):
        bucket.fetch("train.json", sha256="0" * 64)


def test_names_from_outside_stay_inside(bucket: Bucket) -> None:
    bucket.put(**{"x__a\\..\\b.json": ROW, "x__record.json": ROW, "x__广告 1.json": ROW})
    assert set(bucket.fetch("x").names) == {"b.json", "_record.json", "广告_1.json"}
    bucket.put(**{"y__a b.json": ROW, "y__a?b.json": ROW})
    with pytest.raises(DataError, match="two objects have the same name here"):
        bucket.fetch("y")


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no bucket \(found 's3://'\)"):
        s3.check(Request("s3://", ROWS, "source.uri"))
