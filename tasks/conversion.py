"""From raw files to a dataset: every row read once, checked, told apart from the others, and accounted for.

    train.jsonl, dev.jsonl    {"messages": [{"role", "content"}, …]} a line
    dataset.json              the template that stands around each prompt
    ledger.json               what became of every row that was read
    rejected.jsonl            the rows that cannot be used: file, line, code, reason, raw text

Rows pass in batches, so that memory stays small however many there are. Dev files are read before training files:
a row that stands in both is a duplicate of the dev row, and is not trained on. Nothing here knows Prefect or the
store. To read another layout of rows, add a file to `formats/`; another kind of file, to `rows/`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from tasks import columns, detection, gates, jsonl, plugins, rows, splits, templates
from tasks.columns import Reader
from tasks.config import DataConfig
from tasks.errors import DataError
from tasks.formats import Message, Unfit
from tasks.jsonl import Writer
from tasks.ledger import FileAccount, Ledger
from tasks.rejections import Rejections
from tasks.rows import archives
from tasks.sharing import Sharing

DATASET = "dataset.json"
SPLITS = ("train", "dev")
CONTENT = ("train.jsonl", "dev.jsonl", DATASET)
"""The files that decide what is trained and measured; the others tell how they came about."""
_SAMPLE = 100
"""Rows that the format is told from."""
_BATCH_CHARACTERS = 8 << 20
"""Rows of so many characters pass together, however few they are."""
_PART = 16
"""Rows between two looks at their size: looking at each took a twentieth longer."""
_HOPELESS = 1000
"""A file of which so many rows at the beginning cannot be read at all is given up."""

Files = Sequence[tuple[str, Path]]
Progress = Callable[[int], None]


def convert(
    files: Files, out: Path, config: DataConfig, progress: Progress = lambda _rows: None
) -> Ledger:
    """Convert files into a dataset and return its account.

    Args:
        files: Name for messages, and place, of each raw file; archives count as the files in them.
        out: An empty directory. What was rejected is written there also when the conversion fails.
        config: How rows are read.
        progress: Called with the rows read so far.

    Raises:
        DataError: A file cannot be read, too many rows cannot be used, a split would be empty, or a gate that was
            asked for does not hold.
    """
    run = _Conversion(out, config, progress)
    try:
        return run.all(files)
    finally:
        run.close()


class _Conversion:
    """The state of one conversion."""

    def __init__(self, out: Path, config: DataConfig, progress: Progress) -> None:
        self._out, self._config, self._progress = out, config, progress
        self._reading = rows.Reading(config.container, config.encoding, config.delimiter)
        self._columns = config.columns.given()
        self._limits = archives.Limits(bytes=int(config.max_unpacked_gib * 2**30))
        self._rejections = Rejections(out)
        self._seen = splits.Seen()
        self._sharing = Sharing()
        self._accounts: list[FileAccount] = []
        self._writers = {split: Writer(out / f"{split}.jsonl") for split in SPLITS}
        self._read = 0

    def close(self) -> None:
        self._rejections.close()
        for writer in self._writers.values():
            writer.close()

    def all(self, files: Files) -> Ledger:
        members = {name: self._members(name, path) for name, path in files}
        plan = splits.by_name([member for each in members.values() for member in each])
        for split, wanted in (("dev", frozenset(plan.dev)), ("train", frozenset(plan.train))):
            for name, path in files:
                if chosen := wanted.intersection(members[name]):
                    self._source(name, path, chosen, split if plan.dev else "both")
        self.close()
        self._seen = splits.Seen()  # lets its memory go
        self._rejections.judge(self._accounts, self._config.max_bad_fraction)
        if not plan.dev:
            self._hold_out()
            if self._config.overlap:
                self._look_for_overlap()
        self._require_rows(", ".join(name for name, _ in files))
        ledger = self._ledger(plan)
        gates.judge(ledger, self._config)
        ledger.write(self._out)
        template = {"template": ledger.template}
        (self._out / DATASET).write_bytes(orjson.dumps(template, option=orjson.OPT_APPEND_NEWLINE))
        return ledger

    def _members(self, name: str, path: Path) -> list[str]:
        """Return the files behind one raw file, by the names that people see."""
        folder = name.removesuffix(path.name)
        return [folder + member for member in archives.names(path, self._limits)]

    def _source(self, name: str, path: Path, chosen: AbstractSet[str], split: str) -> None:
        folder = name.removesuffix(path.name)
        parts = archives.parts(path, lambda member: folder + member in chosen, self._limits)
        for member, stream in parts:
            shown = folder + member
            opened = rows.open_rows(stream, shown, self._reading, self._is_known)
            every = opened.rows
            if opened.container in ("CSV", "TSV"):
                every = (event for event in every if not _is_nothing(event))
            sample, events = _sampled(every, shown)
            columns.require(self._columns, sample, shown)
            account = FileAccount(
                file=shown,
                split=split,
                container=opened.container,
                encoding=opened.encoding,
                format=self._format(sample, shown),
            )
            self._file(events, account)
            self._accounts.append(FileAccount.model_validate(account.model_dump()))

    def _is_known(self, names: frozenset[str]) -> bool:
        """Say whether a table with these columns can be rows of ours."""
        if self._columns:
            return set(self._columns.values()) <= names
        chosen = self._config.format
        formats = plugins.names("formats") if chosen == "auto" else (chosen,)
        return any(plugins.load("formats", each).claims(names) for each in formats)

    def _format(self, sample: list[dict[str, Any]], shown: str) -> str:
        """Name the format of a file; one without any row has none."""
        if self._columns:
            return "pairs"
        if self._config.format != "auto":
            return self._config.format
        return detection.detect(sample, shown) if sample else ""

    def _reader(self, name: str) -> Reader:
        messages: Reader = plugins.load("formats", name or "pairs").messages
        return columns.renaming(messages, self._columns) if self._columns else messages

    def _file(self, events: Iterator[rows.Row | rows.Bad], account: FileAccount) -> None:
        writer = self._writers["dev" if account.split == "dev" else "train"]
        limit = self._config.limit if account.split == "train" else 0
        reader = self._reader(account.format)
        while True:
            if limit and writer.rows >= limit:
                account.unread = next(events, None) is not None
                return
            batch = _some(events)
            if not batch:
                return
            self._batch(batch, reader, account, writer, limit)
            self._progress(self._read)

    def _batch(
        self,
        batch: list[rows.Row | rows.Bad],
        reader: Reader,
        account: FileAccount,
        writer: Writer,
        limit: int,
    ) -> None:
        lines, kept, prompts = [], [], []
        for event in batch:
            if isinstance(event, rows.Bad):
                self._reject(account, event)
                continue
            try:
                messages = reader(event.value)
            except Unfit as unfit:
                raw = rows.clip(event.raw or orjson.dumps(event.value, default=str))
                self._reject(account, rows.Bad(event.line, unfit.code, str(unfit), raw))
                continue
            kept.append(messages)
            lines.append(orjson.dumps({"messages": messages}, option=orjson.OPT_APPEND_NEWLINE))
            prompts.append(_prompt(messages))
        fresh = self._seen.fresh(_marks(lines))
        # only where rows are parted by their prompt must a hash be the same in every process
        hashed = _digests(prompts) if account.split == "both" else _marks(prompts)
        new = int(fresh.sum())
        if limit:
            fresh &= np.cumsum(fresh) <= limit - writer.rows
        writer.add(lines, hashed, fresh)
        if account.split != "both" and self._config.overlap:
            self._sharing.add(account.split, kept, fresh)
        account.rows += len(batch)
        account.kept += new
        account.duplicates += len(lines) - new
        self._read += len(batch)

    def _reject(self, account: FileAccount, bad: rows.Bad) -> None:
        account.rejected += 1
        self._rejections.add(account.file, bad)

    def _hold_out(self) -> None:
        """Part the rows by their prompt."""
        every, limit = self._writers["train"], self._config.limit
        whole = every.path.rename(self._out / ".every.jsonl")
        prompts = every.prompts()
        held = splits.held_out(prompts, self._config.dev_rows, self._config.dev_fraction)
        trained = ~held
        if limit:
            trained &= np.cumsum(trained) <= limit
        self._writers = {split: Writer(self._out / f"{split}.jsonl") for split in SPLITS}
        start = 0
        for lines in jsonl.batches(whole):
            part = slice(start, start := start + len(lines))
            self._writers["train"].add(lines, prompts[part], trained[part])
            self._writers["dev"].add(lines, prompts[part], held[part])
        self.close()
        whole.unlink()

    def _look_for_overlap(self) -> None:
        """Read rows that were held out by their prompt once more: only now is known which are dev rows."""
        for split in ("dev", "train"):
            for lines in jsonl.batches(self._writers[split].path):
                every_row = np.ones(len(lines), dtype=bool)
                self._sharing.add(split, [jsonl.messages(line) for line in lines], every_row)

    def _require_rows(self, named: str) -> None:
        for split, writer in self._writers.items():
            if writer.rows == 0:
                raise DataError(
                    f"{named}: split {split} has no rows (found 0 of {self._read:,} read). "
                    "Give more rows, or a file for this split."
                )

    def _ledger(self, plan: splits.Plan) -> Ledger:
        dropped = sum(file.kept for file in self._accounts)
        dropped -= sum(writer.rows for writer in self._writers.values())
        return Ledger(
            files=self._accounts,
            kept={split: writer.rows for split, writer in self._writers.items()},
            beyond_limit=dropped,
            repeated_prompts={
                split: splits.repeated(writer.prompts()) for split, writer in self._writers.items()
            },
            reasons=dict(self._rejections.reasons.most_common()),
            split_by="file names" if plan.dev else "a hash of the prompt",
            template=templates.text_of(self._config.template),
            left_out=list(plan.left_out),
            overlap=self._sharing.found(self._writers["dev"], self._writers["train"])
            if self._config.overlap
            else None,
        )


def _is_nothing(event: rows.Row | rows.Bad) -> bool:
    """Say whether a row of a table has empty cells only: a spreadsheet leaves many at the end."""
    return isinstance(event, rows.Row) and not any(event.value.values())


def _some(events: Iterator[rows.Row | rows.Bad]) -> list[rows.Row | rows.Bad]:
    """Return the next rows: so many, or fewer that are long, for memory must not grow with their length."""
    batch: list[rows.Row | rows.Bad] = []
    size = 0
    while len(batch) < jsonl.BATCH and size < _BATCH_CHARACTERS:
        part = list(itertools.islice(events, _PART))
        if not part:
            break
        size += sum([len(event.raw) for event in part])
        batch += part
    return batch


def _sampled(
    events: Iterator[rows.Row | rows.Bad], shown: str
) -> tuple[list[dict[str, Any]], Iterator[rows.Row | rows.Bad]]:
    """Look at the first rows; return them, and all rows again from the first on.

    Raises:
        DataError: The file begins with nothing but rows that cannot be read.
    """
    taken: list[rows.Row | rows.Bad] = []
    found: list[dict[str, Any]] = []
    size = 0
    for event in events:
        taken.append(event)
        if isinstance(event, rows.Row):
            found.append(event.value)
        elif len(taken) >= _HOPELESS and not found:
            raise DataError(
                f"{shown}:{event.line}: {event.reason}. None of the first {_HOPELESS:,} rows can be read: "
                "check data.container, data.encoding and data.delimiter."
            )
        size += len(event.raw)
        if len(found) >= _SAMPLE or len(taken) >= _HOPELESS or size >= _BATCH_CHARACTERS:
            break
    return found, itertools.chain(taken, events)


def _prompt(messages: list[Message]) -> bytes:
    """Return what tells a row's prompt: its question; of a conversation, the first question with its answer.

    Conversations that go on from one exchange belong together, for each answer is learnt; many open with the same
    greeting, so that the question alone would not tell them apart. A system text does not make another prompt.
    """
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    if len(turns) == 2:
        return turns[0]["content"].encode()
    return orjson.dumps([turn["content"] for turn in turns[:2]])


def _marks(lines: Iterable[bytes]) -> splits.Hashes:
    """Return 64 bits of each line, the same within this process."""
    return np.array([hash(line) for line in lines], dtype=np.int64).view(np.uint64)


def _digests(texts: Iterable[bytes]) -> splits.Hashes:
    """Return 64 bits of each text's BLAKE2b."""
    digests = b"".join([hashlib.blake2b(text, digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, dtype=np.uint64)
