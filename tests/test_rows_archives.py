"""Archives: what is read out of them, under which name, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tasks.errors import DataError
from tasks.rows import Reading, Row, archives, open_rows, tar
from tasks.rows.archives import Limits
from tasks.rows.unpacking import exactly

BODY = b'{"prompt": "a", "response": "b"}\n' * 40
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lzma.compress,
}
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def tar_of(
    files: dict[str, bytes], form: int = tarfile.PAX_FORMAT, kinds: dict[str, bytes] | None = None
) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return packed.getvalue()


def read(path: Path, limits: Limits = archives.LIMITS) -> dict[str, bytes]:
    """Return the parts of a file; `names` must agree."""
    found = {name: stream.read() for name, stream in archives.parts(path, lambda _: True, limits)}
    assert archives.names(path, limits) == list(found)
    return found


Parts = Iterator[tuple[str, BinaryIO]]


def first_part(path: Path) -> tuple[Parts, str, BinaryIO]:
    """Return the first part, and the parts themselves: the stream lives as long as they do."""
    parts = archives.parts(path, lambda _: True)
    return parts, *next(parts)


@pytest.fixture
def lay(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a file and return its path."""

    def write(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


Lay = Callable[[str, bytes], Path]


class TestWhatIsRead:
    FILES: ClassVar = {
        "train.json": BODY,
        "数据/dev.csv": b"a,b\n",
        "deep/" * 40 + "x.jsonl": b"",
        "t.parquet": b"x",
    }

    @pytest.mark.parametrize("packer", PACKERS)
    @pytest.mark.parametrize("form", FORMATS)
    def test_the_files_of_a_tar_archive(self, lay: Lay, packer: str, form: int) -> None:
        path = lay("data.bin", PACKERS[packer](tar_of(self.FILES, form)))
        wanted = {f"data.bin:{name}": body for name, body in self.FILES.items()}
        label = f"data.bin:…{('deep/' * 40 + 'x.jsonl')[-200:]}"
        wanted[label] = wanted.pop(f"data.bin:{'deep/' * 40}x.jsonl")
        assert read(path) == wanted

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_the_files_of_a_zip_archive_by_what_it_is_and_not_by_its_name(
        self, lay: Lay, method: int
    ) -> None:
        path = lay("data.json", zip_of({"train.json": BODY, "a/dev.TSV": b"a\tb\n"}, method))
        assert read(path) == {"data.json:train.json": BODY, "data.json:a/dev.TSV": b"a\tb\n"}

    def test_the_files_of_a_large_zip_archive_and_of_one_with_a_comment(
        self, lay: Lay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)  # writes the directory of zip64
            large = zip_of({"train.json": BODY})
        assert b"PK\x06\x06" in large
        assert read(lay("data", large)) == {"data:train.json": BODY}
        commented = io.BytesIO(zip_of({"train.json": BODY}))
        with zipfile.ZipFile(commented, "a") as archive:
            archive.comment = b"rows of 2023"
        assert read(lay("data", commented.getvalue())) == {"data:train.json": BODY}

    @pytest.mark.parametrize("packer", ["gz", "bz2", "xz"])
    def test_a_single_packed_file_is_named_without_its_ending(self, lay: Lay, packer: str) -> None:
        assert read(lay(f"train.json.{packer}", PACKERS[packer](BODY))) == {"train.json": BODY}
        assert read(lay("download", PACKERS[packer](BODY))) == {"download": BODY}

    @pytest.mark.parametrize("packer", ["gz", "bz2", "xz"])
    def test_several_packed_streams_in_a_row_are_one(self, lay: Lay, packer: str) -> None:
        pack = PACKERS[packer]
        data = b"".join(pack(BODY[start : start + 100]) for start in range(0, len(BODY), 100))
        assert read(lay("x.json", data + pack(b"") + bytes(512))) == {"x.json": BODY}

    def test_a_packed_file_inside_an_archive_is_unpacked_on_the_way(self, lay: Lay) -> None:
        files = {
            "train.json.gz": gzip.compress(BODY),
            "dev.json.gz": BODY,
            "x.gz": gzip.compress(b"1"),
        }
        for data in (tar_of(files), zip_of(files)):
            assert read(lay("data", data)) == {
                "data:train.json": BODY,
                "data:dev.json": BODY,
                "data:x": b"1",
            }

    @pytest.mark.parametrize("body", [b"", BODY, b"\x00" * 100, b"PAR1", "类型".encode()])
    def test_a_plain_file_is_its_own_only_part(self, lay: Lay, body: bytes) -> None:
        path = lay("train.tar.gz", body)
        assert read(path) == {"train.tar.gz": body}
        assert list(archives.parts(path, lambda _: False)) == []

    def test_only_what_is_wanted_in_the_order_of_the_archive(self, lay: Lay) -> None:
        files = {f"{number}.json": b"%d" % number for number in (3, 1, 2, 0)}
        for data in (tar_of(files), gzip.compress(tar_of(files)), zip_of(files)):
            path = lay("data", data)
            parts = archives.parts(path, lambda name: name.endswith(("2.json", "3.json")))
            assert [(name, stream.read()) for name, stream in parts] == [
                ("data:3.json", b"3"),
                ("data:2.json", b"2"),
            ]

    def test_a_stream_is_closed_when_the_next_is_asked_for_even_if_it_was_not_read(
        self, lay: Lay
    ) -> None:
        files = {"a.json": BODY * 100, "b.json": b"next"}
        for data in (tar_of(files), zip_of(files)):
            parts = archives.parts(lay("data", data), lambda _: True)
            _, first = next(parts)
            assert first.read(10) == BODY[:10]
            _, second = next(parts)
            assert first.closed
            assert second.read() == b"next"

    def test_rows_come_out_of_a_table_in_gbk_in_a_zip_from_windows(self, lay: Lay) -> None:
        table = "prompt;response\r\n类型#裙;“甜美”的裙子\r\n"
        path = lay("data.zip", zip_of({"训练.csv": table.encode("gbk")}))
        _parts, name, stream = first_part(path)
        opened = open_rows(stream, name, Reading(), lambda names: names == {"prompt", "response"})
        row = {"prompt": "类型#裙", "response": "“甜美”的裙子"}
        assert list(opened.rows) == [Row(2, row, "类型#裙;“甜美”的裙子\r\n")]

    def test_parquet_is_read_out_of_an_archive(self, lay: Lay) -> None:
        file = io.BytesIO()
        pq.write_table(pa.table({"prompt": ["a"] * 1000}), file)
        for data in (
            gzip.compress(tar_of({"x.parquet": file.getvalue()})),
            zip_of({"x.parquet": file.getvalue()}),
        ):
            _parts, name, stream = first_part(lay("data", data))
            opened = open_rows(stream, name, Reading(), lambda _: False)
            assert len(list(opened.rows)) == 1000


class TestNames:
    def test_no_name_leads_anywhere(self, lay: Lay, tmp_path: Path) -> None:
        files = {"../" * depth + f"{depth}.json": b"%d" % depth for depth in range(1000)}
        files |= {"/etc/passwd.json": b"x", "..\\..\\win.json": b"y", "./a//b/./c.json": b"z"}
        before = sorted(tmp_path.parent.rglob("*"))
        for data in (tar_of(files), zip_of(files)):
            found = read(lay("data", data))
            assert set(found) == {
                *(f"data:{depth}.json" for depth in range(1000)),
                *("data:etc/passwd.json", "data:win.json", "data:a/b/c.json"),
            }
        assert [*sorted(tmp_path.parent.rglob("*"))] == sorted([*before, tmp_path / "data"])

    def test_a_label_holds_nothing_that_a_terminal_obeys(self, lay: Lay) -> None:
        name = "a\x1b[31m\u202e\n.json"
        assert list(read(lay("data", tar_of({name: b""})))) == ["data:a?[31m??.json"]

    @pytest.mark.parametrize("encoding", ["gbk", "utf-8"])
    def test_those_of_old_zip_programs_are_read(self, lay: Lay, encoding: str) -> None:
        name = "数据/训练.json"
        # without the mark of UTF-8 in bit 11, as Windows in China and older Macs write it
        stand_in = "?" * len(name.encode(encoding))
        data = zip_of({stand_in: BODY}).replace(stand_in.encode(), name.encode(encoding))
        assert read(lay("data.zip", data)) == {f"data.zip:{name}": BODY}

    def test_those_of_old_tar_programs_are_read(self, lay: Lay) -> None:
        packed = io.BytesIO()
        with tarfile.open(
            fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="gbk"
        ) as archive:
            archive.addfile(tarfile.TarInfo("数据/训练.json"))
        assert list(read(lay("data", packed.getvalue()))) == ["data:数据/训练.json"]

    @pytest.mark.parametrize(
        "name",
        [
            "._train.json",
            "a/.hidden/train.json",
            ".git/x.json",
            "__MACOSX/train.json",
            "__MACOSX/._train.json",
            "README.md",
            "readme.txt",
            "a/LICENSE.TXT",
            "使用说明.txt",
            "run.py",
            "picture.png",
            "picture.png.gz",
            "json",
            "book.xlsx",
        ],
    )
    def test_what_cannot_hold_rows_is_passed_over(self, lay: Lay, name: str) -> None:
        for data in (
            tar_of({name: b"x", "train.json": BODY}),
            zip_of({name: b"x", "train.json": BODY}),
        ):
            assert read(lay("data", data)) == {"data:train.json": BODY}

    @pytest.mark.parametrize(
        "kind",
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE],
    )
    def test_links_folders_and_devices_are_passed_over(self, lay: Lay, kind: bytes) -> None:
        data = tar_of({"x.json": b"", "train.json": BODY}, kinds={"x.json": kind})
        assert read(lay("data", data)) == {"data:train.json": BODY}

    def test_a_link_in_a_zip_is_passed_over(self, lay: Lay) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            info = zipfile.ZipInfo("x.json")
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
            archive.writestr("train.json", BODY)
        assert read(lay("data", packed.getvalue())) == {"data:train.json": BODY}

    def test_two_files_of_one_name_are_refused(self, lay: Lay) -> None:
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w") as archive:
            archive.writestr("a.json", b"1")
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("a.json", b"2")
        same = {"a.json": b"1", "../a.json": b"2"}
        packed = {"a.json": b"1", "a.json.gz": gzip.compress(b"2")}
        for data in (twice.getvalue(), tar_of(same), zip_of(same), tar_of(packed)):
            with pytest.raises(DataError, match=r"data: two files of one name \(found: a\.json"):
                read(lay("data", data))


