"""Reads what a pickle of tensors says, without doing what it says.

A pickle is a program: unpickling a stranger's file runs whatever its author put in. Here its opcodes are
read by the standard library's disassembler, and the few that `torch.save` needs for a dictionary of
tensors are interpreted on values of our own. No class is looked up and nothing is called, so the worst
that a hostile file can do is be refused. The work is linear in the size of the pickle.
Source of the opcodes and of the calls in them: https://github.com/pytorch/pytorch, torch/_utils.py
(`_rebuild_tensor_v2`, `_rebuild_tensor_v3`, `_rebuild_parameter`) and torch/serialization.py, v2.13.0.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ITEM_BYTES = {
    "bool": 1,
    **dict.fromkeys(("uint8", "int8"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"), 1),
    "float8_e8m0fnu": 1,
}
"""Number formats that are read, and their sizes."""

_STORAGES = {
    "torch.BoolStorage": "bool",
    "torch.ByteStorage": "uint8",
    "torch.CharStorage": "int8",
    "torch.ShortStorage": "int16",
    "torch.IntStorage": "int32",
    "torch.LongStorage": "int64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_TENSOR_OF_DTYPE = "torch._utils._rebuild_tensor_v3"
_PARAMETER = "torch._utils._rebuild_parameter"
_GLOBALS = {
    *_STORAGES,
    *(f"torch.{name}" for name in ITEM_BYTES),
    *(_ORDERED_DICT, _TENSOR, _TENSOR_OF_DTYPE, _PARAMETER),
}
_MAX_DIMENSIONS = 64
_MAX_WAITING = 10_000  # torch.save hands 1,000 names at a time to a dictionary
_MAX_SIZE = 2**48


class Refused(Exception):
    """The pickle holds something else than tensors; the message says what."""


@dataclass(frozen=True)
class Storage:
    """Numbers that lie in one piece; several tensors may look at them."""

    key: str
    dtype: str
    elements: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Described:
    """Where the numbers of a tensor are; offset and stride count elements of its own number format."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    name: str


def tensors(data: bytes) -> dict[str, Described]:
    """Return the tensors of a pickled dictionary, in its order.

    Raises:
        Refused: It is damaged, or holds anything but tensors under names.
    """
    try:
        found = _Machine().run(data)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise Refused(f"its pickle is damaged ({type(error).__name__}: {error})") from error
    if type(found) is not dict:
        raise Refused(f"it holds {_shown(found)} where a dictionary of tensors is expected")
    for name, value in found.items():
        if type(value) is not Described:
            raise Refused(f"{_shown(name)} is {_shown(value)}, not a tensor")
    return found


