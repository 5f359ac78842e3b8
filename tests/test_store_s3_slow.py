"""The store against a second S3: one that computes every checksum it is sent, which moto does not.

It is a command of an environment of its own, `.venv-s3`, since it wants another botocore; FINETUNE_SECOND_S3 may name
another copy of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import s3_servers

from tasks import store
from tasks.errors import TransientError
from tasks.s3 import S3Access
from tasks.store.buckets import bucket_of

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]
FOUND = [os.environ.get("FINETUNE_SECOND_S3", ""), str(PROJECT / ".venv-s3" / "bin" / "ministack")]
COMMAND = next((path for path in FOUND if path and Path(path).is_file()), None)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if COMMAND is None:
        pytest.skip(f"no second S3 server (looked for {' and '.join(filter(None, FOUND))})")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("second")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [COMMAND], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(transport=transport, timeout=60, trust_env=False) as client:
            client.get(url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def uri(endpoint: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    s3_servers.alone(monkeypatch)
    access = S3Access(endpoint, "us-east-1")
    name = f"bucket-{home.parent.name.replace('_', '-').lower()}"[-60:].strip("-")
    access.client().create_bucket(Bucket=name)
    store.use(f"s3://{name}", access)
    return f"s3://{name}/prefix"


LARGE = b"".join(number.to_bytes(4, "big") * 256 for number in range(80 * 1024))
FILES = {"large.bin": LARGE, "small.txt": b"small"}


def commit(uri: str) -> tuple[str, str]:
    with store.scratch(uri) as folder:
        for name, content in FILES.items():
            (folder / name).write_bytes(content)
        return store.commit(folder, uri, "things", {})


def objects(uri: str) -> set[str]:
    bucket, prefix = bucket_of(uri), uri.removeprefix("s3://").partition("/")[2]
    found = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=f"{prefix}/")
    return {each["Key"].rpartition("/")[2] for each in found.get("Contents", [])}


def test_large_and_small_files_make_the_round_trip(uri: str, home: Path) -> None:
    store.check(uri)
    artifact, digest = commit(uri)
    bucket, key = bucket_of(uri), artifact.removeprefix("s3://").partition("/")[2]
    assert bucket.conditional()
    large, small = (bucket.head(f"{key}/{name}") for name in FILES)
    assert large is not None
    assert small is not None
    assert large["ContentLength"] == 80 * 2**20
    assert large["ETag"].strip('"').endswith("-5")
    sha256 = base64.b64encode(hashlib.sha256(b"small").digest()).decode()
    assert small["ChecksumSHA256"] == sha256
    shutil.rmtree(home / "mirror")
    bucket.whole.clear()
    assert store.trouble(artifact, digest) is None
    folder = store.resolve(artifact)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert commit(uri) == (artifact, digest)


@pytest.mark.parametrize(
    ("operation", "ending"),
    [("PutObject", "small.txt"), ("UploadPart", "large.bin"), ("PutObject", "record.json")],
)
def test_bytes_that_change_on_their_way_are_refused_and_leave_no_record(
    uri: str, operation: str, ending: str
) -> None:
    bucket, event = bucket_of(uri), f"before-send.s3.{operation}"
    altered: list[str] = []

    def alter(request: Any, **_: Any) -> None:
        """Change one byte after the checksum has been computed and signed."""
        if urlsplit(request.url).path.endswith(ending):
            body = request.body if isinstance(request.body, bytes) else request.body.read()
            request.body = bytes([body[0] ^ 1]) + body[1:]
            altered.append(ending)

    bucket.conditional()
    bucket.client.meta.events.register(event, alter)
    try:
        with pytest.raises(TransientError, match=rf"BadDigest to {operation}"):
            commit(uri)
    finally:
        bucket.client.meta.events.unregister(event, alter)
    assert altered
    unfinished = bucket.client.list_multipart_uploads(Bucket=bucket.name)
    assert unfinished.get("Uploads", []) == []
    assert store.RECORD not in objects(uri)
    assert ending not in objects(uri)
    artifact, digest = commit(uri)
    bucket.whole.clear()
    assert store.trouble(artifact, digest) is None
    assert objects(uri) == {*FILES, store.RECORD}