class TestWhatIsRefused:
    def refused(self, path: Path, message: str, limits: Limits = archives.LIMITS) -> None:
        with pytest.raises(DataError, match=message):
            read(path, limits)

    def test_an_archive_without_rows_says_what_was_there(self, lay: Lay) -> None:
        files = {f"{number}.png": b"" for number in range(15)}
        for data in (tar_of(files), zip_of(files)):
            self.refused(
                lay("data", data),
                r"data: no file in it can hold rows \(found: 0\.png, .*9\.png and 5 more\)\. .*\.parquet",
            )

    def test_an_empty_zip(self, lay: Lay) -> None:
        self.refused(lay("data", zip_of({})), r"no file in it can hold rows \(found: nothing\)")

    @pytest.mark.parametrize("data", [tar_of({}), gzip.compress(tar_of({}))])
    def test_an_empty_tar_which_is_zeros_and_no_more(self, lay: Lay, data: bytes) -> None:
        _parts, name, stream = first_part(lay("data", data))
        with pytest.raises(DataError, match="data: the file is empty"):
            open_rows(stream, name, Reading(), lambda _: False)

    @pytest.mark.parametrize(
        "inner", [tar_of({"a.json": BODY}), zip_of({"a.json": BODY}), bz2.compress(BODY)]
    )
    def test_an_archive_in_an_archive_also_under_the_name_of_rows(
        self, lay: Lay, inner: bytes
    ) -> None:
        for files in ({"a.json": inner}, {"a.json.gz": gzip.compress(inner)}):
            for data in (tar_of(files), zip_of(files)):
                self.refused(
                    lay("data", data), r"data:a\.json: an archive in an archive is not read"
                )

    @pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tgz", "a.7z", "a.json.bz2"])
    def test_an_archive_beside_rows(self, lay: Lay, name: str) -> None:
        data = tar_of({"train.json": BODY, name: b"x"})
        self.refused(lay("data", data), rf"an archive in an archive is not read \(found: {name}\)")

    def test_what_is_packed_twice(self, lay: Lay) -> None:
        self.refused(lay("x.gz", gzip.compress(gzip.compress(BODY))), r"\(found: gzip\)")
        self.refused(lay("x.gz", gzip.compress(zip_of({"a.json": BODY}))), r"\(found: zip\)")

    @pytest.mark.parametrize(
        ("data", "kind"),
        [
            (b"7z\xbc\xaf\x27\x1c\x00\x04", "7-Zip"),
            (b"Rar!\x1a\x07\x01\x00", "RAR"),
            (b"\x28\xb5\x2f\xfd\x00\x00", "zstd"),
        ],
    )
    def test_other_archives_with_what_to_do(self, lay: Lay, data: bytes, kind: str) -> None:
        self.refused(
            lay("x", data), rf"x: {kind} archives are not read .*Pack it as \.zip or \.tar\.gz"
        )

    def test_a_workbook(self, lay: Lay) -> None:
        data = zip_of({"[Content_Types].xml": b"<x/>", "xl/workbook.xml": b"<x/>"})
        self.refused(lay("book.xlsx", data), r"a document, not an archive.*CSV UTF-8")

    def test_a_password(self, lay: Lay) -> None:
        data = bytearray(zip_of({"a.json": BODY}))
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
        self.refused(lay("data.zip", bytes(data)), r"data\.zip:a\.json: it is encrypted")

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_an_unusual_method_in_a_zip(self, lay: Lay, method: int) -> None:
        data = zip_of({"a.json": BODY}, method)
        self.refused(
            lay("data.zip", data), rf"its compression is not read \(found: method {method}\)"
        )

    def test_a_sparse_file(self, lay: Lay) -> None:
        info = tarfile.TarInfo("a.json")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "a.json"}
        data = info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
        self.refused(lay("data.tar", data), r"data\.tar:a\.json: a sparse file is not read")

    def test_a_sparse_file_that_is_not_asked_for_is_passed_over(self, lay: Lay) -> None:
        info = tarfile.TarInfo("a.img")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[482] = 1  # its map goes on in a second block
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data = bytes(header) + b"7" * 504 + bytes(8) + bytes(512) + tar_of({"b.json": BODY})
        assert read(lay("data.tar", data)) == {"data.tar:b.json": BODY}


