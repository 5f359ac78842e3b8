"""From files to a dataset: every row is taken as it is, or refused with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import plugins, store
from tasks.artifacts import Dataset
from tasks.config import DataConfig, SourceConfig, StoreConfig
from tasks.data import convert, fetch, stage
from tasks.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("home", "quiet_logs")

ROW = {"content": "类型#裙*颜色#白色", "summary": "一条白色的裙子。"}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SourceConfig]:
    """Writes files into a source folder and returns its configuration."""

    def write(**files: str | bytes) -> SourceConfig:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            path = folder / name.replace("__", ".")
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return SourceConfig(uri=str(folder))

    return write


def dataset(source: SourceConfig, **config: object) -> Dataset:
    return convert.fn(fetch.fn(source), DataConfig.model_validate(config))


def rows(data: Dataset, split: str) -> list[dict[str, object]]:
    text = (store.resolve(data.uri) / f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_rows_become_messages_in_their_order(make: Callable[..., SourceConfig]) -> None:
    other = {"content": "类型#裤", "summary": "一条裤子。"}
    data = dataset(make(train__json=lines(ROW, other), dev__json=lines(other)))
    assert data.records == {"train": 2, "dev": 1}
    assert [row["messages"][0]["content"] for row in rows(data, "train")] == [  # type: ignore[index]
        ROW["content"],
        other["content"],
    ]
    assert rows(data, "dev") == [
        {
            "messages": [
                {"role": "user", "content": "类型#裤"},
                {"role": "assistant", "content": "一条裤子。"},
            ]
        }
    ]


def test_a_json_array_and_a_byte_order_mark_are_read_alike(
    make: Callable[..., SourceConfig],
) -> None:
    plain = dataset(make(train__json=lines(ROW, ROW), dev__json=lines(ROW)))
    array = json.dumps([ROW, ROW], ensure_ascii=False, indent=2)
    other = make(train__json=array, dev__json=b"\xef\xbb\xbf" + lines(ROW).encode())
    assert dataset(other).digest == plain.digest


def test_one_file_alone_is_split_by_prompt_and_stays_split_when_rows_are_added(
    make: Callable[..., SourceConfig],
) -> None:
    many = [{"content": f"类型#{n // 2}", "summary": f"第{n}条"} for n in range(200)]
    data = dataset(make(ads__jsonl=lines(*many)))

    def prompts(of: Dataset, split: str) -> set[str]:
        return {row["messages"][0]["content"] for row in rows(of, split)}  # type: ignore[index]

    assert sum(data.records.values()) == 200
    assert data.records["dev"] == 20
    assert not prompts(data, "train") & prompts(data, "dev")
    longer = dataset(make(ads__jsonl=lines(*many, *many[:1])))
    assert prompts(longer, "dev") >= prompts(data, "dev")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(ROW, {"content": "x", "sumary": "y"}), 'train.json:2: no field "summary" (found: '),
        (lines({"content": 3, "summary": "y"}), 'train.json:1: field "content" must be text'),
        (lines({"content": "x", "summary": " "}), 'train.json:1: field "summary" is blank'),
        (lines(ROW) + "{oops\n", "train.json:2: not JSON in UTF-8"),
        (lines(ROW) + "[1]\n", "train.json:2: a row must be an object (found: list)"),
        ('{"content": "\\ud83d", "summary": "y"}', "train.json:1: not JSON in UTF-8"),
        ("<!DOCTYPE html><html>", "train.json:1: this is a web page"),
        ("[1, 2]", "train.json:[0]: a row must be an object"),
        ("\n\n", "split train has no rows"),
    ],
)
def test_a_malformed_row_is_named_with_its_place(
    make: Callable[..., SourceConfig], text: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        dataset(make(train__json=text, dev__json=lines(ROW)))
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


def test_gbk_is_refused_and_not_guessed(make: Callable[..., SourceConfig]) -> None:
    source = make(train__json=lines(ROW).encode("gbk"), dev__json=lines(ROW))
    with pytest.raises(DataError, match=r"train\.json:1: not JSON in UTF-8"):
        dataset(source)


def test_dev_rows_without_training_rows_are_refused(make: Callable[..., SourceConfig]) -> None:
    with pytest.raises(DataError, match=r"no training file \(found: dev\.json\)"):
        dataset(make(dev__json=lines(ROW)))


def test_the_limit_takes_training_rows_only(make: Callable[..., SourceConfig]) -> None:
    source = make(train__json=lines(*[ROW] * 5), dev__json=lines(*[ROW] * 4))
    assert dataset(source, limit=2).records == {"train": 2, "dev": 4}


def test_another_expected_digest_is_refused(make: Callable[..., SourceConfig]) -> None:
    source = make(train__json=lines(ROW))
    file = Path(source.uri) / "train.json"
    right = store.file_digest(file)
    assert fetch.fn(SourceConfig(uri=str(file), sha256=right)).files == ("train.json",)
    with pytest.raises(DataError, match=rf"source\.sha256: .*found {right}"):
        fetch.fn(SourceConfig(uri=str(file), sha256="0" * 64))


def test_staging_into_another_store_keeps_the_digest_and_can_be_repeated(
    make: Callable[..., SourceConfig], tmp_path: Path
) -> None:
    data = dataset(make(train__json=lines(ROW), dev__json=lines(ROW)))
    elsewhere = StoreConfig(uri=str(tmp_path / "elsewhere"))
    staged, again = stage.fn(data, elsewhere), stage.fn(data, elsewhere)
    assert staged == again
    assert staged.digest == data.digest
    assert staged.uri.startswith(elsewhere.uri)
    assert stage.fn(staged, elsewhere) == staged


def test_an_artifact_cannot_be_built_on_bytes_that_are_not_there(
    make: Callable[..., SourceConfig],
) -> None:
    data = dataset(make(train__json=lines(ROW), dev__json=lines(ROW)))
    (store.resolve(data.uri) / "dev.jsonl").write_text("")
    with pytest.raises(ValueError, match="its files are not those of the record"):
        Dataset.model_validate(data.model_dump())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nowhere.json", r"source\.uri: no such file or folder \(found 'nowhere\.json'\)"),
        ("s3://bucket/rows", r"source\.uri: s3:// is not read"),
    ],
)
def test_a_source_that_is_not_there_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch.fn(SourceConfig(uri=uri))


class TestEveryFormat:
    """The contract of `tasks/formats`, for each file that is there."""

    @pytest.fixture(params=plugins.names("formats"))
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_it_says_what_it_needs_and_refuses_what_lacks_it(self, name: str) -> None:
        chosen = plugins.load("formats", name)
        assert chosen.FIELDS
        assert chosen.__doc__
        with pytest.raises(ValueError, match=r"\(found: .+\)"):
            chosen.messages({})

    def test_it_is_a_choice_of_the_configuration(self, name: str) -> None:
        assert DataConfig.model_validate({"format": name}).format == name


def test_chat_messages_must_alternate_and_end_with_the_assistant() -> None:
    chosen = plugins.load("formats", "messages")
    user, told = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    system = {"role": "system", "content": "s"}
    assert chosen.messages({"messages": [system, user, told]}) == [system, user, told]
    for wrong in ([], [user], [told, user], [user, user, told], [user, system, told], ["x"]):
        with pytest.raises(ValueError, match=r"\(found: "):
            chosen.messages({"messages": wrong})
