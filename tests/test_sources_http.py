"""Downloads from a server on this machine that misbehaves: each ends well, or with a sentence that says what to do."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import flaky_server
import pytest
from flaky_server import File, FlakyServer
from s3_servers import certify

from tasks.errors import ConfigError, DataError, PipelineError, TransientError
from tasks.sources import ROWS, Arrival, Request, http
from tasks.sources.patience import Patience

pytestmark = pytest.mark.usefixtures("home")

PROJECT = Path(__file__).parents[1]
BODY = random.Random(17).randbytes(150_000)
OTHER = random.Random(18).randbytes(150_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
WEDNESDAY = "Wed, 21 Oct 2015 07:28:00 GMT"
THURSDAY = "Thu, 22 Oct 2015 07:28:00 GMT"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what arrives half is kept."""
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of nobody: to load those of the world costs each client 30 ms."""
    certificate, _ = certify(tmp_path_factory.mktemp("nobody"))
    return certificate


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch, nobody: Path) -> None:
    """No proxy of this machine stands before a server of these tests."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SSL_CERT_FILE", str(nobody))


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    """A running server."""
    with flaky_server.running() as running:
        yield running


@dataclass
class Reader:
    """Fetches into new folders with a clock that does not wait."""

    folder: Path
    slept: list[float] = field(default_factory=list)
    told: list[tuple[int, int]] = field(default_factory=list)
    stall_seconds: float = 20.0

    def __call__(
        self, uri: str, tag: str = "", sha256: str = "", mirrors: tuple[str, ...] = ()
    ) -> bytes:
        """Return the bytes that arrived, empty when nothing has changed."""
        arrival = self.fetch(Request(uri, ROWS, "source.uri", sha256, mirrors), tag)
        return (self.into / arrival.names[0]).read_bytes() if arrival.names else b""

    def fetch(self, request: Request, tag: str = "") -> Arrival:
        """Fetch into a new folder."""
        self.into = self.folder / str(len(list(self.folder.iterdir())))
        self.into.mkdir()
        patience = Patience(stall_seconds=self.stall_seconds, sleep=self.sleep)
        self.arrival = http.fetch(request, self.into, tag, self.tell, patience)
        return self.arrival

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def tell(self, done: int, expected: int) -> None:
        self.told.append((done, expected))


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    (tmp_path / "into").mkdir()
    return Reader(tmp_path / "into")


def shelves(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "downloads").iterdir() if path.is_dir())


# What arrives whole.


def test_a_file_arrives_with_its_name_its_tag_and_nothing_left_behind(
    server: FlakyServer, read: Reader, home: Path
) -> None:
    assert read(server.put("/train.json", File(BODY))) == BODY
    assert read.arrival.names == ("train.json",)
    assert read.arrival.tag.endswith(' "v1"')
    assert not list((home / "downloads").iterdir())
    assert read.told[0] == (0, len(BODY))
    assert read.told[-1] == (len(BODY), len(BODY))


@pytest.mark.parametrize(
    "file", [File(BODY, chunked=True), File(BODY, etag="", modified="")], ids=["chunked", "bare"]
)
def test_a_file_arrives_without_length_or_validators(
    server: FlakyServer, read: Reader, file: File
) -> None:
    assert read(server.put("/train.json", file)) == BODY


def test_it_is_asked_for_as_it_is(server: FlakyServer, read: Reader) -> None:
    read(server.put("/train.json", File(BODY)))
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_what_the_server_packs_with_gzip_all_the_same_is_kept_as_it_came(
    server: FlakyServer, read: Reader
) -> None:
    packed = b"\x1f\x8b" + BODY
    file = File(packed, more={"Content-Encoding": "gzip"}, cuts=[1000])
    assert read(server.put("/train.json", file)) == packed


def test_another_packing_is_refused(server: FlakyServer, read: Reader) -> None:
    uri = server.put("/train.json", File(BODY, more={"Content-Encoding": "br"}))
    with pytest.raises(
        ConfigError, match=r"packs what it was asked to send as it is \(found Content-Encoding br"
    ):
        read(uri)