class TestDamage:
    @pytest.mark.parametrize("packer", PACKERS)
    def test_a_tar_archive_that_is_cut_anywhere_is_refused(self, lay: Lay, packer: str) -> None:
        data = PACKERS[packer](tar_of({"a.json": BODY * 20, "b.json": BODY}, tarfile.USTAR_FORMAT))
        body = len(data) if packer else len(data.rstrip(b"\0"))
        for size in range(600 if not packer else 30, body, max(1, body // 60)):
            with pytest.raises(
                DataError, match=r"data(:[ab]\.json)?: .*(cut off|damaged).*\(found"
            ):
                read(lay("data", data[:size]))

    @pytest.mark.parametrize("packer", ["gz", "bz2", "xz"])
    def test_a_packed_file_that_is_cut_or_damaged_says_so_while_it_is_read(
        self, lay: Lay, packer: str
    ) -> None:
        data = PACKERS[packer](random.Random(1).randbytes(300_000))
        hurt = bytearray(data)
        hurt[-30] ^= 1
        for broken in (data[:-5], data[: len(data) // 2], bytes(hurt)):
            _parts, name, stream = first_part(lay("x.json", broken))
            assert name == "x.json"
            with pytest.raises(
                DataError, match=r"^x\.json: the \w+ data is (cut off|damaged).*Fetch"
            ):
                stream.read()

    def test_a_checksum_that_does_not_fit_names_archive_and_member(self, lay: Lay) -> None:
        data = bytearray(zip_of({"a/b.json": BODY}, zipfile.ZIP_STORED))
        data[data.index(BODY) + 5] ^= 1
        with pytest.raises(
            DataError, match=r"^data\.zip:a/b\.json: the zip archive is damaged.*CRC"
        ):
            read(lay("data.zip", bytes(data)))

    def test_a_zip_that_is_cut_has_no_directory(self, lay: Lay) -> None:
        data = zip_of({"a.json": BODY, "b.json": BODY})
        for size in range(4, len(data), 7):
            with pytest.raises(DataError, match=r"data: the zip archive is (cut off|damaged)"):
                read(lay("data", data[:size]))

    @pytest.mark.parametrize("change", [-1, 1, 1000])
    def test_a_zip_header_that_lies_about_a_size_is_refused(self, lay: Lay, change: int) -> None:
        data = bytearray(zip_of({"a.json": BODY}))
        place = data.index(b"PK\x01\x02") + 24
        data[place : place + 4] = struct.pack("<I", len(BODY) + change)
        with pytest.raises(
            DataError, match=r"data:a\.json: (its header lies|the zip archive is damaged)"
        ):
            read(lay("data", bytes(data)))

    def test_something_behind_the_packed_data_is_not_dropped(self, lay: Lay) -> None:
        with pytest.raises(
            DataError, match=r"something else follows the gzip data \(found: b'more'\)"
        ):
            read(lay("x.json", gzip.compress(BODY) + b"more"))

    def test_archives_that_were_joined_are_read_to_the_end(self, lay: Lay) -> None:
        data = tar_of({"a.json": b"1"}) + tar_of({"b.json": b"2"})
        for joined in (data, gzip.compress(data)):
            assert list(read(lay("data", joined))) == ["data:a.json", "data:b.json"]

    def test_an_extended_header_is_not_read_at_any_size(self, lay: Lay) -> None:
        for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE):
            info = tarfile.TarInfo("x")
            info.type, info.size = kind, tar.HEADER + 1
            data = info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * tar.HEADER)
            with pytest.raises(
                DataError, match=r"an extended header is too large \(found: 1,048,577"
            ):
                read(lay("data", data))

    def test_a_pax_header_of_nothing_but_digits_is_refused_at_once(self, lay: Lay) -> None:
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, tar.HEADER
        data = info.tobuf(tarfile.GNU_FORMAT) + b"1" * tar.HEADER + bytes(1024)
        with pytest.raises(DataError, match="a pax header is damaged"):
            read(lay("data", data))

    @settings(
        deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        st.sampled_from([tar_of, zip_of]),
        st.sampled_from(sorted(PACKERS)),
        st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=12)), max_size=4),
        st.integers(0, 10_000),
    )
    def test_any_damage_is_files_or_a_data_error(
        self,
        tmp_path: Path,
        make: Callable[[dict[str, bytes]], bytes],
        packer: str,
        damages: list[tuple[int, bytes]],
        cut: int,
    ) -> None:
        files = {"train.json": BODY, "a/b.json.gz": gzip.compress(BODY)}
        data = bytearray(make(files) if make is zip_of else PACKERS[packer](make(files)))
        for place, damage in damages:
            place %= len(data)
            data[place : place + len(damage)] = damage
        path = tmp_path / "data"
        path.write_bytes(data[: cut or None])
        try:
            message = "" if read(path) else "no part"
        except DataError as error:
            message = str(error)
        assert not message or (message.startswith("data") and "(found" in message)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.text("abé数 /._-", min_size=1, max_size=130).map("x{}.json".format),
        st.binary(max_size=1500),
        max_size=5,
    ),
    st.sampled_from(FORMATS),
)
def test_what_tarfile_reads_is_read(files: dict[str, bytes], form: int) -> None:
    try:
        data = tar_of(files, form)
    except ValueError:
        assume(False)  # ustar has no room for such a name
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        oracle = [(each.name, archive.extractfile(each)) for each in archive]
        wanted = [(name, file.read()) for name, file in oracle if file]
    members = tar.Tar(io.BytesIO(data), packed=False).members()
    assert [(each.name, exactly(each.open(), 10_000)) for each in members] == wanted


