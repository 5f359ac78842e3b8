"""Every file that people have ends as `malformed.py` says: read, read in part, or refused with words that help."""

from __future__ import annotations

import json
from pathlib import Path

import malformed
import pytest

from tasks import conversion
from tasks.config import DataConfig
from tasks.errors import DataError

DEV = json.dumps({"content": "类型#裤", "summary": "一条裤子。"}, ensure_ascii=False)


@pytest.mark.parametrize("case", malformed.CASES, ids=lambda case: case.name)
def test_a_file_ends_as_it_must(case: malformed.Case, tmp_path: Path) -> None:
    source, dev, out = tmp_path / case.name, tmp_path / "dev-rows", tmp_path / "out"
    source.write_bytes(case.content)
    dev.mkdir()
    (dev / "dev.json").write_text(DEV, encoding=case.config.get("encoding", "utf-8"))
    out.mkdir()
    files = [(case.name, source), ("held-out/dev.json", dev / "dev.json")]
    config = DataConfig.model_validate({"max_bad_fraction": 0.5} | case.config)
    if case.refused:
        with pytest.raises(DataError) as caught:
            conversion.convert(files, out, config)
        assert case.refused in str(caught.value)
        assert Path(case.name).stem in str(caught.value)
        assert str(caught.value).rstrip().endswith(".")
        return
    ledger = conversion.convert(files, out, config)
    account = ledger.files[-1]
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").open(encoding="utf-8")]
    assert [(row["line"], row["code"]) for row in rejected] == list(case.rejected)
    assert (account.kept, account.duplicates) == (case.kept, case.duplicates)
    assert account.encoding == case.encoding
    assert all(row["file"] == account.file and row["raw"] and row["reason"] for row in rejected)


def test_the_files_are_those_of_the_script() -> None:
    stored = {case.name: case.content for case in malformed.CASES if case.stored}
    assert len(stored) >= 40
    assert {path.name: path.read_bytes() for path in malformed.FOLDER.iterdir()} == stored