# What is cut.


@pytest.mark.parametrize("offset", [0, 1, 999, 50_000, len(BODY) - 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_connection_goes_on_where_it_was_cut(
    server: FlakyServer, read: Reader, offset: int, chunked: bool
) -> None:
    assert read(server.put("/train.json", File(BODY, cuts=[offset], chunked=chunked))) == BODY
    assert server.starts() == [0, offset]
    assert read.slept == [0.5]


def test_a_connection_that_is_cut_again_and_again_ends_well(
    server: FlakyServer, read: Reader
) -> None:
    assert read(server.put("/train.json", File(BODY, cuts=[1000] * 25))) == BODY
    assert server.starts() == [1000 * number for number in range(26)]


def test_a_date_is_as_good_as_an_etag(server: FlakyServer, read: Reader) -> None:
    file = File(BODY, etag="", modified=WEDNESDAY, cuts=[1000])
    assert read(server.put("/train.json", file)) == BODY
    assert server.starts() == [0, 1000]
    assert server.asked[1].headers["If-Range"] == WEDNESDAY


@pytest.mark.parametrize(
    "file",
    [
        File(BODY, etag="", cuts=[1000]),
        File(BODY, etag='W/"v1"', cuts=[1000]),
        File(BODY, etag='"é"', cuts=[1000]),
        File(BODY, ranges=False, cuts=[1000]),
    ],
    ids=["no validators", "weak etag", "etag that cannot be sent back", "Range ignored"],
)
def test_what_cannot_be_confirmed_begins_anew(
    server: FlakyServer, read: Reader, file: File
) -> None:
    assert read(server.put("/train.json", file)) == BODY
    assert len(server.asked) == 2
    assert ("Range" in server.asked[1].headers) is not file.ranges


def test_a_server_that_cannot_go_on_and_always_cuts_is_left_to_the_next_attempt(
    server: FlakyServer, read: Reader
) -> None:
    uri = server.put("/train.json", File(BODY, etag="", cuts=[1000, 2000, 3000, 4000, 5000, 6000]))
    with pytest.raises(TransientError, match="cannot go on where the connection was cut"):
        read(uri)
    assert len(server.asked) == 5


def test_a_weak_etag_beside_a_date_goes_on_by_the_date(server: FlakyServer, read: Reader) -> None:
    file = File(BODY, etag='W/"v1"', modified=WEDNESDAY, cuts=[1000])
    assert read(server.put("/train.json", file)) == BODY
    assert server.starts() == [0, 1000]
    assert server.asked[1].headers["If-Range"] == WEDNESDAY


@pytest.mark.parametrize("checks", [True, False], ids=["If-Range", "only its ETag tells"])
def test_content_that_changes_between_two_parts_begins_anew(
    server: FlakyServer, read: Reader, checks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = server.put("/train.json", File(BODY, cuts=[1000]))
    changed = File(OTHER, etag='"v2"', checks=checks)
    monkeypatch.setattr(read, "sleep", lambda _: server.put("/train.json", changed))
    assert read(uri) == OTHER
    assert read.arrival.tag.endswith('"v2"')


@pytest.mark.parametrize(
    "wrong",
    [
        "bytes {next}-{last}/{whole}",
        "bytes {start}-{last}/*1",
        "bytes 0-{last}/{whole}",
        "bytes {start}-{start}/{whole}",
        "x",
    ],
)
def test_a_part_that_is_not_the_one_asked_for_is_never_added(
    server: FlakyServer, read: Reader, wrong: str
) -> None:
    def told(start: int, whole: int) -> str:
        return wrong.format(start=start, next=start + 1, last=whole - 1, whole=whole)

    assert read(server.put("/train.json", File(BODY, cuts=[1000], partial=told))) == BODY
    assert server.starts() == [0, 1000, 0]


def test_a_length_that_promises_too_much_ends_at_what_there_is(
    server: FlakyServer, read: Reader
) -> None:
    assert read(server.put("/train.json", File(BODY, length=len(BODY) + 10))) == BODY
    assert server.starts() == [0, len(BODY)]


def test_a_length_that_promises_too_much_every_time_is_an_error(
    server: FlakyServer, read: Reader
) -> None:
    uri = server.put("/train.json", File(BODY, length=len(BODY) + 10, etag=""))
    with pytest.raises(TransientError, match=r"source\.uri: http://127"):
        read(uri)


def test_a_length_that_promises_too_little_is_told_by_the_digest(
    server: FlakyServer, read: Reader
) -> None:
    uri = server.put("/train.json", File(BODY, length=len(BODY) - 10))
    with pytest.raises(DataError, match=r"^source\.sha256: the source is not the expected one"):
        read(uri, sha256=SHA256)


def test_a_part_with_more_bytes_than_announced_is_thrown_away(
    server: FlakyServer, read: Reader
) -> None:
    def shorter(start: int, whole: int) -> str:
        return f"bytes {start}-{whole - 11}/{whole - 10}"

    # nothing but the parts says how long it is
    file = File(BODY, chunked=True, cuts=[1000], partial=shorter)
    assert read(server.put("/train.json", file)) == BODY
    assert server.starts() == [0, 1000, 0]


def test_a_part_that_was_cut_after_its_last_byte_is_whole(
    server: FlakyServer, read: Reader
) -> None:
    file = File(BODY, chunked=True, cuts=[len(BODY)])
    assert read(server.put("/train.json", file)) == BODY
    assert server.starts() == [0, len(BODY)]


def test_content_that_became_shorter_begins_anew(
    server: FlakyServer, read: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = server.put("/train.json", File(BODY, cuts=[1000]))
    for shorter in (OTHER[:1000], OTHER[:500]):
        changed = File(shorter, etag='"v2"', checks=False)
        monkeypatch.setattr(
            read, "sleep", lambda _, changed=changed: server.put("/train.json", changed)
        )
        assert read(uri) == shorter
        server.put("/train.json", File(BODY, cuts=[1000]))


def test_more_than_the_disk_has_room_for_is_refused_at_once(
    server: FlakyServer, read: Reader
) -> None:
    uri = server.put("/train.json", File(BODY, length=10**17))
    with pytest.raises(
        ConfigError, match=r"the disk of .* is full \(\d+ MiB free\)\. Free some space"
    ):
        read(uri, mirrors=(server.url("/mirror.json"),))
    assert len(server.asked) == 1


# What stalls, and what is slow.


def test_a_silent_connection_is_given_up_and_goes_on(server: FlakyServer, read: Reader) -> None:
    read.stall_seconds = 0.3
    assert read(server.put("/train.json", File(BODY, stalls=[1000]))) == BODY
    assert server.starts() == [0, 1000]


def test_a_server_that_stays_silent_is_worth_another_attempt_which_goes_on(
    server: FlakyServer, read: Reader, home: Path
) -> None:
    read.stall_seconds = 0.3
    uri = server.put("/train.json", File(BODY, stalls=[1000, 0, 0]))
    with pytest.raises(
        TransientError, match=r"nothing came for 0\.3 s; 1,000 of 150,000 bytes are here and kept"
    ):
        read(uri)
    assert len(shelves(home)) == 1
    assert read(uri) == BODY
    assert server.starts()[-1] == 1000
    assert shelves(home) == []


def test_a_connection_that_drips_is_given_up(server: FlakyServer, tmp_path: Path) -> None:
    uri = server.put("/train.json", File(BODY, cuts=[100] * 9))
    clock = iter(range(0, 10**9, 1000))
    patience = Patience(ticks=lambda: float(next(clock)), sleep=lambda _: None)
    with pytest.raises(TransientError, match=r"only [\d,]+ bytes came in \d+ s"):
        http.fetch(Request(uri, ROWS, "source.uri"), tmp_path, patience=patience)
    assert server.starts() == [0, 100]


def test_a_server_that_is_not_there_is_worth_another_try(read: Reader) -> None:
    with pytest.raises(
        TransientError, match=r"^source\.uri: http://127\.0\.0\.1:9/train\.json: .*refused"
    ):
        read("http://127.0.0.1:9/train.json")


# Across processes.

PROGRAM = """
import sys
from pathlib import Path
from tasks.sources import ROWS, Request, fetch
fetch(Request(sys.argv[1], ROWS, "source.uri"), Path(sys.argv[2]), progress=lambda done, _: print(done, flush=True))
"""


def test_what_a_killed_process_fetched_is_not_fetched_again(
    server: FlakyServer, read: Reader, tmp_path: Path, home: Path
) -> None:
    uri = server.put("/train.json", File(BODY, stalls=[100_000]))
    first = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, uri, str(tmp_path)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    with first.stdout as lines:
        there = next(int(line) for line in lines if int(line))
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -9
    assert read(uri) == BODY
    assert there <= server.starts()[1] <= 100_000
    assert shelves(home) == []


def test_two_that_fetch_the_same_do_not_write_one_part(
    server: FlakyServer, read: Reader, tmp_path: Path
) -> None:
    uri = server.put("/train.json", File(BODY, stalls=[1000]))
    begun = threading.Event()
    request = Request(uri, ROWS, "source.uri")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()

    def waiting(_: float) -> None:  # the second waits: let the first go on
        server.released.set()

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(
            http.fetch,
            request,
            tmp_path / "one",
            progress=lambda done, _: begun.set() if done else None,
            patience=Patience(sleep=lambda _: None),
        )
        assert begun.wait(10)
        two = pool.submit(http.fetch, request, tmp_path / "two", patience=Patience(sleep=waiting))
        assert one.result(30).names == two.result(30).names == ("train.json",)
    assert (tmp_path / "one" / "train.json").read_bytes() == BODY
    assert (tmp_path / "two" / "train.json").read_bytes() == BODY
    assert server.starts() == [0, 1000, 0]


def test_a_part_whose_note_is_lost_or_damaged_begins_anew(
    server: FlakyServer, read: Reader, home: Path
) -> None:
    uri = server.put("/train.json", File(BODY, cuts=[1000, 0, 0, 1000, 0, 0]))
    for harm in ("{", '{"address": 1}', '{"address": "x", "total": "7"}', "[]"):
        with pytest.raises(TransientError):
            read(uri)
        (note,) = (home / "downloads").glob("*/part.json")
        note.write_text(harm)
        server.files["/train.json"].cuts[:] = [1000, 0, 0] if harm != "[]" else []
        server.asked.clear()
    assert read(uri) == BODY
    assert server.starts() == [0]


def test_a_part_that_was_whole_when_its_process_died_is_confirmed_with_one_byte(
    server: FlakyServer, read: Reader, home: Path
) -> None:
    uri = server.put("/train.json", File(BODY, cuts=[1000, 0, 0]))
    with pytest.raises(TransientError):
        read(uri)
    (part,) = (home / "downloads").glob("*/part")
    part.write_bytes(BODY)
    assert read(uri) == BODY
    assert server.starts()[-1] == len(BODY) - 1


def test_a_part_that_nobody_came_back_for_is_swept(
    server: FlakyServer, read: Reader, home: Path
) -> None:
    with pytest.raises(TransientError):
        read(server.put("/old.json", File(BODY, cuts=[1000, 0, 0])))
    (old,) = shelves(home)
    with pytest.raises(TransientError):
        read(server.put("/new.json", File(BODY, cuts=[1000, 0, 0])))
    assert len(shelves(home)) == 2
    month = 31 * 24 * 3600
    for path in [*(home / "downloads").rglob(f"{old}*"), *(home / "downloads" / old).iterdir()]:
        os.utime(path, (path.stat().st_atime - month, path.stat().st_mtime - month))
    read(server.put("/third.json", File(BODY)))
    assert len(shelves(home)) == 1
    assert old not in shelves(home)


# What has not changed.


@pytest.mark.parametrize(
    "file",
    [File(BODY), File(BODY, etag='W/"v1"'), File(BODY, etag="", modified=WEDNESDAY)],
    ids=["etag", "weak etag", "date"],
)
def test_what_has_not_changed_is_not_sent_again(
    server: FlakyServer, read: Reader, file: File
) -> None:
    uri = server.put("/train.json", file)
    read(uri)
    tag = read.arrival.tag
    assert read(uri, tag=tag) == b""
    assert read.arrival == Arrival((), tag)
    server.put("/train.json", File(OTHER, etag='"v2"', modified=THURSDAY))
    assert read(uri, tag=tag) == OTHER


def test_without_validators_there_is_no_tag(server: FlakyServer, read: Reader) -> None:
    read(server.put("/train.json", File(BODY, etag="")))
    assert read.arrival.tag == ""


def test_a_tag_of_another_address_is_not_sent(server: FlakyServer, read: Reader) -> None:
    read(server.put("/a.json", File(BODY)))
    assert read(server.put("/b.json", File(OTHER)), tag=read.arrival.tag) == OTHER
    assert "If-None-Match" not in server.asked[-1].headers


def test_a_half_fetched_change_that_was_taken_back_is_thrown_away(
    server: FlakyServer, read: Reader, home: Path
) -> None:
    uri = server.put("/train.json", File(BODY))
    read(uri)
    tag = read.arrival.tag
    server.put("/train.json", File(OTHER, etag='"v2"', cuts=[1000, 0, 0]))
    with pytest.raises(TransientError):
        read(uri, tag=tag)
    server.put("/train.json", File(BODY))
    assert read(uri, tag=tag) == b""
    assert shelves(home) == []


# What is refused.


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (400, ConfigError, "found status 400"),
        (401, ConfigError, "It wants a user"),
        (403, ConfigError, "Check that anyone may read it"),
        (404, ConfigError, "Check the spelling"),
        (410, ConfigError, "It was removed"),
        (204, ConfigError, "found status 204"),
        (501, ConfigError, "found status 501"),
        (408, TransientError, "answered 408"),
        (429, TransientError, "answered 429"),
        (500, TransientError, "answered 500"),
        (503, TransientError, "answered 503"),
        (522, TransientError, "answered 522"),
    ],
)
def test_a_bad_answer_is_told_apart_by_whether_waiting_helps(
    server: FlakyServer, read: Reader, status: int, kind: type[PipelineError], message: str
) -> None:
    uri = server.put("/train.json", File(BODY, first=[(status, {}, b"")] * 5))
    with pytest.raises(kind, match=message):
        read(uri)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.5),
        ("Wed, 21 Oct 2015 07:28:20 GMT", 20.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.5),
        ("soon", 0.5),
        ("-3", 0.5),
        ("", 0.5),
    ],
)
def test_retry_after_is_waited_for(
    server: FlakyServer, read: Reader, status: int, after: str, seconds: float
) -> None:
    busy = (status, {"Retry-After": after, "Date": WEDNESDAY}, b"")
    assert read(server.put("/train.json", File(BODY, first=[busy]))) == BODY
    assert sum(read.slept) == pytest.approx(seconds)


