"""Repositories of a Hub on this machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import flaky_server
import pytest
from flaky_server import File, FlakyServer
from hub_server import REFUSED, Repository, commit_of
from s3_servers import certify

from tasks import models
from tasks.errors import ConfigError, DataError, TransientError
from tasks.sources import MODEL, ROWS, Arrival, Request, hf, pinned
from tasks.sources.hub import Place
from tasks.sources.patience import Patience

SMALL = b'{"content": "a", "summary": "b"}\n'
LARGE = random.Random(17).randbytes(120_000)
ONE, TWO = commit_of("one"), commit_of("two")


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of nobody: to load those of the world costs each client 30 ms."""
    certificate, _ = certify(tmp_path_factory.mktemp("nobody"))
    return certificate


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what arrives half is kept."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server(home: Path, nobody: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    """A running server, which is the Hub for this test."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SSL_CERT_FILE", str(nobody))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with flaky_server.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url("/"))
        yield running


@pytest.fixture
def data(server: FlakyServer) -> Repository:
    """A data set of one commit."""
    repository = Repository(server)
    repository.push(
        "main",
        ONE,
        **{
            "train.json": LARGE,
            "dev.json": SMALL,
            "README.md": b"# hello",
            ".gitattributes": b"x",
            "data__part-0.parquet": SMALL + b"0",
            "other__train.json": SMALL,
            "a__b__train.json": SMALL,
        },
    )
    return repository


def fetch(uri: str, into: Path, tag: str = "", **more: object) -> Arrival:
    folder = into / f"into-{len(list(into.iterdir()))}"
    folder.mkdir()
    request = Request(uri, **({"patterns": ROWS, "where": "source.uri"} | more))  # type: ignore[arg-type]
    arrival = hf.fetch(request, folder, tag, patience=Patience(sleep=lambda _: None))
    assert sorted(arrival.names) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    return arrival


def test_the_files_that_count_arrive_and_the_tag_is_the_commit(
    data: Repository, tmp_path: Path, home: Path
) -> None:
    arrival = fetch("hf://datasets/org/name", tmp_path)
    assert arrival == Arrival(("data/part-0.parquet", "dev.json", "train.json"), ONE)
    (train,) = tmp_path.glob("into-*/train.json")
    assert train.read_bytes() == LARGE
    assert not list((home / "downloads").iterdir())


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("train.json", ("train.json",)),
        ("other/train.json", ("train.json",)),
        ("README.md", ("README.md",)),
        ("other", ("train.json",)),
        ("data/", ("part-0.parquet",)),
        ("a/b", ("train.json",)),
    ],
)
def test_a_file_or_a_folder_of_it_can_be_meant(
    data: Repository, tmp_path: Path, path: str, names: tuple[str, ...]
) -> None:
    assert fetch(f"hf://datasets/org/name@main/{path}", tmp_path).names == names


@pytest.mark.parametrize("uri", ["hf://org/name", "hf://models/org/name", f"hf://org/name@{ONE}"])
def test_a_model_is_its_files_in_the_transformers_layout(
    server: FlakyServer, tmp_path: Path, uri: str
) -> None:
    model = Repository(server, kind="model")
    model.push(
        "main",
        ONE,
        **{
            "config.json": SMALL,
            "model.safetensors": LARGE,
            "pytorch_model.bin": LARGE,
            "original__config.json": SMALL,
        },
    )
    arrival = fetch(uri, tmp_path, patterns=MODEL, where="base.uri")
    assert arrival.names == ("config.json", "model.safetensors")


def test_a_model_that_has_no_safetensors_is_fetched_without_its_code(
    server: FlakyServer, tmp_path: Path
) -> None:
    model = Repository(server, kind="model")
    names = (
        *("config.json", "ice_text.model", "pytorch_model-00001-of-00002.bin"),
        *("pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"),
    )
    code = ("modeling_chatglm.py", "quantization.py", "training_args.bin")
    model.push("main", ONE, **dict.fromkeys((*names, *code), SMALL))
    (tmp_path / "to").mkdir()
    arrival = fetch("hf://org/name", tmp_path / "to", patterns=MODEL, where="base.uri")
    assert arrival.names == names
    models.check(tmp_path / "to" / "into-0", arrival.names)


