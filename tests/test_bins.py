"""PyTorch's `.bin` is read bit for bit without being run, and what is not one is refused."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.trainer.errors import ConfigError
from tasks.trainer.layouts import pickled
from tasks.trainer.layouts.bins import Bin

DTYPES = [getattr(torch, name) for name in pickled.ITEM_BYTES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bins")


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Say whether two tensors have the same bits: NaN equals itself, 0 does not equal -0."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    straight = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (found, wanted))
    pairs = [
        s.copy_(t.detach()).reshape(-1) for s, t in zip(straight, (found, wanted), strict=True)
    ]
    return torch.equal(*(tensor.view(torch.uint8) for tensor in pairs))


@st.composite
def views(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Tensors that look at a few storages in many ways."""
    storages = []
    for _ in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        seed = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        size = pickled.ITEM_BYTES[str(dtype).removeprefix("torch.")]
        count = int(torch.tensor(shape).prod()) * size if shape else size
        top = 2 if dtype == torch.bool else 256
        drawn = torch.randint(0, top, (count,), generator=seed, dtype=torch.uint8)
        storages.append(drawn.view(dtype).reshape(shape))
    found = {}
    for name in draw(st.lists(st.text(max_size=8), unique=True, max_size=6)):
        tensor = draw(st.sampled_from(storages))
        part = [slice(draw(st.integers(0, 2)), None, draw(st.integers(1, 3))) for _ in tensor.shape]
        tensor = tensor[tuple(part)]
        order = draw(st.permutations(range(tensor.dim())))
        found[name] = tensor.permute(*order) if order else tensor
    return found


@given(views(), st.booleans())
def test_what_torch_saves_reads_with_the_same_bits(
    folder: Path, tensors: dict[str, torch.Tensor], ordered: bool
) -> None:
    path = folder / "drawn.bin"
    torch.save(collections.OrderedDict(tensors) if ordered else tensors, path)
    found = Bin(path)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert same(found[name], tensor), (name, tensor)
        assert found[name].stride() == tensor.stride()


def test_what_modules_and_parameters_save_reads_too(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    for name, state in {
        "state": module.state_dict(),
        "parameters": dict(module.named_parameters()),
        "kept": module.state_dict(keep_vars=True),
    }.items():
        path = tmp_path / f"{name}.bin"
        torch.save(state, path)
        found = Bin(path)
        assert list(found) == list(state)
        assert all(same(found[key], tensor) for key, tensor in state.items())
        assert not any(found[key].requires_grad for key in found)


def test_tensors_of_one_storage_still_share_it(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"whole": whole, "row": whole[1]}, tmp_path / "shared.bin")
    found = Bin(tmp_path / "shared.bin")
    assert found["row"].data_ptr() == found["whole"].data_ptr() + 16
    found["row"].zero_()
    assert found["whole"][1].tolist() == [0, 0, 0, 0]
    assert same(Bin(tmp_path / "shared.bin")["whole"], whole), "the file was changed"


def test_a_file_is_read_where_only_its_storages_are_out_of_step(tmp_path: Path) -> None:
    names: dict[str, Any] = {"a": torch.arange(5.0), "b": torch.arange(7, dtype=torch.int64)}
    torch.save(names, tmp_path / "aligned.bin")
    path = rezipped(tmp_path / "aligned.bin", tmp_path / "another.bin")
    entry = zipfile.ZipFile(path).getinfo("top/data/0")
    assert (entry.header_offset + 30 + len(entry.filename)) % 4, "it happens to be aligned"
    assert all(same(Bin(path)[name], tensor) for name, tensor in names.items())