def test_somebody_who_watches_is_told_each_second_of_a_wait(
    server: FlakyServer, read: Reader
) -> None:
    read(
        server.put(
            "/train.json", File(BODY, cuts=[1000], first=[(503, {"Retry-After": "30"}, b"")])
        )
    )
    assert max(read.slept) <= 1.0
    assert len(read.told) >= 30


def test_a_server_that_asks_for_more_than_a_minute_is_left_to_the_step(
    server: FlakyServer, read: Reader
) -> None:
    uri = server.put("/train.json", File(BODY, first=[(429, {"Retry-After": "3600"}, b"")]))
    with pytest.raises(
        TransientError, match=r"come back in 3600 s, at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    ):
        read(uri)
    assert read.slept == []


def test_a_server_that_is_busy_for_ever_ends(server: FlakyServer, read: Reader) -> None:
    uri = server.put("/train.json", File(BODY, first=[(503, {"Retry-After": "1"}, b"")] * 50))
    with pytest.raises(TransientError, match="answered 503"):
        read(uri)
    assert len(server.asked) <= 10


def test_an_empty_download_is_refused(server: FlakyServer, read: Reader, home: Path) -> None:
    with pytest.raises(
        DataError, match=r"^source\.uri: the download is empty \(found 0 bytes at .*\)\. Check"
    ):
        read(server.put("/train.json", File(b"")))
    assert shelves(home) == []


PAGES = [
    b"<!DOCTYPE html><html><body>Sign in</body></html>",
    b"\xef\xbb\xbf\r\n\t <!doctype  HTML>",
    b"<html lang=en>",
    b"<!-- a comment -->\n<!-- another --><HTML>",
    b"<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC 'x'>",
    b"<head><title>Moved</title>",
    b"<script>location='/login'</script>",
    "\ufeff<!doctype html>".encode("utf-16-le"),
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream"])
def test_a_web_page_is_told_by_its_content(
    server: FlakyServer, read: Reader, page: bytes, kind: str, home: Path
) -> None:
    with pytest.raises(ConfigError, match=r"sent a web page instead of data \(found http"):
        read(server.put("/train.json", File(page, kind=kind)))
    assert shelves(home) == []


@pytest.mark.parametrize("path", ["/train.json", "/page.html"])
def test_a_web_page_is_told_by_its_type(server: FlakyServer, read: Reader, path: str) -> None:
    with pytest.raises(ConfigError, match="a web page instead of data"):
        read(server.put(path, File(BODY, kind="Text/HTML; charset=utf-8")))


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_web_page_is_told_although_it_is_cut(server: FlakyServer, read: Reader, cut: int) -> None:
    with pytest.raises(ConfigError, match="a web page instead of data"):
        read(server.put("/train.json", File(PAGES[0] * 50, cuts=[cut])))


@pytest.mark.parametrize(
    "data",
    [
        b'{"content": "<html>"}',
        b"<id>,text\n1,a\n",
        b'[{"a": "<!doctype html>"}]',
        b"<p1>\t<p2>\n",
        b"<headline>,x\n",
    ],
)
def test_data_about_web_pages_is_data(server: FlakyServer, read: Reader, data: bytes) -> None:
    assert read(server.put("/train.json", File(data))) == data


def test_a_type_that_is_only_careless_does_not_refuse_an_attachment(
    server: FlakyServer, read: Reader
) -> None:
    file = File(BODY, kind="text/html", more={"Content-Disposition": "attachment; filename=a.json"})
    assert read(server.put("/get.php", file)) == BODY


# Digests and mirrors.


def test_the_expected_file_is_taken_and_goes_on_without_validators(
    server: FlakyServer, read: Reader
) -> None:
    assert (
        read(server.put("/train.json", File(BODY, etag="", cuts=[1000] * 5)), sha256=SHA256) == BODY
    )
    assert server.starts() == [0, 1000, 2000, 3000, 4000, 5000]


def test_another_file_is_thrown_away_with_both_digests(
    server: FlakyServer, read: Reader, home: Path
) -> None:
    found = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(
        DataError, match=rf"found {found} at http.*expected {SHA256}\)\. Check the address"
    ):
        read(server.put("/train.json", File(OTHER)), sha256=SHA256)
    assert shelves(home) == []
    assert not list(read.into.iterdir())


def test_two_halves_that_do_not_fit_are_fetched_once_more_from_the_beginning(
    server: FlakyServer, read: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = server.put("/train.json", File(OTHER, etag="", cuts=[1000]))
    monkeypatch.setattr(read, "sleep", lambda _: server.put("/train.json", File(BODY, etag="")))
    assert read(uri, sha256=SHA256) == BODY
    assert server.starts() == [0, 1000, 0]


def test_two_halves_of_what_is_another_file_anyway_end(server: FlakyServer, read: Reader) -> None:
    whole = len(OTHER)
    uri = server.put("/train.json", File(OTHER, etag="", cuts=[1000, whole, 1000, whole]))
    with pytest.raises(DataError, match="not the expected one"):
        read(uri, sha256=SHA256)
    assert server.starts() == [0, 1000, 0, 0]


@pytest.mark.parametrize(
    "bad",
    [File(BODY, first=[(404, {}, b"")]), File(b""), File(PAGES[0])],
    ids=["404", "empty", "page"],
)
def test_the_next_mirror_is_asked_when_one_fails_for_good(
    server: FlakyServer, read: Reader, bad: File
) -> None:
    uri, mirror = server.put("/a/train.json", bad), server.put("/b/train.json", File(BODY))
    assert read(uri, mirrors=(mirror,)) == BODY
    tag = read.arrival.tag
    assert read(uri, tag=tag, mirrors=(mirror,)) in (b"", BODY)


def test_the_next_mirror_is_asked_when_one_is_busy_or_another_file(
    server: FlakyServer, read: Reader
) -> None:
    busy = server.put("/a/train.json", File(BODY, first=[(503, {"Retry-After": "600"}, b"")]))
    wrong = server.put("/b/train.json", File(OTHER))
    assert (
        read(busy, sha256=SHA256, mirrors=(wrong, server.put("/c/train.json", File(BODY)))) == BODY
    )
    assert read.slept == []


@pytest.mark.parametrize(
    ("sha256", "start"), [("", 0), (SHA256, 1000)], ids=["never mixed", "pinned"]
)
def test_a_part_of_one_mirror_is_used_at_another_only_when_a_digest_pins_the_whole(
    server: FlakyServer, read: Reader, sha256: str, start: int
) -> None:
    uri = server.put("/a/train.json", File(BODY, cuts=[1000, 0, 0]))
    mirror = server.put("/b/train.json", File(BODY, etag='"theirs"'))
    assert read(uri, sha256=sha256, mirrors=(mirror,)) == BODY
    assert server.starts()[-1] == start


def test_when_no_address_gives_the_file_every_failure_is_listed(
    server: FlakyServer, read: Reader
) -> None:
    gone, busy = (
        server.url("/gone.json"),
        server.put("/b.json", File(BODY, first=[(500, {}, b"")] * 9)),
    )
    with pytest.raises(ConfigError) as refused:
        read(gone, mirrors=(server.url("/gone2.json"),))
    assert str(refused.value).count("found status 404") == 2
    assert str(refused.value).startswith(
        "source.uri: none of 2 addresses gave the file (found 1. source.uri: "
    )
    assert "2. source.mirrors: " in str(refused.value)
    with pytest.raises(TransientError, match=r"found status 404.*answered 500"):
        read(gone, mirrors=(busy,))


# Redirects, and who may know what.


def test_redirects_are_followed(server: FlakyServer, read: Reader) -> None:
    end = server.put("/files/train.json", File(BODY, cuts=[1000]))
    hops = [
        (status, {"Location": "/files/train.json"}, b"moved")
        for status in (301, 302, 303, 307, 308)
    ]
    assert read(server.put("/go", File(BODY, first=hops))) == BODY
    assert read.arrival.names == ("train.json",)
    assert [each.path for each in server.asked] == ["/go", "/files/train.json"] * 2
    assert end.endswith(server.asked[-1].path)


def test_a_name_that_says_something_is_preferred_to_a_digest_behind_a_redirect(
    server: FlakyServer, read: Reader
) -> None:
    server.put("/blob/3f2a9c", File(BODY))
    read(server.put("/train.json", File(first=[(302, {"Location": "/blob/3f2a9c"}, b"")])))
    assert read.arrival.names == ("train.json",)


def test_redirects_without_end_are_refused(server: FlakyServer, read: Reader) -> None:
    uri = server.put("/a", File(first=[(302, {"Location": "/a"}, b"")] * 50))
    with pytest.raises(ConfigError, match=r"found more than 10 redirects"):
        read(uri)
    assert len(server.asked) == 11


@pytest.mark.parametrize(
    "place", ["ftp://127.0.0.1/train.json", "file:///etc/passwd", "//[oops/", "http://"]
)
def test_a_redirect_to_anything_else_is_an_error(
    server: FlakyServer, read: Reader, place: str
) -> None:
    uri = server.put("/a", File(first=[(302, {"Location": place}, b"")] * 9))
    with pytest.raises(PipelineError, match=r"source\.uri"):
        read(uri)


def secure(server_folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certify(server_folder))
    return context


def test_https_is_read_and_never_left_for_http(
    server: FlakyServer, read: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = server.put("/train.json", File(BODY))
    with flaky_server.running(secure(tmp_path)) as safe:
        uri = safe.put("/train.json", File(BODY))
        with pytest.raises(ConfigError, match=r"the certificate of https://.* is not trusted"):
            read(uri)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        assert read(uri) == BODY
        away = safe.put("/away", File(first=[(302, {"Location": plain}, b"")]))
        with pytest.raises(ConfigError, match=r"leads from https to http, .*\(found http://127"):
            read(away)
        there = server.put("/there", File(first=[(302, {"Location": uri}, b"")]))
        assert read(there) == BODY


def test_a_certificate_file_that_is_not_there_is_named(
    read: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(ConfigError, match=r"^environment: .*Check HTTP_PROXY.*SSL_CERT_FILE"):
        read("https://127.0.0.1:9/train.json")


def test_credentials_are_used_and_never_seen(
    server: FlakyServer, read: Reader, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    plain = server.put("/train.json", File(BODY, cuts=[1000, 0, 0]))
    uri = plain.replace("//", "//user:pa55word@") + "?part=1&X-Amz-Signature=s3cret&token=t0ken"
    with pytest.raises(TransientError) as failed:
        read(uri)
    assert server.asked[0].headers["Authorization"] == "Basic dXNlcjpwYTU1d29yZA=="
    assert "token=t0ken" in server.asked[0].path
    kept = "".join(path.read_text("latin-1") for path in home.rglob("*.json"))
    seen = f"{failed.value} {caplog.text} {kept} {[str(path) for path in home.rglob('*')]}"
    assert plain + "?part=1" in str(failed.value)
    for secret in ("pa55word", "s3cret", "t0ken", "dXNlcjpwYTU1d29yZA"):
        assert secret not in seen
    # another signature of the same file goes on with the same part
    assert read(uri.replace("s3cret", "an0ther")) == BODY
    assert server.starts()[-1] == 1000


def test_credentials_do_not_follow_a_redirect_to_another_host(
    server: FlakyServer, read: Reader
) -> None:
    with flaky_server.running() as other:
        away = other.put("/train.json", File(BODY))
        here = server.put("/a", File(first=[(302, {"Location": "/b"}, b"")]))
        server.put("/b", File(first=[(302, {"Location": away}, b"")]))
        assert read(here.replace("//", "//user:pa55word@")) == BODY
        assert "Authorization" in server.asked[1].headers
        assert "Authorization" not in other.asked[0].headers


# Names.


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/x", 'attachment; filename="../../x.json"', "x.json"),
        (
            "/x",
            "attachment; filename=a.json; filename*=UTF-8''%E5%B9%BF%E5%91%8A.json",
            "广告.json",
        ),
        ("/x", 'attachment; filename="广告.json"', "广告.json"),
        ("/x", 'attachment; filename="record.json"', "_record.json"),
        ("/%E5%B9%BF.json?dl=1", "", "广.json"),
        ("/d/0a1b/", "", "download"),
        ("/", "", "download"),
        ("/..%2F..%2Fetc%2Fpasswd", "", "passwd"),
    ],
)
def test_a_file_is_named_by_its_server_and_stays_in_its_folder(
    server: FlakyServer, read: Reader, path: str, disposition: str, name: str
) -> None:
    server.put(path.partition("?")[0], File(BODY, more={"Content-Disposition": disposition}))
    assert read(server.url(path)) == BODY
    assert read.arrival.names == (name,)
    assert [each.name for each in read.into.iterdir()] == [name]


@pytest.mark.parametrize(
    "uri", ["http://", "https:///path", "http://[::1", "http://a b/", "http://h:99999/x"]
)
def test_what_is_no_address_is_refused_before_anything_is_asked(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^source\.uri: not an"):
        http.check(Request(uri, ROWS, "source.uri"))
    with pytest.raises(ConfigError, match=r"^source\.mirrors: not an"):
        http.check(Request("http://h/x", ROWS, "source.uri", mirrors=(uri,)))
