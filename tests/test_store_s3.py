"""The store in a bucket: the folder's promises, kept over a network that fails."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import s3_servers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_servers import Answer, Request, Server

from tasks import store
from tasks.artifacts import Dataset
from tasks.errors import ArtifactMissing, ConfigError, TransientError
from tasks.s3 import S3Access

PROJECT = Path(__file__).parents[1]
FILES = {"train.jsonl": b"one\ntwo\n", "dev.jsonl": b"three\n", "more/empty": b""}
TOLD: dict[str, Any] = {"content": "0" * 64, "format": "messages", "records": {"train": 2}}
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with s3_servers.serving() as server:
        yield server


@pytest.fixture
def server(running: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    s3_servers.alone(monkeypatch)
    running.forget()
    return running


@pytest.fixture
def bucket(server: Server) -> str:
    """An address below a new bucket, in use."""
    name = f"bucket-{next(NUMBERS)}"
    server.client().create_bucket(Bucket=name)
    server.requests.clear()
    store.use(f"s3://{name}", server.access)
    return f"s3://{name}/some/prefix"


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def commit(uri: str, files: dict[str, bytes] = FILES, **made: Any) -> tuple[str, str]:
    with store.scratch(uri) as folder:
        write(folder, files)
        return store.commit(folder, uri, "things", made)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / store.RECORD
    }


def forget(home: Path, uri: str, server: Server) -> None:
    """Become another machine: no mirror, and nothing known about the store."""
    shutil.rmtree(home / "mirror", ignore_errors=True)
    store.use(uri, server.access)
    server.requests.clear()


def key_of(uri: str, name: str = "") -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": f"{key}/{name}"}


def objects(server: Server, uri: str) -> dict[str, int]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    found = server.client().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")
    return {
        each["Key"].removeprefix(f"{prefix}/"): each["Size"] for each in found.get("Contents", [])
    }


def test_what_is_committed_comes_back_bit_by_bit_on_another_machine(
    bucket: str, server: Server, home: Path
) -> None:
    uri, digest = commit(bucket)
    forget(home, bucket, server)
    assert store.trouble(uri, digest) is None
    assert contents(store.resolve(uri)) == FILES


def test_the_record_is_that_of_the_same_artifact_in_a_folder(
    bucket: str, server: Server, tmp_path: Path
) -> None:
    remote, digest = commit(bucket, step="here")
    local, same = commit(str(tmp_path / "store"), step="there")
    assert digest == same
    assert remote == f"{bucket}/things/{digest[:16]}"
    here, there = store.record(remote), store.record(local)
    assert (here["digest"], here["files"]) == (there["digest"], there["files"])
    assert here["made"] == {"step": "here"}
    stored = server.client().get_object(**key_of(remote, store.RECORD))["Body"].read()
    assert stored == (store.resolve(remote) / store.RECORD).read_bytes()


names = st.text(
    st.characters(codec="utf-8", min_codepoint=32, exclude_characters="/\x7f"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=64), max_size=4
)


def can_be(tree: dict[str, bytes]) -> bool:
    """Say whether a tree can lie in a folder: no file is a folder too."""
    folders = {str(parent) for name in tree for parent in Path(name).parents}
    return not folders & set(tree) and store.RECORD not in tree


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tree=trees.filter(can_be))
def test_any_small_tree_of_files_makes_the_round_trip(
    bucket: str, server: Server, home: Path, tree: dict[str, bytes]
) -> None:
    uri, digest = commit(bucket, tree)
    forget(home, bucket, server)
    assert store.trouble(uri, digest) is None
    assert contents(store.resolve(uri)) == tree


def test_a_second_commit_uploads_nothing(bucket: str, server: Server, home: Path) -> None:
    first = commit(bucket)
    server.requests.clear()
    assert commit(bucket) == first
    assert server.sent("PUT") == []
    forget(home, bucket, server)
    assert commit(bucket) == first
    assert server.sent("PUT") == []


def test_what_was_committed_or_resolved_is_at_hand_without_a_request(
    bucket: str, server: Server, home: Path
) -> None:
    uri, digest = commit(bucket)
    server.requests.clear()
    assert contents(store.resolve(uri)) == FILES
    assert store.trouble(uri, digest) is None
    assert server.requests == []
    forget(home, bucket, server)
    store.resolve(uri)
    server.requests.clear()
    store.resolve(uri)
    assert server.requests == []


def test_a_harmed_mirror_is_downloaded_again(bucket: str) -> None:
    uri, _ = commit(bucket)
    (store.resolve(uri) / "train.jsonl").write_bytes(b"one\nTWO\n")
    assert contents(store.resolve(uri)) == FILES
    (store.resolve(uri) / store.RECORD).write_text("[1, 2")
    assert contents(store.resolve(uri)) == FILES


def test_looking_at_an_artifact_costs_two_requests_once(
    bucket: str, server: Server, home: Path
) -> None:
    uri, digest = commit(bucket)
    forget(home, bucket, server)
    assert [store.trouble(uri, digest) for _ in range(3)] == [None] * 3
    assert [request.method for request in server.requests] == ["GET", "GET"]


def test_a_killed_upload_goes_on_where_it_stopped(
    bucket: str, server: Server, home: Path, tmp_path: Path
) -> None:
    files = {f"{number:02}.bin": bytes([number]) * 1000 for number in range(30)}
    write(tmp_path / "source", files)
    child = upload_elsewhere(server, bucket, tmp_path / "source", tmp_path / "elsewhere")

    def kill(request: Request) -> None:
        if len(server.sent("PUT")) == 4:
            os.kill(child.pid, signal.SIGKILL)

    server.refuse = kill
    assert child.wait(60) == -signal.SIGKILL
    server.forget()
    uri = f"{bucket}/things/{store.digest_of(store.listing(tmp_path / 'source'))[:16]}"
    arrived = objects(server, uri)
    assert 0 < len(arrived) < 30
    assert store.RECORD not in arrived
    assert store.trouble(uri, "") == f"{uri}: the store does not hold this artifact"

    server.requests.clear()
    assert store.put(tmp_path / "source", bucket, "things", {})[0] == uri
    uploaded = {Path(path).name for path in server.sent("PUT", ".bin")}
    assert uploaded == set(files) - set(arrived)
    forget(home, bucket, server)
    assert contents(store.resolve(uri)) == files


def upload_elsewhere(server: Server, uri: str, source: Path, home: Path) -> subprocess.Popen[str]:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tasks import store\n"
        "print(*store.put(Path(sys.argv[1]), sys.argv[2], 'things', {'by': 'child'}))\n"
    )
    environment = os.environ | {"AWS_ENDPOINT_URL": server.url, "FINETUNE_HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(source), uri],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_stage_the_same_at_once_agree(
    bucket: str, server: Server, tmp_path: Path
) -> None:
    write(tmp_path / "source", FILES)
    both = threading.Barrier(2, timeout=60)

    def hold(request: Request) -> None:
        # both have asked for the record before either is told that there is none
        asking = request.method == "GET" and request.path.endswith(store.RECORD)
        if asking and len(server.sent("GET", store.RECORD)) <= 2:
            both.wait()

    server.refuse = hold
    child = upload_elsewhere(server, bucket, tmp_path / "source", tmp_path / "elsewhere")
    mine = store.put(tmp_path / "source", bucket, "things", {"by": "parent"})
    said, _ = child.communicate(timeout=60)
    assert tuple(said.split()) == mine
    written = [
        request.status
        for request in server.requests
        if request.method == "PUT" and request.path.endswith(store.RECORD)
    ]
    assert sorted(written) == [200, 412]
    assert store.record(mine[0])["made"]["by"] in ("child", "parent")
    assert objects(server, mine[0]).keys() == {*FILES, store.RECORD}


def test_threads_that_commit_the_same_at_once_agree(bucket: str, server: Server) -> None:
    found: list[tuple[str, str]] = []
    threads = [threading.Thread(target=lambda: found.append(commit(bucket))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert contents(store.resolve(found[0][0])) == FILES


def test_a_record_of_something_else_is_never_overwritten(
    bucket: str, server: Server, home: Path
) -> None:
    uri, digest = commit(bucket)
    client = server.client()
    for foreign in (b"theirs", json.dumps({"digest": "0" * 64, "files": []}).encode()):
        client.put_object(Body=foreign, **key_of(uri, store.RECORD))
        forget(home, bucket, server)
        assert store.trouble(uri, digest) is not None
        with pytest.raises(ArtifactMissing, match=r"record .*\(found .*\)\. Look"):
            store.resolve(uri)
        with pytest.raises(ConfigError, match=r"^store\.uri: s3://.*record\.json is there and is"):
            commit(bucket)
        assert client.get_object(**key_of(uri, store.RECORD))["Body"].read() == foreign


def test_a_record_that_appears_meanwhile_decides(bucket: str, server: Server) -> None:
    client = server.client()
    foreign = b'{"digest": "other", "files": []}'

    def overtake(request: Request) -> None:
        if request.method == "PUT" and request.path.endswith(store.RECORD):
            server.refuse = lambda _: None
            name, _, key = request.path.lstrip("/").partition("/")
            client.put_object(Bucket=name, Key=key, Body=foreign)

    server.refuse = overtake
    with pytest.raises(ConfigError, match="is there and is not ours"):
        commit(bucket)


def test_a_conflict_with_another_writer_is_worth_another_try(bucket: str, server: Server) -> None:
    server.refuse = lambda request: (
        (Answer(409, "ConditionalRequestConflict") if request.path.endswith(store.RECORD) else None)
        if request.method == "PUT"
        else None
    )
    with pytest.raises(TransientError, match="just finishing"):
        commit(bucket)
    server.refuse = lambda _: None
    uri, digest = commit(bucket)
    assert store.trouble(uri, digest) is None


@pytest.mark.parametrize("left", [b"one\ntw", b"ONE\nTWO\n"], ids=["shorter", "other"])
def test_what_a_cut_upload_left_is_written_anew_while_there_is_no_record(
    bucket: str, server: Server, home: Path, tmp_path: Path, left: bytes
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder, FILES)
    uri = f"{bucket}/things/{store.digest_of(store.listing(folder))[:16]}"
    server.client().put_object(Body=left, **key_of(uri, "train.jsonl"))
    assert store.put(folder, bucket, "things", {})[0] == uri
    forget(home, bucket, server)
    assert contents(store.resolve(uri)) == FILES


@pytest.mark.parametrize("harm", [b"one\ntw", b"ONE\nTWO\n"], ids=["shorter", "other"])
def test_a_wrong_object_of_a_finished_artifact_is_named_and_left_alone(
    bucket: str, server: Server, home: Path, harm: bytes
) -> None:
    uri, digest = commit(bucket)
    client, place = server.client(), key_of(uri, "train.jsonl")
    client.put_object(Body=harm, **place)
    forget(home, bucket, server)
    with pytest.raises(ConfigError, match=r"train\.jsonl is not what its record says \(found .*\)"):
        commit(bucket)
    with pytest.raises(ArtifactMissing, match=r"train\.jsonl: not what the record promises"):
        store.resolve(uri)
    assert client.get_object(**place)["Body"].read() == harm
    client.delete_object(**place)
    assert store.trouble(uri, digest) == f"{uri}: train.jsonl is not there"
    with pytest.raises(ArtifactMissing, match=r"train\.jsonl: .*\(found nothing"):
        store.resolve(uri)
    assert commit(bucket) == (uri, digest)
    forget(home, bucket, server)
    assert contents(store.resolve(uri)) == FILES


def test_an_object_of_another_size_is_trouble(bucket: str, server: Server, home: Path) -> None:
    uri, digest = commit(bucket)
    server.client().put_object(Body=b"one", **key_of(uri, "train.jsonl"))
    forget(home, bucket, server)
    assert store.trouble(uri, digest) == f"{uri}: train.jsonl has 3 bytes, not 8"
    assert store.trouble(uri, "0" * 64) == f"{uri}: its record is of something else"


def test_what_lies_beside_the_files_is_nobodys_business(
    bucket: str, server: Server, home: Path
) -> None:
    uri, digest = commit(bucket)
    server.client().put_object(Body=b"note", **key_of(uri, "note.txt"))
    forget(home, bucket, server)
    assert store.trouble(uri, digest) is None
    assert contents(store.resolve(uri)) == FILES
    assert "note.txt" in objects(server, uri)


def test_encryption_and_tags_arrive_with_every_object(bucket: str, server: Server) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/0d5c6c5e-0000-4000-8000-000000000000"
    tags = {"project": "words / deeds+more", "owner": "team=nlp"}
    store.use(bucket, replace(server.access, kms_key=key, tags=tags))
    uri, _ = commit(bucket)
    client = server.client()
    for name in (*FILES, store.RECORD):
        head = client.head_object(**key_of(uri, name))
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)
        found = client.get_object_tagging(**key_of(uri, name))["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in found} == tags


def test_throttling_is_survived_when_it_passes_and_transient_when_it_does_not(
    bucket: str, server: Server
) -> None:
    left = iter(range(2))

    def slow_down(request: Request) -> Answer | None:
        busy = request.method == "PUT" and next(left, None) is not None
        return Answer(503, "SlowDown") if busy else None

    server.refuse = slow_down
    uri, digest = commit(bucket)
    assert store.trouble(uri, digest) is None
    server.refuse = lambda _: Answer(503, "SlowDown")
    with pytest.raises(TransientError, match=r"^store\.uri: s3://.*SlowDown to GetObject"):
        commit(bucket, {"a": b"other"})


def test_a_cut_answer_is_transient(bucket: str, server: Server, home: Path) -> None:
    uri, digest = commit(bucket)
    forget(home, bucket, server)
    server.cut = lambda request: request.path.endswith(".jsonl") and request.method == "GET"
    with pytest.raises(TransientError):
        store.resolve(uri)
    assert not list((home / "mirror").rglob("*.jsonl"))
    server.cut = lambda request: request.path.endswith(store.RECORD)
    with pytest.raises(TransientError):
        store.trouble(uri, digest)
    server.forget()
    assert contents(store.resolve(uri)) == FILES


def test_a_store_that_cannot_be_reached_is_not_an_empty_one(
    server: Server, home: Path, tmp_path: Path
) -> None:
    with s3_servers.serving() as other:
        other.client().create_bucket(Bucket="gone")
        store.use("s3://gone", other.access)
        uri, digest = commit("s3://gone")
        forget(home, "s3://gone", other)
    for ask in (
        lambda: store.trouble(uri, digest),
        lambda: store.resolve(uri),
        lambda: store.record(uri),
        lambda: commit("s3://gone"),
        lambda: Dataset(uri=uri, digest=digest, **TOLD),
    ):
        with pytest.raises(TransientError, match=r"^store\.uri: s3://gone"):
            ask()


def test_a_bucket_that_works_passes_the_check_and_keeps_nothing_of_it(
    bucket: str, server: Server
) -> None:
    store.check(bucket)
    assert objects(server, bucket) == {}
    written = set(server.sent("PUT"))
    assert len(written) == 1
    assert written == set(server.sent("DELETE"))
    assert "/some/prefix/.probe/" in written.pop()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            Answer(403, "AccessDenied"),
            r"AccessDenied to PutObject: as asked\)\. Give this identity",
        ),
        (Answer(403, "InvalidAccessKeyId"), r"Check the credentials"),
        (Answer(403, "ExpiredToken"), r"Sign in again"),
        (Answer(400, "AuthorizationHeaderMalformed"), r"Set s3\.region"),
        (Answer(400, "KMS.NotFoundException"), r"KMS\.NotFoundException to PutObject"),
        (Answer(403, "RequestTimeTooSkewed"), r"Set the clock"),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_a_bucket_that_cannot_be_used_is_refused_in_a_sentence(
    bucket: str, server: Server, answer: Answer, told: str
) -> None:
    server.refuse = lambda request: answer if request.method == "PUT" else None
    with pytest.raises(ConfigError, match=rf"^store\.uri: s3://.* was refused \(found .*{told}"):
        store.check(bucket)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_identity_that_may_not_read_list_or_delete_is_refused(
    bucket: str, server: Server, method: str
) -> None:
    server.refuse = lambda request: (
        Answer(403, "AccessDenied") if request.method == method else None
    )
    with pytest.raises(ConfigError, match="AccessDenied to "):
        store.check(bucket)


def test_a_wrong_name_a_wrong_host_and_nobody_are_refused_in_a_sentence(
    bucket: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.use("s3://no-such-bucket", server.access)
    with pytest.raises(ConfigError, match=r"^store\.uri: s3://no-such.*NoSuchBucket .*spelling"):
        store.check("s3://no-such-bucket")
    with pytest.raises(ConfigError, match=r"^s3://: no bucket"):
        store.check("s3://")
    store.use("s3://Not_A_Bucket!", server.access)
    with pytest.raises(ConfigError, match=r"^store\.uri: s3://Not_A_Bucket! cannot be used"):
        store.check("s3://Not_A_Bucket!")
    store.use(bucket, S3Access(endpoint="http://127.0.0.1:1"))
    with pytest.raises(ConfigError, match=r"^store\.uri: s3://.* cannot be reached .*s3\.endpoint"):
        store.check(bucket)
    store.use(bucket, S3Access(endpoint="localhost:9000"))
    with pytest.raises(ConfigError, match=r"^s3\.endpoint: not an address \(found 'localhost:9000"):
        store.check(bucket)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store.use(bucket, replace(server.access, region="us-west-2"))
    with pytest.raises(ConfigError, match=r"^store\.uri: no credentials for s3://"):
        store.check(bucket)


def test_a_throttled_check_is_worth_another_try(bucket: str, server: Server) -> None:
    server.refuse = lambda _: Answer(503, "SlowDown")
    with pytest.raises(TransientError):
        store.check(bucket)


def test_a_store_without_conditional_writes_keeps_the_first_record(
    bucket: str, server: Server, home: Path
) -> None:
    server.conditions = False
    first = commit(bucket, by="first")
    forget(home, bucket, server)
    assert commit(bucket, by="second") == first
    assert store.record(first[0])["made"] == {"by": "first"}
    assert store.trouble(*first) is None
    assert objects(server, bucket).keys() == {
        f"things/{first[1][:16]}/{name}" for name in (*FILES, store.RECORD)
    }


def test_a_store_that_refuses_conditional_writes_is_written_without(
    bucket: str, server: Server, home: Path
) -> None:
    server.refuse = lambda request: (
        Answer(501, "NotImplemented") if "if-none-match" in request.headers else None
    )
    first = commit(bucket)
    forget(home, bucket, server)
    assert commit(bucket) == first
    assert store.trouble(*first) is None
    store.check(bucket)


def test_over_tls_the_checksum_travels_behind_the_body(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_servers.alone(monkeypatch)
    certificate = s3_servers.certify(tmp_path)
    uri = "s3://over-tls/prefix"
    with s3_servers.serving(certificate) as server:
        store.use(uri, replace(server.access, region="us-west-2"))
        with pytest.raises(ConfigError, match=r"is not trusted \(found .*AWS_CA_BUNDLE"):
            store.check(uri)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
        server.client().create_bucket(Bucket="over-tls")
        forget(home, uri, server)
        artifact, digest = commit(uri)
        put = next(each for each in server.requests if each.path.endswith("train.jsonl"))
        assert put.headers["content-encoding"] == "aws-chunked"
        assert put.headers["x-amz-trailer"] == "x-amz-checksum-sha256"
        assert put.headers["x-amz-content-sha256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        forget(home, uri, server)
        assert store.trouble(artifact, digest) is None
        assert contents(store.resolve(artifact)) == FILES

        store.use(uri, replace(server.access, checksums="when_required"))
        files = {"a.txt": b"for a store that refuses aws-chunked", "empty": b""}
        plain, _ = commit(uri, files)
        puts = [each for each in server.requests if each.method == "PUT"]
        assert any(each.path.endswith("a.txt") for each in puts)
        assert not [each for each in puts if "content-encoding" in each.headers]
        assert not [each for each in puts if any("checksum" in name for name in each.headers)]
        shutil.rmtree(home / "mirror")
        assert contents(store.resolve(plain)) == files


def test_a_name_too_long_for_s3_is_refused_before_anything_is_sent(
    bucket: str, server: Server
) -> None:
    name = "/".join(["long" * 50] * 6)
    with pytest.raises(ConfigError, match=r"^store\.uri: the key of long.* is too long for S3"):
        commit(bucket, {name: b"x", "a.txt": b"y"})
    assert server.sent("PUT") == []


def test_a_name_with_control_characters_is_refused(bucket: str) -> None:
    with pytest.raises(ConfigError, match=r"control characters \(found 'a\\nb'\)\. Rename"):
        commit(bucket, {"a\nb": b"x"})


def test_a_record_whose_paths_lead_out_of_the_artifact_is_refused(
    bucket: str, server: Server, home: Path
) -> None:
    client = server.client()
    for path in ("../../../escaped", "/tmp/escaped", "a/../../escaped", store.RECORD, ""):
        files = [{"path": path, "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}]
        digest = store.digest_of(files)
        uri = f"{bucket}/things/{digest[:16]}"
        record = json.dumps({"digest": digest, "files": files, "made": {}}).encode()
        client.put_object(Body=record, **key_of(uri, store.RECORD))
        assert "its record cannot be read" in (store.trouble(uri, digest) or "")
        with pytest.raises(ArtifactMissing, match="its record cannot be read"):
            store.resolve(uri)
    assert not list(home.rglob("*escaped*"))


def test_a_dataset_that_was_staged_is_read_like_any_other(
    bucket: str, server: Server, home: Path, tmp_path: Path
) -> None:
    local, digest = commit(str(tmp_path / "store"))
    data = Dataset(uri=local, digest=digest, **TOLD)
    seen: list[tuple[int, int]] = []
    uri, same = store.put(
        store.resolve(data.uri), bucket, "datasets", {}, lambda *counts: seen.append(counts)
    )
    assert same == digest
    assert seen[-1] == (14, 14)
    assert contents(store.resolve(local)) == FILES
    staged = data.model_copy(update={"uri": uri})
    forget(home, bucket, server)
    again = Dataset.model_validate_json(staged.model_dump_json())
    assert (store.resolve(again.uri) / "dev.jsonl").read_bytes() == FILES["dev.jsonl"]
    assert store.root_of(again.uri) == bucket
    assert store.lies_in(again.uri, f"{bucket}/")
    assert not store.lies_in(local, bucket)
    server.client().delete_object(**key_of(uri, "dev.jsonl"))
    forget(home, bucket, server)
    with pytest.raises(ValueError, match=r"dev\.jsonl is not there"):
        Dataset.model_validate_json(staged.model_dump_json())


def test_what_is_made_of_a_staged_artifact_can_be_put_into_a_folder(
    bucket: str, tmp_path: Path
) -> None:
    uri, digest = commit(bucket)
    local, same = store.put(store.resolve(uri), str(tmp_path / "store"), "things", {"from": uri})
    assert same == digest
    assert store.trouble(local, digest) is None
    assert store.record(local)["made"] == {"from": uri}


def test_each_store_is_reached_as_the_nearest_prefix_says(bucket: str, server: Server) -> None:
    root = store.root_of(bucket)
    store.use(root, replace(server.access, tags={"level": "outer"}))
    store.use(bucket, replace(server.access, tags={"level": "inner"}))
    client = server.client()
    for place, level in ((bucket, "inner"), (f"{root}/prefixes", "outer")):
        uri, _ = commit(place)
        found = client.get_object_tagging(**key_of(uri, "dev.jsonl"))["TagSet"]
        assert found == [{"Key": "level", "Value": level}]


def test_a_truncated_arrival_leaves_no_record(bucket: str, server: Server, home: Path) -> None:
    client = server.client()

    def shorten(request: Request) -> None:
        if request.method == "HEAD" and request.path.endswith("train.jsonl"):
            server.refuse = lambda _: None
            name, _, key = request.path.lstrip("/").partition("/")
            client.put_object(Bucket=name, Key=key, Body=b"one")

    server.refuse = shorten
    with pytest.raises(TransientError, match=r"train\.jsonl did not arrive as it was sent"):
        commit(bucket)
    assert server.sent("PUT", store.RECORD) == []
    uri, _ = commit(bucket)
    forget(home, bucket, server)
    assert contents(store.resolve(uri)) == FILES


def test_the_mirror_of_one_store_is_not_that_of_another(
    bucket: str,
) -> None:
    first, second = commit(bucket), commit(f"{bucket}/other")
    assert first[1] == second[1]
    assert store.resolve(first[0]) != store.resolve(second[0])
    assert contents(store.resolve(first[0])) == contents(store.resolve(second[0]))


def test_a_later_process_knows_how_an_earlier_one_reached_the_store(
    bucket: str, server: Server
) -> None:
    uri, digest = commit(bucket)
    program = "import sys; from tasks import store\nprint(store.trouble(sys.argv[1], sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-c", program, uri, digest],
        cwd=Path(__file__).parents[1],
        env={k: v for k, v in os.environ.items() if k != "AWS_ENDPOINT_URL"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "None"