def test_the_same_commit_is_not_sent_again_and_a_new_one_is(
    data: Repository, tmp_path: Path
) -> None:
    uri = "hf://datasets/org/name/train.json"
    tag = fetch(uri, tmp_path).tag
    assert fetch(uri, tmp_path, tag) == Arrival((), ONE)
    assert data.fetched() == ["train.json"]
    data.push("main", TWO, **{"train.json": SMALL})
    assert fetch(uri, tmp_path, tag) == Arrival(("train.json",), TWO)


def test_a_branch_that_moves_between_two_files_mixes_nothing(
    data: Repository, tmp_path: Path
) -> None:
    data.files["dev.json"].cuts = [5]

    def move(_: float) -> None:
        data.push("main", TWO, **{"train.json": b"other", "dev.json": b"other"})

    request = Request("hf://datasets/org/name", ROWS, "source.uri")
    arrival = hf.fetch(request, tmp_path, patience=Patience(sleep=move))
    assert arrival.tag == ONE
    assert (tmp_path / "train.json").read_bytes() == LARGE


@pytest.mark.parametrize(
    ("revision", "known"),
    [
        ("main", False),
        ("v1.0", False),
        (ONE, True),
        (ONE[:10], False),
        ("refs/convert/parquet", False),
    ],
)
def test_a_revision_is_pinned_only_when_it_is_a_commit(
    data: Repository, tmp_path: Path, revision: str, known: bool
) -> None:
    data.push(revision, ONE, **{"train.json": SMALL})
    uri = f"hf://datasets/org/name@{revision}/train.json"
    assert pinned(uri, "") is known
    assert fetch(uri, tmp_path).tag == ONE


def test_a_second_try_fetches_only_what_is_missing(data: Repository, tmp_path: Path) -> None:
    data.files["train.json"].cuts = [1000, 0, 0]
    with pytest.raises(TransientError, match="1,000 of 120,000 bytes are here and kept"):
        fetch("hf://datasets/org/name", tmp_path)
    asked = data.fetched()
    assert fetch("hf://datasets/org/name", tmp_path).tag == ONE
    assert data.fetched()[len(asked) :] == ["train.json"]
    assert data.server.starts()[-1] == 1000


@pytest.mark.parametrize("path", ["train.json", "dev.json"], ids=["sha256", "git"])
def test_bytes_that_are_not_those_of_the_commit_are_thrown_away(
    data: Repository, tmp_path: Path, path: str
) -> None:
    file = data.files[path]
    right, file.body = file.body, bytes(reversed(file.body))
    uri = f"hf://datasets/org/name/{path}"
    with pytest.raises(TransientError, match="other bytes came than the commit has"):
        fetch(uri, tmp_path)
    file.body = right
    assert fetch(uri, tmp_path).names == (path,)


