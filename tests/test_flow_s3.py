"""The real flow with its store in a bucket: whole, cached, from another machine, through a bad minute."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_servers
from running import Project

pytestmark = pytest.mark.slow

ALWAYS = {"register", "publish", "deploy"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_servers.Server]:
    s3_servers.alone(monkeypatch)
    with s3_servers.serving() as running:
        running.client().create_bucket(Bucket="house")
        yield running


def test_a_store_in_a_bucket_serves_every_run(server: s3_servers.Server, tmp_path: Path) -> None:
    knobs = {
        "store.uri": "s3://house/models",
        "store.s3.endpoint": server.url,
        "store.s3.region": s3_servers.REGION,
    }
    project = Project.make(tmp_path / "project", "")
    project.knobs |= knobs
    first = project.run()
    assert {state for name, state in first.states.items() if name not in ALWAYS} == {"Completed"}
    assert "s3://house/models/models/" in first.out
    kinds = {path.split("/")[3] for path in server.sent("PUT", "record.json")}
    assert kinds >= {"datasets", "models", "predictions", "scores", "verdicts", "reports"}

    # another minute of the same: nothing is sent again, although the bucket stammers
    server.requests.clear()
    refusals = itertools.count()
    server.refuse = lambda asked: (
        s3_servers.Answer(503, "SlowDown")
        if asked.path.endswith("record.json") and next(refusals) < 8  # more than boto3 itself tries
        else None
    )
    again = project.run()
    assert {state for name, state in again.states.items() if name not in ALWAYS} == {"Cached"}
    assert again.table == first.table
    assert not [path for path in server.sent("PUT", "record.json") if "/reports/" not in path]

    # as on another machine that shares the cache: what is needed comes from the bucket
    server.forget()
    shutil.rmtree(project.home / "mirror")
    elsewhere = project.run()
    assert {state for name, state in elsewhere.states.items() if name not in ALWAYS} == {"Cached"}
    assert elsewhere.table == first.table

    # a run with its store at home still knows how the bucket is reached
    for name in knobs:
        del project.knobs[name]
    home = project.run()
    assert home.states["train-lora"] == "Cached"
    assert home.table == first.table
