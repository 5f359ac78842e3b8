"""From files to a dataset: every row is kept, a duplicate, or rejected with its place."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import conversion, store
from tasks.artifacts import Dataset
from tasks.config import DataConfig, SourceConfig, StoreConfig
from tasks.data import convert, fetch, stage
from tasks.errors import ConfigError, DataError
from tasks.ledger import Ledger

pytestmark = pytest.mark.usefixtures("home", "quiet_logs")

REAL = Path(__file__).parents[2] / "shared" / "data" / "advertisegen"
ROW = {"content": "类型#裙*颜色#白色", "summary": "一条白色的裙子。"}
Make = Callable[..., SourceConfig]


def ad(number: int) -> dict[str, str]:
    return {"content": f"类型#裙*编号#{number}", "summary": f"第{number}条裙子，各有各的好看。"}


def ads(*numbers: int) -> list[dict[str, str]]:
    return [ad(number) for number in numbers]


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def make(tmp_path: Path) -> Make:
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


def read(data: Dataset, name: str) -> list[dict[str, Any]]:
    text = (store.resolve(data.uri) / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def ledger(data: Dataset) -> Ledger:
    return Ledger.read(store.resolve(data.uri))


def prompts(data: Dataset, split: str) -> list[str]:
    return [row["messages"][0]["content"] for row in read(data, f"{split}.jsonl")]


def test_rows_become_messages_in_their_order(make: Make) -> None:
    data = dataset(make(train__json=lines(*ads(1, 2)), dev__json=lines(ad(3))))
    assert data.records == {"train": 2, "dev": 1}
    assert data.format == "advertisegen"
    assert prompts(data, "train") == [ad(1)["content"], ad(2)["content"]]
    assert read(data, "dev.jsonl") == [
        {
            "messages": [
                {"role": "user", "content": ad(3)["content"]},
                {"role": "assistant", "content": ad(3)["summary"]},
            ]
        }
    ]


def test_how_rows_lie_in_a_file_does_not_change_what_is_trained(make: Make) -> None:
    plain = dataset(make(train__json=lines(*ads(1, 2)), dev__json=lines(ad(3))))
    array = json.dumps(ads(1, 2), ensure_ascii=False, indent=2)
    other = dataset(make(train__json=array, dev__json=b"\xef\xbb\xbf" + lines(ad(3)).encode()))
    assert other.digest != plain.digest
    assert other.identity() == plain.identity()
    assert [file.encoding for file in ledger(other).files] == ["utf-8 with BOM", "utf-8"]


def test_a_table_from_a_windows_desk_is_read(make: Make) -> None:
    table = "content,summary\r\n" + "".join(
        f'{row["content"]},"{row["summary"]}"\r\n' for row in ads(1, 2)
    )
    source = make(train__csv=table.encode("gbk"), dev__json=lines(ad(3)))
    data = dataset(source)
    plain = dataset(make(train__csv=table, dev__json=lines(ad(3))))
    assert data.identity() == plain.identity()
    account = ledger(data).files[-1]
    assert (account.container, account.encoding) == ("CSV", "gb18030")


def test_each_file_has_a_format_of_its_own(make: Make) -> None:
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    data = dataset(make(train__json=lines(*ads(1, 2)), dev__json=lines(chat)))
    assert [file.format for file in ledger(data).files] == ["messages", "advertisegen"]
    assert data.format == "advertisegen, messages"


def test_columns_may_have_names_of_their_own(make: Make) -> None:
    rows = [{"词": f"类型#{n}", "文案": f"文{n}", "response": "no"} for n in range(4)]
    columns = {"prompt": "词", "response": "文案"}
    data = dataset(make(train__json=lines(*rows[:3]), dev__json=lines(rows[3])), columns=columns)
    assert prompts(data, "train") == ["类型#0", "类型#1", "类型#2"]
    assert read(data, "dev.jsonl")[0]["messages"][1]["content"] == "文3"
    with pytest.raises(DataError, match=r'train\.json:2: no field "文案" \(found: 词\)'):
        dataset(make(train__json=lines(rows[0], {"词": "x"})), columns=columns)
    with pytest.raises(DataError, match=r'train\.json:1: .*"文案"'):
        dataset(make(train__json=lines({"词": "x", "文案": 3})), columns=columns)


def test_columns_belong_to_pairs_alone() -> None:
    with pytest.raises(ValueError, match="only the format pairs has columns"):
        DataConfig.model_validate({"format": "alpaca", "columns": {"prompt": "x"}})


def test_an_archive_is_read_where_it_lies(tmp_path: Path) -> None:
    for name, rows in (("train", ads(1, 2)), ("dev", ads(3))):
        (tmp_path / f"{name}.json").write_text(lines(*rows), encoding="utf-8")
    path = tmp_path / "AdvertiseGen.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("train", "dev"):
            archive.add(tmp_path / f"{name}.json", f"../../AdvertiseGen/{name}.json")
    data = dataset(SourceConfig(uri=str(path)))
    assert data.records == {"train": 2, "dev": 1}
    assert [file.file.partition(":")[0] for file in ledger(data).files] == [path.name] * 2
    assert not (tmp_path.parent / "AdvertiseGen").exists()


def test_dev_rows_may_lie_elsewhere(tmp_path: Path) -> None:
    for folder, rows in (("a", ads(1, 2)), ("b", ads(3))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.json").write_text(lines(*rows), encoding="utf-8")
    source = SourceConfig(
        uri=str(tmp_path / "a/train.json"), dev_uri=str(tmp_path / "b/train.json")
    )
    data = dataset(source)
    assert prompts(data, "dev") == [ad(3)["content"]]
    assert data.records == {"train": 2, "dev": 1}


def test_one_file_alone_is_parted_by_prompt(make: Make) -> None:
    many = [{"content": f"类型#{n // 2}", "summary": f"第{n}条"} for n in range(200)]
    data = dataset(make(ads__jsonl=lines(*many)), dev_rows=20)
    assert data.records == {"train": 180, "dev": 20}
    assert not set(prompts(data, "train")) & set(prompts(data, "dev"))
    assert ledger(data).split_by == "a hash of the prompt"
    first = dataset(make(ads__jsonl=lines(*many)), dev_fraction=0.3)
    longer = dataset(make(ads__jsonl=lines(*ads(1, 2, 3), *many)), dev_fraction=0.3)
    assert set(prompts(longer, "dev")) >= set(prompts(first, "dev"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(ROW, {"content": "x", "sumary": "y"}), 'train.json:2: no field "summary" (found: '),
        (lines(ROW, {"content": 3, "summary": "y"}), 'train.json:2: field "content" must be text'),
        (lines(ROW, {"content": "x", "summary": " "}), 'train.json:2: field "summary" is blank'),
        (lines(ROW) + "{oops\n", "train.json:2: "),
        (lines(ROW) + "[1]\n", "train.json:2: "),
        ("<!DOCTYPE html><html>", "this is a web page"),
        ("[1, 2]", "train.json:1: "),
        ("\n\n", "train.json"),
        (lines(ROW) + '{"content": "\\ud83d", "summary": "y"}', "train.json:2: "),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_place(
    make: Make, text: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        dataset(make(train__json=text, dev__json=lines(ad(9))))
    assert message in str(caught.value)


def test_rejected_rows_are_kept_with_their_reason_when_the_run_fails(
    make: Make, home: Path
) -> None:
    text = lines(*ads(*range(50))) + "{oops\n" + lines({"content": "x"})
    with pytest.raises(DataError) as caught:
        dataset(make(train__json=text, dev__json=lines(ad(99))))
    told = str(caught.value)
    assert "2 of 52 rows of train cannot be used" in told
    assert "at most 1.00% are tolerated" in told
    kept = Path(told.rpartition(": ")[2])
    assert kept.is_relative_to(home)
    rejected = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert [(row["file"], row["line"]) for row in rejected] == [
        ("train.json", 51),
        ("train.json", 52),
    ]
    assert rejected[0]["raw"].startswith("{oops")
    assert rejected[1]["code"] == "missing-field"
    assert json.loads(rejected[1]["raw"]) == {"content": "x"}


def test_a_few_bad_rows_cost_themselves_alone(make: Make) -> None:
    text = lines(*ads(*range(150))) + "{oops\n" + lines(*ads(*range(150, 300)))
    data = dataset(make(train__json=text, dev__json=lines(ad(999))))
    assert data.records == {"train": 300, "dev": 1}
    assert (data.rejected, data.duplicates) == (1, 0)
    assert read(data, "rejected.jsonl")[0]["line"] == 151
    assert sum(ledger(data).reasons.values()) == 1


def test_a_row_is_trained_on_once_and_never_when_it_is_a_dev_row(make: Make) -> None:
    data = dataset(make(train__json=lines(*ads(1, 2, 1, 3)), dev__json=lines(*ads(3, 4, 4))))
    assert data.records == {"train": 2, "dev": 2}
    assert data.duplicates == 3
    assert prompts(data, "train") == [ad(1)["content"], ad(2)["content"]]
    assert {file.file: file.duplicates for file in ledger(data).files} == {
        "dev.json": 1,
        "train.json": 2,
    }


def test_what_dev_shares_with_train_is_counted_and_refused_when_asked(make: Make) -> None:
    long = "这条裙子用了很软的棉，穿起来一点也不闷，走路的时候裙摆轻轻晃。"
    train = [ROW, {"content": "类型#裤", "summary": f"{long}好看。"}]
    dev = [
        {"content": ROW["content"], "summary": "另一句话。"},
        {"content": "类型#衣", "summary": long},
        ad(7),
        ad(8),
    ]
    source = make(train__json=lines(*train), dev__json=lines(*dev))
    found = ledger(dataset(source)).overlap
    assert found is not None
    assert (found.dev_with_trained_prompt, found.dev_with_shared_run) == (1, 1)
    with pytest.raises(DataError, match=r"data\.max_leak_fraction: .*found 50\.00%"):
        dataset(source, max_leak_fraction=0.4)


def test_near_duplicates_are_counted_and_refused_when_asked(make: Make) -> None:
    twin = ad(1)["summary"] * 6
    rows = [{"content": "类型#裙", "summary": twin + end} for end in ("！", "。")]
    source = make(train__json=lines(*rows), dev__json=lines(ad(5)))
    found = ledger(dataset(source)).overlap
    assert found is not None
    assert found.near_rows == 2
    with pytest.raises(DataError, match=r"data\.max_near_fraction: 2 rows"):
        dataset(source, max_near_fraction=0.5)


def test_the_template_is_kept_beside_the_rows_and_not_in_them(make: Make) -> None:
    source = make(train__json=lines(*ads(1, 2)), dev__json=lines(ad(3)))
    plain, framed = dataset(source), dataset(source, template="Q: {prompt}\nA:")
    assert prompts(framed, "train") == prompts(plain, "train")
    assert json.loads((store.resolve(framed.uri) / conversion.DATASET).read_text()) == {
        "template": "Q: {prompt}\nA:"
    }
    assert framed.identity() != plain.identity()
    with pytest.raises(ValueError, match=r"hold \{prompt\} exactly once \(found 'x'\)"):
        DataConfig(template="x")


def test_dev_rows_without_training_rows_are_refused(make: Make) -> None:
    with pytest.raises(DataError, match=r"no training file \(found: dev\.json, test\.json\)"):
        dataset(make(dev__json=lines(ROW), test__json=lines(ROW)))


@pytest.mark.parametrize(
    ("files", "split"),
    [
        ({"train__json": lines(ad(1)), "dev__json": "[]"}, "dev"),
        ({"rows__json": lines(ad(1))}, "train"),
    ],
)
def test_a_split_without_rows_is_refused(make: Make, files: dict[str, str], split: str) -> None:
    with pytest.raises(DataError, match=f"split {split} has no rows"):
        dataset(make(**files))


def test_the_limit_takes_training_rows_only(make: Make) -> None:
    source = make(train__json=lines(*ads(1, 1, 2, 3, 4, 5)), dev__json=lines(*ads(6, 7, 8)))
    data = dataset(source, limit=2)
    assert data.records == {"train": 2, "dev": 3}
    assert ledger(data).beyond_limit == 3
    whole = dataset(make(train__json=lines(*ads(1, 2)), dev__json=lines(*ads(6, 7, 8))), limit=2)
    assert ledger(whole).beyond_limit == 0
    assert whole.identity() == data.identity()


def test_the_limit_holds_where_rows_are_parted_by_prompt(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(lines(*ads(*range(100))), encoding="utf-8")
    data = dataset(SourceConfig(uri=str(path)), limit=7, dev_rows=5)
    assert data.records == {"train": 7, "dev": 5}
    assert ledger(data).beyond_limit == 88


def test_another_expected_digest_is_refused(make: Make) -> None:
    source = make(train__json=lines(ROW))
    file = Path(source.uri) / "train.json"
    right = store.file_digest(file)
    assert fetch.fn(SourceConfig(uri=str(file), sha256=right)).files == ("train.json",)
    with pytest.raises(DataError, match=rf"source\.sha256: .*{right}"):
        fetch.fn(SourceConfig(uri=str(file), sha256="0" * 64))


def test_staging_into_another_store_keeps_the_digest_and_can_be_repeated(
    make: Make, tmp_path: Path
) -> None:
    data = dataset(make(train__json=lines(ad(1)), dev__json=lines(ad(2))))
    elsewhere = StoreConfig(uri=str(tmp_path / "elsewhere"))
    staged, again = stage.fn(data, elsewhere), stage.fn(data, elsewhere)
    assert staged == again
    assert staged.digest == data.digest
    assert staged.uri.startswith(elsewhere.uri)
    assert stage.fn(staged, elsewhere) == staged


def test_an_artifact_cannot_be_built_on_bytes_that_are_not_there(make: Make) -> None:
    data = dataset(make(train__json=lines(ad(1)), dev__json=lines(ad(2))))
    (store.resolve(data.uri) / "dev.jsonl").write_text("")
    with pytest.raises(ValueError, match="its files are not those of the record"):
        Dataset.model_validate(data.model_dump())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nowhere.json", r"source\.uri: no such file or folder \(found 'nowhere\.json'\)"),
        ("ftp://host/rows", r"source\.uri: ftp:// is not read"),
    ],
)
def test_a_source_that_is_not_there_is_refused(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fetch.fn(SourceConfig(uri=uri))


values = st.sampled_from(
    [*[lines(row) for row in ads(1, 2, 3)], "{oops\n", '{"content": "x"}\n', "[1]\n", "\n", "{\n"]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(values, min_size=1, max_size=30), st.booleans())
def test_whatever_comes_the_rows_add_up(
    tmp_path_factory: Any, texts: list[str], named: bool
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / ("train.json" if named else "rows.json")).write_text("".join(texts))
    files = [(path.name, path) for path in folder.iterdir()]
    if named:
        (folder / "dev.json").write_text(lines(ad(9)))
        files.append(("dev.json", folder / "dev.json"))
    out = folder / "out"
    out.mkdir()
    try:
        account = conversion.convert(files, out, DataConfig(max_bad_fraction=1))
    except DataError:
        return
    good = sum(text.startswith('{"content": "类') for text in texts) + named
    assert account.rows == good + account.rejected
    assert sum(account.kept.values()) + account.duplicates == good
    assert sum(1 for _ in (out / "rejected.jsonl").open()) == account.rejected


@pytest.mark.skipif(not REAL.exists(), reason="the real rows are not here")
def test_the_real_rows_are_all_accounted_for() -> None:
    data = dataset(SourceConfig(uri=str(REAL)))
    account = ledger(data)
    raw = sum(1 for path in REAL.glob("*.json*") for _ in path.open("rb"))
    assert account.rows == raw == sum(data.records.values()) + data.duplicates
    assert account.rejected == 0
    assert account.overlap is not None
    assert account.overlap.dev_with_trained_prompt == 0
    # of 1,070 dev rows 85 share a run with 5,000 training rows; here are half as many dev rows
    assert account.overlap.dev_with_shared_run == pytest.approx(44, abs=5)


def test_overlaps_are_not_looked_for_when_they_are_not_wanted(make: Make) -> None:
    source = make(train__json=lines(*ads(1, 2)), dev__json=lines(ad(3)))
    plain, quick = dataset(source), dataset(source, overlap=False)
    assert ledger(quick).overlap is None
    assert quick.identity() == plain.identity()
    with pytest.raises(ValueError, match="overlap: must be on for max_leak_fraction"):
        DataConfig(overlap=False, max_leak_fraction=0.1)


def test_a_record_tells_no_password() -> None:
    source = SourceConfig(
        uri="https://me:secret@host/rows.json?token=secret", mirrors=["https://x:secret@host/y"]
    )
    told = source.recorded()
    assert "secret" not in str(told)
    assert (told["uri"], told["mirrors"]) == ("https://host/rows.json", ["https://host/y"])


def test_every_answer_of_a_conversation_is_searched(make: Make) -> None:
    answer = "这条裙子用了很软的棉，穿起来一点也不闷，走路的时候裙摆轻轻晃。"
    talk = [("user", "q"), ("assistant", answer), ("user", "谢谢"), ("assistant", "不客气")]
    turns = [{"role": role, "content": text} for role, text in talk]
    source = make(train__json=lines({"messages": turns}), dev__json=lines({"messages": turns[:2]}))
    found = ledger(dataset(source)).overlap
    assert found is not None
    assert (found.dev_known, found.dev_with_shared_run) == (1, 1)


def test_conversations_that_begin_alike_are_never_parted(tmp_path: Path) -> None:
    def talk(number: int, rounds: int) -> dict[str, object]:
        turns = [("你好", f"a{number}"), ("more", f"b{rounds}"), ("still", "c")][:rounds]
        pairs = [(("user", asked), ("assistant", said)) for asked, said in turns]
        messages = [{"role": role, "content": text} for pair in pairs for role, text in pair]
        return {"messages": messages}

    path = tmp_path / "rows.json"
    rows = [talk(number, rounds) for number in range(60) for rounds in (2, 3)]
    path.write_text(lines(*rows), encoding="utf-8")
    data = dataset(SourceConfig(uri=str(path)), dev_fraction=0.5)
    opened = [
        {row["messages"][1]["content"] for row in read(data, f"{split}.jsonl")}
        for split in ("train", "dev")
    ]
    assert min(map(len, opened)) > 10
    assert not opened[0] & opened[1]


def test_a_system_text_does_not_make_another_prompt(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [
        {"prompt": f"q{number}", "response": f"a{number}"} | ({"system": "s"} if system else {})
        for number in range(60)
        for system in (False, True)
    ]
    path.write_text(lines(*rows), encoding="utf-8")
    data = dataset(SourceConfig(uri=str(path)), dev_fraction=0.5)
    asked = [
        {row["messages"][-2]["content"] for row in read(data, f"{split}.jsonl")}
        for split in ("train", "dev")
    ]
    assert not asked[0] & asked[1]
    found = ledger(data).overlap
    assert found is not None
    assert found.dev_with_trained_prompt == 0


def test_a_ruined_dev_set_is_not_made_up_for_by_train(make: Make) -> None:
    source = make(train__json=lines(*ads(*range(900))), dev__json=lines(ad(999)) + "{oops\n")
    with pytest.raises(DataError, match="1 of 2 rows of dev cannot be used"):
        dataset(source)


def test_a_misspelt_column_is_refused(make: Make) -> None:
    rows = [{"q": "a", "r": "b", "turns": []}]
    columns = {"prompt": "q", "response": "r", "history": "Turns"}
    with pytest.raises(DataError, match=r'no row has the field "Turns" of data\.columns\.history'):
        dataset(make(train__json=lines(*rows), dev__json=lines(*rows)), columns=columns)


def test_a_limit_among_many_duplicates_is_reached(make: Make) -> None:
    rows = [*ads(*range(600)), *[ad(1)] * 3000, *ads(*range(600, 1400))]
    data = dataset(make(train__json=lines(*rows), dev__json=lines(ad(9999))), limit=700)
    assert data.records["train"] == 700
    assert prompts(data, "train")[-1] == ad(699)["content"]


def test_digests_and_tabs_are_taken_as_people_paste_them() -> None:
    assert SourceConfig(sha256="AB" * 32).sha256 == "ab" * 32
    assert DataConfig(delimiter="\\t").delimiter == "\t"


def test_one_column_cannot_be_two_things() -> None:
    with pytest.raises(ValueError, match="one field cannot be two things"):
        DataConfig.model_validate({"columns": {"prompt": "x", "response": "x"}})


def test_lines_of_empty_cells_are_nothing(make: Make) -> None:
    table = "content,summary\n" + "".join(f"c{n},s{n}\n" for n in range(3)) + ",\n" * 20
    data = dataset(make(train__csv=table, dev__json=lines(ad(1))))
    assert (data.records["train"], data.rejected) == (3, 0)