class _Machine:
    """The stack and the memo of a pickle, filled with plain values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name not in _OPCODES:
                raise Refused(f"its pickle uses {opcode.name}, which no file of tensors needs")
            _OPCODES[opcode.name](self, argument)
        raise ValueError("it does not end")

    def push(self, value: Any) -> None:
        if len(self.stack) >= _MAX_WAITING:
            raise Refused("its pickle piles up more than a dictionary of tensors needs")
        self.stack.append(value)

    def protocol(self, version: int) -> None:
        if version not in (2, 3):
            raise Refused(f"its pickle has protocol {version}; torch.save writes 2")

    def mark(self, _: Any) -> None:
        if len(self.marks) >= _MAX_DIMENSIONS:
            raise Refused("its pickle nests deeper than a dictionary of tensors needs")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def tuple_of(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError("a tuple of more than there is")
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.push(items)

    def put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def name(self, argument: str) -> None:
        name = argument.replace(" ", ".")
        if name not in _GLOBALS:
            raise Refused(
                f"it asks for {_shown(_Global(name))}, which is not among what a file of tensors needs"
            )
        self.push(_Global(name))

    def storage(self, _: Any) -> None:
        word, kind, key, _device, elements = self.stack.pop()
        if word != "storage" or type(kind) is not _Global or kind.name not in _STORAGES:
            raise ValueError("not a storage")
        if type(key) is not str:
            raise ValueError("a storage without a name")
        self.push(Storage(key, _STORAGES[kind.name], _count(elements)))

    def set_items(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict:
            raise ValueError("items of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise Refused(f"it has a key that is {_shown(key)}, not a name")
            if key in into:
                raise Refused(f"it has {_shown(key)} twice")
            into[key] = value

    def build(self, _: Any) -> None:
        # the attributes of an OrderedDict: versions of the modules, which nobody needs
        if type(self.stack.pop()) is not dict or type(self.stack[-1]) is not dict:
            raise ValueError("attributes of something that is no dictionary")

    def call(self, _: Any) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if type(function) is not _Global or function.name not in _CALLS:
            raise Refused(f"it calls {_shown(function)}")
        if type(arguments) is not tuple:
            raise ValueError("arguments that are no tuple")
        self.push(_CALLS[function.name](*arguments))


def _empty_dictionary() -> dict[str, Any]:
    # the call of an OrderedDict, which gets its items afterwards; one that copied others would cost memory
    return {}


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    _gradient: Any,
    hooks: Any,
    extra: Any = None,
) -> Described:
    if type(storage) is not Storage:
        raise ValueError("a tensor without a storage")
    return _described(storage, storage.dtype, offset, shape, stride, (hooks, extra))


def _tensor_of_dtype(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    _gradient: Any,
    hooks: Any,
    dtype: Any,
    extra: Any = None,
) -> Described:
    if type(storage) is not Storage or type(dtype) is not _Global:
        raise ValueError("a tensor without a storage or a number format")
    name = dtype.name.removeprefix("torch.")
    return _described(storage, name, offset, shape, stride, (hooks, extra))


def _described(
    storage: Storage, dtype: str, offset: Any, shape: Any, stride: Any, beside: tuple[Any, ...]
) -> Described:
    """Check that a tensor lies within its storage, and that nothing is attached to it."""
    if any(beside):
        raise Refused("it has a tensor with hooks or attributes")
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("a tensor without a shape")
    first, available, size = _count(offset), storage.nbytes // ITEM_BYTES[dtype], 1
    last = first
    for length, step in zip(shape, stride, strict=True):
        size *= _count(length)
        last += (length - 1) * _count(step)
    if size == 0:  # such a view may begin anywhere, for it reads nothing
        _count(math.prod(length for length in shape if length))  # PyTorch multiplies them in turn
        return Described(storage, dtype, 0, shape, stride)
    if last >= available or size > available:
        raise Refused(
            f"it has a tensor of shape {shape} with stride {stride} from {first} in a storage "
            f"of {available} numbers"
        )
    return Described(storage, dtype, first, shape, stride)


def _parameter(data: Any, _gradient: Any, hooks: Any) -> Described:
    if type(data) is not Described or hooks:
        raise ValueError("a parameter that is no tensor")
    return data


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_SIZE:
        raise Refused(f"it has {_shown(value)} where a size is expected")
    return value


def _shown(value: Any) -> str:
    """Return a value as it may stand in a message: short, and without characters that steer a terminal."""
    if type(value) is _Global:
        return repr(value.name[:80])[1:-1]
    if type(value) is str:
        return repr(value[:80])
    return repr(value)[:80] if type(value) in (int, float, bool) else type(value).__name__


_CALLS: dict[str, Callable[..., Any]] = {
    _ORDERED_DICT: _empty_dictionary,
    _TENSOR: _tensor,
    _TENSOR_OF_DTYPE: _tensor_of_dtype,
    _PARAMETER: _parameter,
}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "MARK": _Machine.mark,
    **dict.fromkeys(_NUMBERS, _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, place: machine.push(machine.memo[place])
    ),
    "GLOBAL": _Machine.name,
    "BINPERSID": _Machine.storage,
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BUILD": _Machine.build,
    "REDUCE": _Machine.call,
}