class TestBombs:
    def test_one_is_refused_from_its_header(self, lay: Lay) -> None:
        for size in (1 << 40, 8**11 - 1):
            info = tarfile.TarInfo("a.json")
            info.size = size
            path = lay("data", gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
            with pytest.raises(DataError, match=r"^data: it unpacks to more than"):
                read(path)

    @pytest.mark.parametrize("inside", [False, True])
    def test_one_is_refused_while_it_is_unpacked(self, lay: Lay, inside: bool) -> None:
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join(packer.compress(b" " * (1 << 20)) for _ in range(80)) + packer.flush()
        path = lay("data", tar_of({"a.json.gz": bomb}) if inside else bomb)
        seen = 0
        with pytest.raises(
            DataError, match=r"it unpacks to more than 200 times its size \(found: "
        ):
            for _, stream in archives.parts(path, lambda _: True):
                while piece := stream.read(1 << 16):
                    seen += len(piece)
        assert 60 << 20 < seen < 66 << 20

    def test_files_of_a_zip_count_together(self, lay: Lay) -> None:
        data = zip_of({f"{number}.json": b" " * (1 << 20) for number in range(80)})
        with pytest.raises(DataError, match=r"200 times its size"):
            read(lay("data", data))

    def test_the_limits_can_be_chosen(self, lay: Lay) -> None:
        files = {f"{number}.json": BODY for number in range(10)}
        for data in (tar_of(files), zip_of(files)):
            path = lay("data", data)
            with pytest.raises(DataError, match=r"data: more than 9 entries \(found: 10 or more\)"):
                read(path, Limits(members=9))
            with pytest.raises(DataError, match=r"data: it unpacks to more than 5,000 bytes"):
                read(path, Limits(bytes=5000))
            assert len(read(path, Limits(members=10))) == 10

    def test_a_directory_of_a_zip_is_refused_before_it_is_read(self, lay: Lay) -> None:
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, 50 << 20, 0, 0)
        with pytest.raises(
            DataError, match=r"too many entries \(found: a directory of 52,428,800 bytes"
        ):
            read(lay("data", b"PK\x03\x04" + bytes(1 << 20) + end))

    def test_little_is_held_however_much_is_unpacked(self, lay: Lay) -> None:
        noise = random.Random(1).randbytes(1 << 20)
        path = lay("data", gzip.compress(tar_of({"a.json": noise * 8}), 1))
        _parts, _, stream = first_part(path)
        tracemalloc.start()
        try:
            while stream.read(1 << 16):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20
