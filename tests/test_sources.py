"""Where bytes come from: paths of this machine, what every kind of place shares, and the step that fetches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import flaky_server
import pytest
from flaky_server import File, FlakyServer
from hypothesis import example, given
from hypothesis import strategies as st

from tasks import sources, store
from tasks.config import SourceConfig
from tasks.data import fetch
from tasks.errors import ConfigError, DataError
from tasks.s3 import S3Access
from tasks.sources import MODEL, ROWS, Known, Request, addresses
from tasks.sources.request import matches

pytestmark = pytest.mark.usefixtures("home")

BODY = b'{"content": "a", "summary": "b"}\n'
SHA256 = hashlib.sha256(BODY).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything of this test is kept."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with rows, and with what does not count."""
    files = {
        "train.json": BODY,
        "DEV.CSV": b"a,b\n",
        "Test/part-0.parquet": BODY,
        "data/more.jsonl.gz": BODY,
        "data/deeper/x.json": BODY,
        "other/x.json": BODY,
        ".hidden.json": BODY,
        ".git/x.json": BODY,
        "README.md": BODY,
    }
    for name, body in files.items():
        path = tmp_path / "rows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return tmp_path / "rows"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    """A running server."""
    monkeypatch.setenv("NO_PROXY", "*")
    with flaky_server.running() as running:
        yield running


def asked(uri: str | Path, **more: object) -> Request:
    return Request(str(uri), **({"patterns": ROWS, "where": "source.uri"} | more))  # type: ignore[arg-type]


# Files and folders.


def test_of_a_folder_the_files_that_count_are_copied(folder: Path, into: Path) -> None:
    arrival = sources.fetch(asked(folder), into)
    assert arrival.names == ("DEV.CSV", "Test/part-0.parquet", "data/more.jsonl.gz", "train.json")
    for name in arrival.names:
        assert (into / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}", "FILE://{}"])
def test_one_file_is_taken_whatever_its_name(tmp_path: Path, into: Path, form: str) -> None:
    odd = tmp_path / "my rows#1?.backup"
    odd.write_bytes(BODY)
    assert sources.fetch(asked(form.format(odd)), into).names == (odd.name,)
    assert (into / odd.name).read_bytes() == BODY


def test_a_file_address_is_percent_decoded(tmp_path: Path, into: Path) -> None:
    (tmp_path / "广 告.json").write_bytes(BODY)
    uri = (tmp_path / "广 告.json").as_uri()
    assert "%20" in uri
    assert sources.fetch(asked(uri), into).names == ("广 告.json",)


def test_a_large_file_is_copied_exactly_and_with_progress(tmp_path: Path, into: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(140 << 20)
        file.seek(100 << 20)
        file.write(BODY)
    told: list[tuple[int, int]] = []
    sources.fetch(asked(large), into, progress=lambda done, total: told.append((done, total)))
    assert store.file_digest(into / "large.json") == store.file_digest(large)
    assert len(told) >= 3
    assert told == sorted(told)
    assert told[-1] == (140 << 20, 140 << 20)


def test_a_file_is_copied_where_the_kernel_cannot(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.json").write_bytes(BODY * 1000)
    monkeypatch.delattr(os, "copy_file_range")
    sources.fetch(asked(tmp_path / "train.json"), into)
    assert (into / "train.json").read_bytes() == BODY * 1000


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "nowhere/at/all",
            r"no such file or folder \(found 'nowhere/at/all'\)\. Check the spelling",
        ),
        ("file:///nowhere", r"no such file or folder \(found 'file:///nowhere'\)"),
        (
            "file://rows/x.json",
            r"file:// names another machine .*Write file:///path with three slashes",
        ),
        ("~nobody-of-this-name/x", r"no.* \(found '~nobody-of-this-name/x'"),
        ("x" * 5000, r"not a path of this machine"),
        ("a\0b", r"no"),
        ("/dev/null", r"neither a file nor a folder"),
        (
            "ftp://host/x",
            r"ftp:// is not read \(found 'ftp://host/x'\)\. Give a path, or an address that begins with",
        ),
        ("gs://bucket/x", r"gs:// is not read"),
    ],
)
def test_a_path_that_cannot_be_read_is_refused_in_a_sentence(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^source\.uri: {message}"):
        sources.check(asked(uri))


def test_a_folder_without_rows_lists_what_is_there(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no file to read .*\(found README\.md, x\.json in .*\*\.safetensors"
    ):
        for name in ("train.json", "DEV.CSV"):
            (folder / name).unlink()
        (folder / "x.json").write_bytes(BODY)
        sources.check(asked(folder, patterns=("*.safetensors",)))


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("train.json", b"", r"train\.json is empty .*Give a file with content"),
        ("record.json", b"{}", r"record\.json is the store's own name .*Rename the file"),
        ("data/record.json", b"{}", r"record\.json is the store's own name"),
    ],
)
def test_a_file_that_would_go_unnoticed_is_refused(
    folder: Path, name: str, body: bytes, message: str
) -> None:
    (folder / name).write_bytes(body)
    with pytest.raises(ConfigError, match=rf"^source\.uri: {message}"):
        sources.check(asked(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["train.json", "data", "."])
def test_what_may_not_be_read_is_said(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    try:
        with pytest.raises(ConfigError, match=r"cannot be read.*Give this user the right"):
            sources.check(asked(folder))
    finally:
        (folder / name).chmod(0o700)


def test_the_expected_digest_of_a_path_is_looked_at(folder: Path, into: Path) -> None:
    assert sources.fetch(asked(folder / "train.json", sha256=SHA256), into).names == ("train.json",)
    with pytest.raises(DataError, match=rf"^source\.sha256: .*found {SHA256}, expected 0{{64}}"):
        sources.fetch(asked(folder / "train.json", sha256="0" * 64), into)
    with pytest.raises(
        ConfigError, match=r"^source\.sha256: a digest is of one file \(found 4 files\)"
    ):
        sources.fetch(asked(folder, sha256=SHA256), into)


# What all places share.


@pytest.mark.parametrize(
    ("name", "rows", "model"),
    [
        ("train.json", True, True),
        ("TRAIN.JSONL", True, False),
        ("a.tar.gz", True, False),
        ("validation/x.csv", True, False),
        ("Data/x.parquet", True, False),
        ("data/x.safetensors", False, False),
        ("data/config.json", True, False),
        ("original/config.json", False, False),
        ("train/.x.json", False, False),
        (".train/x.json", False, False),
        ("a/b/c.json", False, False),
        ("model-00001-of-00002.safetensors", False, True),
        ("pytorch_model-00001-of-00007.bin", False, True),
        ("training_args.bin", False, False),
        ("ice_text.model", False, True),
        ("modeling_chatglm.py", False, False),
        ("vocab.txt", True, True),
        ("notes.md", False, False),
        ("", False, False),
    ],
)
def test_a_file_counts_by_its_name(name: str, rows: bool, model: bool) -> None:
    assert matches(name, ROWS) is rows
    assert matches(name, MODEL) is model


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model-00002-of-00002.bin", "pytorch_model.bin"], None),
        (["Model.SafeTensors", "PyTorch_model.bin"], ["Model.SafeTensors"]),
        (["optimizer.bin", "pytorch_model.bin", "x.py"], ["pytorch_model.bin"]),
        (["config.json", "pytorch_model.bin.index.json", "tokenizer.model"], None),
    ],
)
def test_weights_are_taken_in_one_format_only(
    tmp_path: Path, there: list[str], taken: list[str] | None
) -> None:
    for name in there:
        (tmp_path / name).write_bytes(b"x")
    found = sources.files(str(tmp_path), MODEL, "base.uri")
    assert [path.name for path in found] == sorted(taken or there)


@pytest.mark.parametrize(
    ("uri", "sha256", "pinned"),
    [
        ("deployments/sample", "", True),
        ("file:///x", "", True),
        ("https://h/x", "", False),
        ("https://h/x", SHA256, True),
        ("s3://b/x", "", False),
        ("s3://b/x", SHA256, True),
        ("hf://datasets/a/b@main", "", False),
        (f"hf://datasets/a/b@{COMMIT}", "", True),
        (f"hf://a/b@{COMMIT}/x", "", True),
        (f"hf://a/b@{COMMIT[:-1]}", "", False),
    ],
)
def test_an_address_is_pinned_when_it_can_only_mean_the_same_bytes(
    uri: str, sha256: str, pinned: bool
) -> None:
    assert sources.pinned(uri, sha256) is pinned


def test_a_path_is_identified_by_names_and_content(folder: Path, tmp_path: Path) -> None:
    first = sources.identity(asked(folder))
    folder.rename(tmp_path / "moved")
    assert sources.identity(asked(tmp_path / "moved")) == first
    (tmp_path / "moved" / "notes.md").write_bytes(b"does not count")
    assert sources.identity(asked(tmp_path / "moved")) == first
    (tmp_path / "moved" / "train.json").rename(tmp_path / "moved" / "data" / "train.json")
    assert sources.identity(asked(tmp_path / "moved")) != first


def test_an_address_is_identified_without_its_credentials() -> None:
    signed = "https://user:pw@Host/train.json?v=2&X-Amz-Signature=a&X-Amz-Date=b"
    assert sources.identity(asked(signed)) == {"uri": "https://host/train.json?v=2", "sha256": ""}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mirrors": ("https://h/x",)}, r"^source\.mirrors: only an http\(s\) address has mirrors"),
        ({"sha256": "ABC"}, r"^source\.sha256: not a SHA-256 \(found 'ABC'\)"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    folder: Path, more: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sources.check(asked(folder, **more))


def test_what_is_known_is_known_of_that_request_alone(home: Path) -> None:
    request = asked("https://user:pw@h/x?token=abc")
    Known("tag", "{}").keep(request)
    assert Known.of(request) == Known("tag", "{}")
    assert Known.of(asked("https://h/x?token=abc")) == Known("tag", "{}")
    for other in (
        asked("https://h/y"),
        asked("https://h/x?token=other"),
        asked(request.uri, patterns=MODEL),
        asked(request.uri, sha256=SHA256),
        asked(request.uri, mirrors=("https://h/z",)),
        asked(request.uri, s3=S3Access(endpoint="https://e")),
    ):
        assert Known.of(other) is None
    (note,) = (home / "downloads").iterdir()
    for harm in ("{", "[]", '{"tag": 1, "artifact": "x"}', '{"tag": "x"}'):
        note.write_text(harm)
        assert Known.of(request) is None


# Names and addresses from strangers.

ANYTHING = (
    st.text()
    | st.text("./\\\0\n ~:*?\"'<>|%2F广é\u202e-_", max_size=40)
    | st.text("a.", min_size=100)
)


@given(ANYTHING)
@example("record.json")
@example("../../RECORD.JSON")
@example("广" * 100 + ".tar.gz")
@example("..")
def test_a_safe_name_is_one_visible_file(name: str) -> None:
    safe = addresses.safe(name)
    assert safe
    assert (Path("/into") / safe).name == safe
    assert not safe.startswith(".")
    assert safe.lower() != store.RECORD
    assert len(safe.encode()) <= 120
    assert all(character.isalnum() or character in "_.-" for character in safe)
    assert addresses.safe(safe) == safe


@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: f'attachment; filename="{text}"'.encode())
)
@example(b"attachment; filename*=utf-8''%ff")
@example(b"filename")
@example(b'attachment; filename="' + b"\\" * 99)
@example(b";" * 200)
def test_any_disposition_can_be_read(header: bytes) -> None:
    assert addresses.safe(addresses.disposition(header))


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"attachment", ""),
        (b"inline; filename=a b.json", "a b.json"),
        (b'attachment; filename="a\\"b;c.json"; size=3', 'a"b;c.json'),
        (b"filename=x.csv", "x.csv"),
        (b"attachment; FileName=x.csv", "x.csv"),
        (b"attachment; filename=a.json; filename*=UTF-8'en'b%20c.json", "b c.json"),
        (b"attachment; filename*=bogus''x; filename=y.json", "y.json"),
        (b"attachment; filename*=utf-8''%ff; filename=y.json", "y.json"),
        (b"attachment; filename*=gb18030''%b9%e3.json", "广.json"),
        ('attachment; filename="广告.gz"'.encode(), "广告.gz"),
        (b'attachment; filename="r\xe9sum\xe9.json"', "résumé.json"),
        (b'attachment; filename="%E5%B9%BF.json"', "广.json"),
        (b'attachment; filename="100%.json"', "100%.json"),
        (b"attachment; filename=a.json; filename=b.json", "a.json"),
    ],
)
def test_a_disposition_gives_a_name(header: bytes, name: str) -> None:
    assert addresses.disposition(header) == name


@given(st.sampled_from(["http://", "https://", "HTTPS://"]), st.text(max_size=60))
def test_no_address_is_too_odd_to_be_shown_or_kept(scheme: str, rest: str) -> None:
    addresses.shown(scheme + rest)
    addresses.fingerprint(scheme + rest)


SECRETS = [
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Goog-Signature",
    "Signature",
    "AWSAccessKeyId",
    "OSSAccessKeyId",
    "q-signature",
    "q-sign-time",
    "sig",
    "token",
    "access_token",
    "api_key",
    "key",
    "auth",
    "password",
    "X-Auth-Token",
    "private_token",
]


@pytest.mark.parametrize("name", SECRETS)
def test_what_is_secret_in_an_address_is_not_shown(name: str) -> None:
    for written in (name, name.lower(), name.replace("-", "%2D")):
        uri = f"https://us:er@host:81/a/b?x=1&{written}=s3cret&y=2#frag"
        assert addresses.shown(uri) == "https://host:81/a/b?x=1&y=2"


def test_what_decides_the_content_stays_in_an_address() -> None:
    uri = "https://host/a%20b/?id=1&export=download&se=sv&monkey=2&v"
    assert addresses.shown(uri) == uri
    assert addresses.shown("s3://bucket/a@b?c") == "s3://bucket/a@b?c"


# The step.


@pytest.mark.usefixtures("quiet_logs")
def test_an_unpinned_address_is_asked_again_but_not_sent_again(server: FlakyServer) -> None:
    source = SourceConfig(uri=server.put("/train.json", File(BODY)))
    assert not source.pinned
    first, again = fetch.fn(source), fetch.fn(source)
    assert first == again
    assert first.files == ("train.json",)
    assert [each.headers["If-None-Match"] for each in server.asked] == [None, '"v1"']


@pytest.mark.usefixtures("quiet_logs")
def test_what_is_gone_from_the_store_is_sent_again(server: FlakyServer, home: Path) -> None:
    source = SourceConfig(uri=server.put("/train.json", File(BODY)))
    raw = fetch.fn(source)
    (home / "store").rename(home / "lost")
    assert fetch.fn(source) == raw
    assert [each.headers["If-None-Match"] for each in server.asked] == [None, None]


def test_a_folder_of_the_store_is_read_without_its_record(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("{}")
    record = tmp_path / "record.json"
    record.write_text('{"digest": "d", "files": [], "made": {}}')
    found = sources.files(str(tmp_path), sources.ROWS, "source.uri")
    assert [path.name for path in found] == ["train.json"]
    record.write_text('{"content": "rows of somebody"}')
    with pytest.raises(ConfigError, match="Rename the file"):
        sources.files(str(tmp_path), sources.ROWS, "source.uri")