def rezipped(
    source: Path, target: Path, change: Callable[[dict[str, bytes]], object] = bool, **how: Any
) -> Path:
    """Write a file anew with other entries, as some other tool would."""
    with zipfile.ZipFile(source) as archive:
        entries = {
            f"top/{name.partition('/')[2]}": archive.read(name) for name in archive.namelist()
        }
    change(entries)
    with zipfile.ZipFile(target, "w", **how) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.save({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "good.bin")
    return tmp_path / "good.bin"


def refused(path: Path, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        Bin(path)
    assert str(path) in str(caught.value)


class Evil:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Evil(os.system, "touch hacked"), "it asks for posix.system"),
        (Evil(eval, "1 + 1"), "it asks for (builtins|__builtin__).eval"),
        (Evil(subprocess.check_output, "true"), "check_output"),
        (Evil(getattr, "a", "upper"), "it asks for (builtins|__builtin__).getattr"),
        (torch.device("cpu"), "it asks for torch.device"),
        (torch.ones(3).to_sparse(), "it asks for torch._utils._rebuild_sparse_tensor"),
        (torch.nn.Linear(1, 1), "it asks for torch.nn.modules.linear.Linear"),
        (3, "'a' is 3, not a tensor"),
        ("text" * 1000, "'a' is '?text"),
        ({"b": torch.ones(1)}, "'a' is dict, not a tensor"),
        ([torch.ones(1)], "EMPTY_LIST"),
        (torch.float32, "'a' is torch.float32, not a tensor"),
        (torch.ones(1).expand(2**40), r"shape \(1099511627776,\) with stride \(0,\)"),
    ],
)
def test_anything_but_tensors_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": value}, tmp_path / "evil.bin")
    refused(tmp_path / "evil.bin", told)
    assert not (tmp_path / "hacked").exists()


def test_a_program_in_the_pickle_is_not_run(good: Path, tmp_path: Path) -> None:
    def program(entries: dict[str, bytes]) -> None:
        entries["top/data.pkl"] = pickle.dumps(Evil(os.system, f"touch {tmp_path}/hacked"), 2)

    refused(rezipped(good, tmp_path / "evil.bin", program), "it asks for posix.system")
    assert not (tmp_path / "hacked").exists()


HEAD = b"\x80\x02"
FLOATS = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOOKS = b"ccollections\nOrderedDict\n)R"


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def storage(elements: int = 6, key: str = "0", kind: bytes = FLOATS) -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(elements) + b"tQ"


def tensor(
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int = 0,
    of: bytes = storage(),
    hooks: bytes = HOOKS,
) -> bytes:
    sizes = b"".join(b"(" + b"".join(map(number, part)) + b"t" for part in (shape, stride))
    return REBUILD + b"(" + of + number(offset) + sizes + b"\x89" + hooks + b"tR"


def named(*values: bytes) -> bytes:
    return HEAD + b"}(" + b"".join(text("abcd"[i]) + v for i, v in enumerate(values)) + b"u."