def test_progress_is_that_of_all_files(data: Repository, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    request = Request("hf://datasets/org/name", ROWS, "source.uri")
    hf.fetch(request, tmp_path, progress=lambda done, total: told.append((done, total)))
    whole = len(LARGE) + 2 * len(SMALL) + 1
    assert told[-1] == (whole, whole)
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("why", "message"),
    [
        (
            "private",
            r"there is none of this name, or it is private \(found status 401\).*HF_TOKEN.*\(none is set\)",
        ),
        ("missing", r"there is none of this name, or it is private \(found status 404\)"),
        (
            "gated",
            r"may not be read \(found status 403\)\. Accept its terms at http.*/datasets/org/name",
        ),
        ("revision", r"no such revision \(found main\)\. Give a branch, a tag or a commit"),
        ("token", r"the Hub does not know this token"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    data: Repository, tmp_path: Path, why: str, message: str
) -> None:
    data.refuse("main", *REFUSED[why][:2])
    with pytest.raises(ConfigError, match=rf"^source\.uri: dataset org/name: {message}"):
        fetch("hf://datasets/org/name", tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_busy_is_worth_another_try(
    data: Repository, tmp_path: Path, status: int
) -> None:
    data.refuse("main", status, {})
    with pytest.raises(
        TransientError, match=rf"^source\.uri: dataset org/name: http.*answered {status}"
    ):
        fetch("hf://datasets/org/name", tmp_path)


def test_a_hub_that_falls_silent_or_is_not_there_is_worth_another_try(
    data: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.server.files[data.api("main")].stalls = [3]
    request = Request("hf://datasets/org/name", ROWS, "source.uri")
    with pytest.raises(TransientError, match=r"nothing came for 0\.3 s"):
        hf.fetch(request, tmp_path, patience=Patience(stall_seconds=0.3))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="refused"):
        hf.fetch(request, tmp_path)


def test_gated_files_need_the_token_and_get_it(
    server: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository(server, token="hf_right").push("main", ONE, **{"train.json": SMALL})
    with pytest.raises(
        ConfigError, match=r"found status 403 for http.*set HF_TOKEN to a token.*\(none is set\)"
    ):
        fetch("hf://datasets/org/name", tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match=r"\(the one that is set may not\)") as refused:
        fetch("hf://datasets/org/name", tmp_path)
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert fetch("hf://datasets/org/name", tmp_path).names == ("train.json",)


def test_the_token_does_not_follow_a_file_to_where_it_is_kept(
    data: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with flaky_server.running() as store:
        away = store.put("/blob/3f2a", File(LARGE))
        data.files["train.json"].first = [(302, {"Location": away}, b"")]
        assert fetch("hf://datasets/org/name/train.json", tmp_path).names == ("train.json",)
        assert data.server.asked[-1].headers["Authorization"] == "Bearer hf_secret"
        assert "Authorization" not in store.asked[0].headers


@pytest.mark.parametrize(
    "answer", [b"<!doctype html>", b"[]", b"{}", b'{"sha": "x"}', b"null", b'{"sha": null}']
)
def test_what_is_no_hub_is_said(data: Repository, tmp_path: Path, answer: bytes) -> None:
    data.server.put(data.api("main"), File(answer))
    with pytest.raises(
        ConfigError, match=r"does not answer as a Hub does \(found .*Check HF_ENDPOINT"
    ):
        fetch("hf://datasets/org/name", tmp_path)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_hub_is_left_alone_when_the_environment_says_so(
    data: Repository, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(
        ConfigError, match=rf"must not be reached \(found {name}=1\)\. Unset it, or give the path"
    ):
        hf.check(Request("hf://datasets/org/name", ROWS, "source.uri"))
    assert data.server.asked == []


@pytest.mark.parametrize(
    "uri",
    [
        "hf://datasets/name",
        "hf://name",
        "hf://spaces/org/name",
        "hf://",
        "hf://datasets/org/na me",
        "hf://datasets/org/name@",
    ],
)
def test_an_address_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^source\.uri: not an address of the Hub .*Write hf://datasets/org/name@",
    ):
        hf.check(Request(uri, ROWS, "source.uri"))


def test_an_address_is_read_in_its_parts() -> None:
    place = Place.of("hf://datasets/a/b@refs/pr/1/x/y.json", "source.uri")
    assert (place.kind, place.repo, place.revision, place.path) == (
        "dataset",
        "a/b",
        "refs/pr/1",
        "x/y.json",
    )
    assert Place.of("hf://a/b@feature%2Fx", "").revision == "feature/x"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "nothing.json",
            r"no such file or folder at main \(found nothing\.json\)\. Look at http.*/tree/main",
        ),
        ("a", r"no file to read in the folder \(found b/train\.json in hf://"),
    ],
)
def test_a_path_with_nothing_to_read_is_said(
    data: Repository, tmp_path: Path, path: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch(f"hf://datasets/org/name/{path}", tmp_path)


def test_an_empty_file_is_refused(data: Repository, tmp_path: Path) -> None:
    data.push("main", TWO, **{"train.json": b""})
    with pytest.raises(DataError, match="the download is empty"):
        fetch("hf://datasets/org/name", tmp_path)


def test_names_from_outside_stay_inside(data: Repository, tmp_path: Path, home: Path) -> None:
    data.push(
        "main",
        TWO,
        **{
            "..\\..\\x.json": SMALL,
            "x\\..\\y.json": SMALL,
            "record.json": SMALL,
            "data__..x.json": SMALL,
            "a b.json": SMALL,
        },
    )
    arrival = fetch("hf://datasets/org/name", tmp_path)
    assert set(arrival.names) == {"_record.json", "a_b.json", "y.json"}
    data.push("main", ONE, **{"a b.json": SMALL, "a?b.json": SMALL})
    with pytest.raises(
        DataError, match=r"two files have the same name here \(found 'a b\.json' and 'a\?b\.json'"
    ):
        fetch("hf://datasets/org/name", tmp_path)


def test_an_expected_digest_is_of_one_file(data: Repository, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^source\.sha256: a digest is of one file \(found 3 files\)"
    ):
        fetch("hf://datasets/org/name", tmp_path, sha256="0" * 64)
    assert data.fetched() == []
    with pytest.raises(DataError, match=r"^source\.sha256: the source is not the expected one"):
        fetch("hf://datasets/org/name/dev.json", tmp_path, sha256="0" * 64)
