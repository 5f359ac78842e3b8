"""Fetch, convert, stage: from a source to a dataset in the store.

`fetch` takes the bytes as they are, `convert` turns them into neutral records and accounts for every row, `stage`
puts them where the jobs read them. Where bytes come from is in `sources/`, what kinds of file there are in `rows/`,
what rows look like in `formats/`: to add a kind, add a file there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from prefect import get_run_logger

from tasks import conversion, fetching, splits, store
from tasks.artifacts import Dataset, RawFile
from tasks.config import DataConfig, SourceConfig, StoreConfig
from tasks.errors import ArtifactMissing, DataError
from tasks.ledger import Ledger
from tasks.provenance import made
from tasks.rejections import REJECTED
from tasks.reports.progress import Bar
from tasks.steps import step

_CONVERTING = (
    "tasks/columns.py",
    "tasks/conversion.py",
    "tasks/detection.py",
    "tasks/formats",
    "tasks/gates.py",
    "tasks/jsonl.py",
    "tasks/ledger.py",
    "tasks/overlap",
    "tasks/rejections.py",
    "tasks/rows",
    "tasks/sharing.py",
    "tasks/splits.py",
    "tasks/templates.py",
)


@step(
    sources=("tasks/data.py", "tasks/fetching.py", "tasks/sources", "tasks/s3.py"),
    retries=4,
    wait_seconds=(2, 8, 32, 60),
)
def fetch(config: SourceConfig) -> RawFile:
    """Bring the source into the store, as it is.

    Raises:
        ConfigError: There is nothing to fetch, or it may not be fetched.
        DataError: What arrived is not what was expected.
        TransientError: The network failed; worth another try.
    """
    requests = dict(zip((".", splits.HELD_OUT), config.requests(), strict=False))
    raw = fetching.bring(requests, "raw", made("fetch", config))
    return RawFile(uri=raw.uri, digest=raw.digest, files=tuple(raw.names))


@step(sources=("tasks/data.py", *_CONVERTING), retries=2, wait_seconds=(2, 8))
def convert(raw: RawFile, config: DataConfig) -> Dataset:
    """Turn raw rows into neutral records, split into train and dev; account for every row.

    Raises:
        DataError: A file cannot be read, too many of its rows cannot be used, or a split would be empty.
    """
    folder = store.resolve(raw.uri)
    files = [(name, folder / name) for name in raw.files]
    with store.scratch(store.local()) as out:
        try:
            with Bar("converting") as bar:
                ledger = conversion.convert(
                    files, out, config, lambda rows: bar.update(rows, None, "row")
                )
        except DataError as reason:
            raise _with_rejected(reason, out / REJECTED, raw) from reason
        _tell(ledger)
        content = store.digest_of(
            [each for each in store.listing(out) if each["path"] in conversion.CONTENT]
        )
        uri, digest = store.commit(out, store.local(), "datasets", made("convert", raw, config))
    return Dataset(
        uri=uri,
        digest=digest,
        content=content,
        format=ledger.format,
        records=ledger.kept,
        duplicates=ledger.duplicates,
        rejected=ledger.rejected,
    )


def _with_rejected(reason: DataError, rejected: Path, raw: RawFile) -> DataError:
    """Keep the rows that made a conversion fail, so that they can be mended."""
    if not rejected.exists() or not rejected.stat().st_size:
        return reason
    kept = store.home() / "rejected" / f"{raw.digest[:16]}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(rejected, kept)
    return DataError(f"{reason}\nEvery rejected row, with its reason: {kept}")


def _tell(ledger: Ledger) -> None:
    """Say what a person would want to know before the rows are trained on."""
    log = get_run_logger()
    for file in ledger.files:
        log.info(
            "%s: %s, %s%s: %s rows, %s kept, %s duplicates, %s rejected%s",
            file.file,
            file.format or "no rows",
            file.container,
            f" in {file.encoding}" if file.encoding else "",
            f"{file.rows:,}",
            f"{file.kept:,}",
            f"{file.duplicates:,}",
            f"{file.rejected:,}",
            "; the rest was left unread at data.limit" if file.unread else "",
        )
    for name in ledger.left_out:
        log.warning("%s is left out: it describes the others, or dev rows come from another", name)


@step(
    sources=("tasks/data.py", "tasks/store", "tasks/s3.py"),
    entirely=("data",),
    retries=4,
    wait_seconds=(2, 8, 32, 60),
)
def stage(data: Dataset, config: StoreConfig) -> Dataset:
    """Put the dataset where the jobs read it; what is there with the same digest is kept.

    Raises:
        ConfigError: The store cannot be written, or its disk is full.
        TransientError: The network failed; what has been sent stays, and is not sent again.
    """
    store.use(config.uri, config.s3)
    if store.lies_in(data.uri, config.uri):
        get_run_logger().info("the dataset is already in %s", config.uri)
        return data
    with Bar("staging") as bar:
        uri, digest = store.put(
            store.resolve(data.uri),
            config.uri,
            "datasets",
            made("stage", data),
            lambda done, total: bar.update(done, total or None, "byte"),
        )
    if digest != data.digest:
        raise ArtifactMissing(
            f"{data.uri}: changed while it was staged (found {digest}). Run again."
        )
    return data.model_copy(update={"uri": uri, "digest": digest})