def test_the_pickles_of_these_tests_are_ones(good: Path, tmp_path: Path) -> None:
    plain = named(tensor((2, 3), (3, 1)))
    path = rezipped(
        good, tmp_path / "x.bin", lambda entries: entries.update({"top/data.pkl": plain})
    )
    assert Bin(path)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (named(tensor((2, 4), (3, 1))), "in a storage of 6 numbers"),
        (named(tensor((2, 3), (3, 1), 1)), "in a storage of 6 numbers"),
        (named(tensor((2,), (6,))), "in a storage of 6 numbers"),
        (named(tensor((2**47, 2**47), (0, 0))), "in a storage of 6 numbers"),
        (named(tensor((7,), (0,))), "in a storage of 6 numbers"),
        (named(tensor((2**60,), (1,))), "where a size is expected"),
        (named(tensor((2**5000,), (1,))), "LONG4"),
        (named(tensor((-1,), (1,))), "it has -1 where a size is expected"),
        (named(tensor((2,), (-1,), 3)), "it has -1 where a size is expected"),
        (named(tensor((2,), (1,), -1)), "it has -1 where a size is expected"),
        (named(tensor((1,) * 65, (1,) * 65)), "damaged"),
        (named(tensor((2,), (1, 1))), "damaged"),
        (named(tensor((2,), (1,), of=number(3))), "damaged"),
        (named(tensor((2,), (1,), of=storage(7))), "should have 28 bytes .found 24"),
        (named(tensor((2,), (1,), of=storage(2**60))), "where a size is expected"),
        (named(tensor((2,), (1,), of=storage(6, "../../0"))), "should have 24 bytes .found none"),
        (named(tensor((2,), (1,), of=storage(kind=b"ctorch\nQInt8Storage\n"))), "QInt8Storage"),
        (named(tensor((2,), (1,), of=storage(kind=b"ctorch\nfloat32\n"))), "damaged"),
        (named(tensor((2,), (1,), hooks=b"}" + text("a") + number(1) + b"s")), "hooks"),
        (named(HOOKS), "'a' is dict, not a tensor"),
        (named(REBUILD), "'a' is torch._utils._rebuild_tensor_v2, not a tensor"),
        (HEAD + FLOATS + b")R.", "it calls torch.FloatStorage"),
        (HEAD + number(1) + b")R.", "it calls 1"),
        (HEAD + b"ccollections\nOrderedDict\n" + b"(" + text("x") + b"tR.", "damaged"),
        (HEAD + b"}(" + text("a") + b"N" + text("a") + b"Nu.", "'a' twice"),
        (HEAD + b"}" + number(1) + b"Ns.", "a key that is 1, not a name"),
        (HEAD + b"}" + b"(NNtNs.", "a key that is tuple, not a name"),
        (HEAD + b"}q\x00" + text("a") + b"h\x00s.", "'a' is dict, not a tensor"),
        (HEAD + b"cos\nsystem\n" + b"(" + text("true") + b"tR.", "it asks for os.system"),
        (HEAD + b"(" + text("true") + b"ios\nsystem\n.", "INST"),
        (HEAD + b"(ccollections\nOrderedDict\no.", "OBJ"),
        (HEAD + b"c__builtin__\neval\n.", "it asks for __builtin__.eval"),
        (HEAD + b"ctorch.storage\n_load_from_bytes\n.", "_load_from_bytes"),
        (HEAD + text("os") + text("system") + b"\x93.", "STACK_GLOBAL"),
        (HEAD + b"Pos\n.", "PERSID"),
        (HEAD + b"]q\x00h\x00a.", "EMPTY_LIST"),
        (b"\x80\x05}.", "protocol 5"),
        (HEAD + b"}", "damaged"),
        (HEAD + b"h\x07.", "damaged"),
        (HEAD + b"t.", "damaged"),
        (HEAD + b"\x87.", "damaged"),
        (HEAD + b"s.", "damaged"),
        (HEAD + b".", "damaged"),
        (named(tensor((2**47, 2**47, 0), (1, 1, 1))), "where a size is expected"),
        (HEAD + b"}" * 10_001 + b".", "piles up more"),
        (HEAD + b"(" * 65 + b".", "nests deeper"),
        (HEAD + b"}(" + text("a\x1b[31m") + b"Nu.", r"'a.x1b\[31m' is NoneType, not a tensor"),
        (HEAD + b"}(" + text("a" * 500) + b"Nu.", "'a{80}' is NoneType"),
        (HEAD + b"}" + (text("b" * 500) + b"Ns") * 2 + b".", "it has 'b{80}' twice"),
        (HEAD + b"cos\x1b[31m\nsys\rtem\n.", r"asks for os.x1b\[31m.sys.rtem, which"),
        (HEAD + b"q\x00.", "damaged"),
        (HEAD + b"\xff.", "damaged"),
        (HEAD + b"X\xff\xff\xff\x7fabc.", "damaged"),
        (b"", "damaged"),
    ],
)
def test_hostile_pickles_are_refused(good: Path, tmp_path: Path, data: bytes, told: str) -> None:
    change = {"top/data.pkl": data}
    refused(rezipped(good, tmp_path / "x.bin", lambda entries: entries.update(change)), told)


def test_a_memo_that_doubles_forever_costs_nothing(good: Path, tmp_path: Path) -> None:
    steps = [b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(200)]
    doubling = b")q\x00" + b"".join(steps)
    bomb = HEAD + doubling + b"."
    change = {"top/data.pkl": bomb}
    path = rezipped(good, tmp_path / "x.bin", lambda entries: entries.update(change))
    refused(path, "it holds tuple where a dictionary of tensors is expected")
    key = {"top/data.pkl": HEAD + doubling + b"}h\xc8Ns."}
    path = rezipped(good, tmp_path / "y.bin", lambda entries: entries.update(key))
    refused(path, "a key that is tuple, not a name")


def test_a_dictionary_is_not_copied_again_and_again(good: Path, tmp_path: Path) -> None:
    names = b"".join(text(f"{number}") + b"N" for number in range(2000))
    copying = HEAD + b"}q\x00(" + names + b"u" + HOOKS[:-2] + b"q\x01" + b"h\x01h\x00\x85R" * 2000
    change = {"top/data.pkl": copying + b"."}
    path = rezipped(good, tmp_path / "x.bin", lambda entries: entries.update(change))
    tracemalloc.start()
    refused(path, "damaged")
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_deep_nesting_is_refused(good: Path, tmp_path: Path) -> None:
    deep = {"top/data.pkl": HEAD + b")" + b"\x85" * 20_000 + b"."}
    path = rezipped(good, tmp_path / "x.bin", lambda entries: entries.update(deep))
    refused(path, "it holds tuple")


