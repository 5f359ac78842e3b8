"""What a place did not send again is taken from the store, whatever it was fetched together with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import sources
from tasks.artifacts import RawFile
from tasks.config import FinetuneConfig, SourceConfig
from tasks.data import fetch
from tasks.provenance import made
from tasks.sources import Arrival, Request

pytestmark = pytest.mark.usefixtures("home", "quiet_logs")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Texts by address, each with its own text as its tag: an address with the same text is not sent again."""
    texts: dict[str, str] = {}

    def answer(request: Request, into: Path, tag: str = "", progress: object = None) -> Arrival:
        text = texts[request.uri]
        if tag == text:
            return Arrival((), text)
        name = request.uri.rpartition("/")[2]
        (into / name).write_text(text)
        return Arrival((name,), text)

    monkeypatch.setattr(sources, "fetch", answer)
    return texts


def files(raw: RawFile) -> dict[str, str]:
    from tasks import store

    return {name: (store.resolve(raw.uri) / name).read_text() for name in raw.files}


def test_an_address_once_fetched_for_dev_is_later_fetched_for_train(place: dict[str, str]) -> None:
    place |= {"http://h/a.json": "A", "http://h/b.json": "B"}
    both = SourceConfig(uri="http://h/a.json", dev_uri="http://h/b.json")
    assert files(fetch.fn(both)) == {"a.json": "A", "held-out/b.json": "B"}
    assert files(fetch.fn(SourceConfig(uri="http://h/b.json"))) == {"b.json": "B"}
    alone = fetch.fn(SourceConfig(uri="http://h/a.json"))
    assert files(alone) == {"a.json": "A"}
    assert fetch.fn(SourceConfig(uri="http://h/a.json")) == alone
    assert files(fetch.fn(both)) == {"a.json": "A", "held-out/b.json": "B"}
    swapped = SourceConfig(uri="http://h/b.json", dev_uri="http://h/a.json")
    assert files(fetch.fn(swapped)) == {"b.json": "B", "held-out/a.json": "A"}


def test_only_what_changed_is_sent_again(place: dict[str, str]) -> None:
    place |= {"http://h/a.json": "A", "http://h/b.json": "B"}
    both = SourceConfig(uri="http://h/a.json", dev_uri="http://h/b.json")
    fetch.fn(both)
    place["http://h/b.json"] = "C"
    assert files(fetch.fn(both)) == {"a.json": "A", "held-out/b.json": "C"}


def test_what_a_file_is_called_is_part_of_what_it_is() -> None:
    one, other = (
        RawFile.model_construct(uri="u", digest="d", files=files)
        for files in (("a.json",), ("held-out/a.json",))
    )
    assert one.identity() != other.identity()


@given(st.sampled_from(["https://me:secret@host/a", "https://host/a?token=secret"]))
def test_no_record_tells_a_password(uri: str) -> None:
    config = FinetuneConfig(source=SourceConfig(uri=uri, dev_uri=uri, mirrors=[uri]))
    assert "secret" not in str(made("publish", config))
    assert "secret" not in str(made("fetch", config.source))
