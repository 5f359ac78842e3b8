"""Fetch, convert, stage: from a source to a dataset in the store.

`fetch` takes the bytes as they are, `convert` turns them into neutral records, `stage` puts them where
the jobs read them. To read another layout of rows, add a file to `formats/`.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import orjson
from prefect import get_run_logger

from tasks import plugins, rows, sources, store
from tasks.artifacts import Dataset, RawFile
from tasks.config import DataConfig, SourceConfig, StoreConfig
from tasks.errors import DataError
from tasks.formats import Message
from tasks.provenance import made
from tasks.reports.progress import Bar
from tasks.steps import step

_SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "eval": "dev", "test": "dev"}
_CHECKED = ("tasks/data.py", "tasks/rows.py", "tasks/formats")


@step(sources=("tasks/data.py", "tasks/sources.py"), retries=4, wait_seconds=(2, 8, 32, 60))
def fetch(config: SourceConfig) -> RawFile:
    """Bring the source into the store, as it is.

    Raises:
        ConfigError: There is nothing to fetch, or its digest is not the expected one.
        TransientError: The network failed; worth another try.
    """
    with store.scratch(store.local()) as folder:
        if not sources.is_remote(config.uri):
            names = sources.copy(config.uri, sources.ROWS, "source.uri", folder)
            return _raw(config, folder, names)
        known = sources.Known.of(config.uri)
        earlier = _earlier(known)
        etag = known.etag if known and earlier else ""
        with Bar("fetching") as bar:
            got = sources.download(
                config.uri,
                folder,
                etag,
                lambda done, total: bar.update(done, total or None, "byte"),
            )
        if not got.name and earlier:
            return earlier
        raw = _raw(config, folder, (got.name,))
        sources.Known(got.etag, raw.model_dump_json()).keep(config.uri)
        return raw


def _earlier(known: sources.Known | None) -> RawFile | None:
    try:
        return RawFile.model_validate_json(known.artifact) if known else None
    except ValueError:  # its bytes are gone from the store: fetch them again
        return None


def _raw(config: SourceConfig, folder: Path, names: tuple[str, ...]) -> RawFile:
    if config.sha256:
        _expect(config.sha256, [folder / name for name in names])
    uri, digest = store.commit(folder, store.local(), "raw", made("fetch", config))
    return RawFile(uri=uri, digest=digest, files=names)


def _expect(sha256: str, files: list[Path]) -> None:
    found = store.file_digest(files[0]) if len(files) == 1 else f"{len(files)} files"
    if found != sha256:
        raise DataError(
            f"source.sha256: the source is not the expected one (found {found}). "
            "Check the address, or correct the digest if the new content is right."
        )


@step(sources=_CHECKED, retries=2, wait_seconds=(2, 8))
def convert(raw: RawFile, config: DataConfig) -> Dataset:
    """Turn raw rows into neutral records, split into train and dev.

    Raises:
        DataError: A row is malformed (its file and line), or a split would be empty.
    """
    folder = store.resolve(raw.uri)
    splits = _by_split([folder / name for name in raw.files])
    with store.scratch(store.local()) as out:
        if "dev" in splits:
            counts = {
                split: _write(
                    out / f"{split}.jsonl", _records(files, config), _limit(split, config)
                )
                for split, files in sorted(splits.items(), reverse=True)
            }
        else:
            counts = _hold_out(out, _records(splits["train"], config), config)
        for split, count in counts.items():
            if count == 0:
                raise DataError(
                    f"{', '.join(raw.files)}: split {split} has no rows (found 0). "
                    "Give more rows, or a file for this split."
                )
        uri, digest = store.commit(out, store.local(), "datasets", made("convert", raw, config))
    return Dataset(uri=uri, digest=digest, format=config.format, records=counts)


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    """Group files by the split in their name; one file alone is all training rows."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        named = [split for word, split in _SPLITS.items() if word in file.stem.lower()]
        splits.setdefault(named[0] if named else "train", []).append(file)
    if "train" not in splits:
        only = ", ".join(file.name for file in files)
        raise DataError(
            f"source.uri: no training file (found: {only}). A name must contain train, "
            "or contain none of dev, valid, eval, test."
        )
    return splits


def _limit(split: str, config: DataConfig) -> int | None:
    return config.limit or None if split == "train" else None


def _records(files: list[Path], config: DataConfig) -> Iterator[list[Message]]:
    chosen = plugins.load("formats", config.format)
    for place, row in itertools.chain.from_iterable(rows.read(file) for file in files):
        try:
            yield chosen.messages(row)
        except ValueError as reason:
            raise DataError(
                f"{place}: {reason}. Format {config.format} needs {' and '.join(chosen.FIELDS)}."
            ) from reason


def _write(path: Path, records: Iterator[list[Message]], limit: int | None = None) -> int:
    count = 0
    with path.open("wb") as file:
        for messages in itertools.islice(records, limit):
            file.write(orjson.dumps({"messages": messages}, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


def _hold_out(out: Path, records: Iterator[list[Message]], config: DataConfig) -> dict[str, int]:
    """Split by a hash of the prompt: stable when rows are added, no prompt on both sides."""
    every = list(records)
    wanted = config.dev_rows or max(1, len(every) // 10)
    by_prompt: dict[str, list[int]] = {}
    for index, messages in enumerate(every):
        by_prompt.setdefault(messages[-2]["content"], []).append(index)
    held: set[int] = set()
    for prompt in sorted(by_prompt, key=lambda text: hashlib.sha256(text.encode()).digest()):
        if len(held) >= wanted:
            break
        held.update(by_prompt[prompt])
    kept = (messages for index, messages in enumerate(every) if index not in held)
    return {
        "train": _write(out / "train.jsonl", kept, config.limit or None),
        "dev": _write(out / "dev.jsonl", (every[index] for index in sorted(held))),
    }


@step(sources=("tasks/data.py",), retries=4, wait_seconds=(2, 8, 32, 60))
def stage(data: Dataset, config: StoreConfig) -> Dataset:
    """Put the dataset where the jobs read it; what is there with the same digest is kept.

    Raises:
        ConfigError: The store cannot be written, or its disk is full.
    """
    if store.resolve(config.uri) == store.resolve(store.root_of(data.uri)):
        get_run_logger().info("the dataset is already in %s", config.uri)
        return data
    with store.scratch(config.uri) as folder, store.writing(config.uri):
        shutil.copytree(store.resolve(data.uri), folder, dirs_exist_ok=True)
        uri, digest = store.commit(folder, config.uri, "datasets", made("stage", data))
    return data.model_copy(update={"uri": uri, "digest": digest})