@given(st.data())
def test_a_damaged_file_is_read_or_refused_but_nothing_else(
    folder: Path, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2, 2).t()}, buffer)
    whole = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.bin"
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        found = dict(Bin(path))
    except ConfigError:
        return
    assert all(tensor.numel() <= 6 for tensor in found.values())


class TestZip:
    def test_every_truncation_is_refused(self, good: Path, tmp_path: Path) -> None:
        whole, path = good.read_bytes(), tmp_path / "short.bin"
        for length in range(0, len(whole), 37):
            path.write_bytes(whole[:length])
            refused(path, "damaged")

    def test_compressed_entries_are_refused(self, good: Path, tmp_path: Path) -> None:
        path = rezipped(good, tmp_path / "x.bin", compression=zipfile.ZIP_DEFLATED)
        refused(path, "compressed or encrypted")

    def test_the_old_format_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "old.bin"
        torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
        refused(path, "before version 1.6")

    def test_big_endian_files_are_refused(self, good: Path, tmp_path: Path) -> None:
        change = {"top/byteorder": b"big"}
        path = rezipped(good, tmp_path / "x.bin", lambda entries: entries.update(change))
        refused(path, "not little-endian")

    def test_files_from_before_the_mark_of_the_byte_order_are_read(
        self, good: Path, tmp_path: Path
    ) -> None:
        path = rezipped(good, tmp_path / "x.bin", lambda entries: entries.pop("top/byteorder"))
        assert Bin(path)["a"].sum() == 15

    def test_a_pointer_of_git_lfs_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "pointer.bin"
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
        refused(path, "pointer of Git LFS")

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        refused(tmp_path / "none.bin", "cannot be read")

    @pytest.mark.parametrize("name", ["top/data/0", "top/data.pkl"])
    def test_entries_that_lie_are_refused(self, good: Path, tmp_path: Path, name: str) -> None:
        path = rezipped(good, tmp_path / "x.bin")
        with zipfile.ZipFile(path) as archive:
            listed = [entry.header_offset for entry in archive.infolist()]
            here = archive.getinfo(name).header_offset
        whole = path.read_bytes()
        for elsewhere in [*[offset for offset in listed if offset != here][:2], 3]:
            at = whole.rindex(name.encode()) - 4
            assert struct.unpack("<I", whole[at : at + 4])[0] == here
            path.write_bytes(whole[:at] + struct.pack("<I", elsewhere) + whole[at + 4 :])
            refused(path, "its zip is damaged|is not where its table of contents says")

    def test_sizes_that_lie_are_refused(self, good: Path, tmp_path: Path) -> None:
        path = rezipped(good, tmp_path / "x.bin")
        whole, at = path.read_bytes(), path.read_bytes().rindex(b"top/data/0") - 26
        packed, size = struct.unpack("<II", whole[at : at + 8])
        assert packed == size == 24
        for sizes in [(24, 28), (28, 24), (2**31, 2**31)]:
            path.write_bytes(whole[:at] + struct.pack("<II", *sizes) + whole[at + 8 :])
            refused(path, "two sizes|is not where")

    def test_two_descriptions_are_refused(self, good: Path, tmp_path: Path) -> None:
        def double(entries: dict[str, bytes]) -> None:
            entries["other/data.pkl"] = entries["top/data.pkl"]

        refused(rezipped(good, tmp_path / "x.bin", double), "2 descriptions")
        none = rezipped(good, tmp_path / "y.bin", lambda entries: entries.pop("top/data.pkl"))
        refused(none, "0 descriptions")

    def test_a_storage_that_is_not_there_is_told(self, good: Path, tmp_path: Path) -> None:
        path = rezipped(good, tmp_path / "x.bin", lambda entries: entries.pop("top/data/0"))
        refused(path, "storage '0' should have 24 bytes .found none")

    def test_a_script_of_torch_is_refused(self, tmp_path: Path) -> None:
        scripted = tmp_path / "script.bin"
        with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), scripted)
        refused(scripted, "compressed|it asks for __torch__")
