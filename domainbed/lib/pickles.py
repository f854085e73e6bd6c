"""What a pickle says of its tensors, read opcode by opcode; nothing in it is imported or called.

`opened` reads what torch.save writes, as a zip archive or in the format before it, and plain
pickles. Instead of running what a pickle names it notes it: dictionaries, lists, numbers and texts
are made, tensors are described (`Tensor`), and the harmless rest is left as a name (`Made`). So a
file can take little more memory than it has bytes, whatever it says, and the versions of numpy and
torch that wrote it do not matter.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from domainbed.lib import kinds
from domainbed.registry import InputError

MAX_OPCODES = 4_000_000
"""A state dict takes about 40 for each tensor."""

MAX_NAME = 1000
"""Characters of a name; a pickle can repeat a text in two bytes."""

_MAGIC = 0x1950A86A20F9469CFC6C
_PIECE = 2**23


class Refused(Exception):
    """A pickle holds what no state dict needs."""


@dataclass(frozen=True)
class Global:
    """A class or function by its name; it is not imported."""

    name: str


@dataclass(frozen=True)
class Made:
    """What calling `name` would return; it is not called."""

    name: str
    n_bytes: int = 0


@dataclass(frozen=True)
class Storage:
    """Numbers in the file: how many of which dtype (torch's name for it, "" for bytes)."""

    key: str
    dtype: str
    size: int
    first: int = 0


class Tensor(NamedTuple):
    """A tensor as views of a storage say it: dtype, and what `as_strided` takes."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


ITEM_SIZES = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2fnuz"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32", "complex32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
}
"""Bytes of a number by torch's name for its dtype."""

_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "",
}  # fmt: skip
_STORAGE = re.compile(rf"torch\.(?:cuda\.|storage\.)?_?({'|'.join(_STORAGES)})Storage")
_DTYPE = re.compile(rf"torch\.({'|'.join(ITEM_SIZES)})")
_NUMPY_DTYPE = re.compile(r"[<>|=]?([biufcSUMm])(\d{0,9})(?:\[\w{1,8}\])?")
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_ARRAYS = {"scalar", "_reconstruct", "_frombuffer"}
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_LEFT = {
    *(f"pathlib.{name}" for name in _PATHS), "argparse.Namespace", "torch.device",
    "builtins.set", "builtins.frozenset", "builtins.complex",
}  # fmt: skip
"""What may be called, as far as the file goes: what it returns is not needed."""
_TYPES = {
    *(f"builtins.{name}" for name in ("object", "bytes", "int", "float", "str", "bool", "list")),
    *(f"builtins.{name}" for name in ("tuple", "dict")), "numpy.ndarray",
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer",
}  # fmt: skip
"""What may be named, but not called."""


def _args(args: tuple[Any, ...], least: int, most: int) -> tuple[Any, ...]:
    if not least <= len(args) <= most:
        raise Refused("calls with too few or too many arguments")
    return args


def _dictionary(args: tuple[Any, ...]) -> dict[str, Any]:
    """A dictionary as it is, or of pairs; the factory of a defaultdict is left."""
    given = args[0] if args else ()
    if isinstance(given, dict):
        return given
    made: dict[str, Any] = {}
    for key, value in given if isinstance(given, list) else ():
        made[_name(key, made)] = value
    return made


def _name(key: Any, among: dict[str, Any]) -> str:
    """A key as a text, so that a dictionary of a stranger's keys is quick to fill."""
    if isinstance(key, str):
        if len(key) > MAX_NAME:
            raise Refused(f"has a name of {len(key):,} characters")
        return key
    is_plain = isinstance(key, float) or (isinstance(key, int) and abs(key) < 2**63)
    return str(key) if is_plain else f"<{type(key).__name__} {len(among)}>"


def _encode(args: tuple[Any, ...]) -> Made:
    """How protocol 2 writes bytes: as a text of as many characters."""
    text, encoding = _args(args, 2, 2)
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("calls _codecs.encode for another encoding than latin1")
    return Made("builtins.bytes", len(text))


def _numpy_dtype(args: tuple[Any, ...]) -> Made:
    code = args[0] if args else None
    found = _NUMPY_DTYPE.fullmatch(code) if isinstance(code, str) else None
    if found is None:
        raise Refused(f"holds numpy.dtype({kinds.shown(code)}), which is no number, bool or text")
    return Made("numpy.dtype", int(found[2] or 8) * (4 if found[1] == "U" else 1))


def _numpy_scalar(args: tuple[Any, ...]) -> Made:
    dtype, data = (*_args(args, 1, 2), b"")[:2]
    _check_numbers(dtype, 1, data)
    return Made("a numpy scalar")


def _check_numbers(dtype: Any, n: Any, data: Any) -> None:
    """Raise `Refused` unless data are the bytes of n numbers of a dtype."""
    if not (isinstance(dtype, Made) and dtype.name == "numpy.dtype" and _is_size(n)):
        raise Refused("holds a numpy array without a dtype and a shape")
    is_text = isinstance(data, bytes | bytearray | str)
    size = len(data) if is_text else data.n_bytes if isinstance(data, Made) else -1
    if size != n * dtype.n_bytes:
        raise Refused(f"holds {n} numpy numbers of {dtype.n_bytes} bytes, but not those bytes")


def _is_size(n: Any) -> bool:
    return isinstance(n, int) and 0 <= n < 2**63


def _volume(shape: Any) -> int:
    """The number of elements of a shape; raises `Refused` for what is none."""
    if not isinstance(shape, tuple | list) or len(shape) > 64 or not all(map(_is_size, shape)):
        raise Refused("holds a tensor without a shape")
    return math.prod(shape)


def _numpy_frombuffer(args: tuple[Any, ...]) -> Made:
    data, dtype, shape, _ = _args(args, 4, 4)
    _check_numbers(dtype, _volume(shape), data)
    return Made("a numpy array")


def _tensor(args: tuple[Any, ...]) -> Tensor:
    """The arguments of torch._utils._rebuild_tensor, _v2 and _v3."""
    storage, offset, shape, stride, *more = _args(args, 4, 8)
    dtype = storage.dtype if isinstance(storage, Storage) else None
    more = [m for m in more if not (isinstance(m, dict | bool | type(None)) and not m)]
    for value in more:  # a dtype; `True` is requires_grad
        found = _DTYPE.fullmatch(value.name) if isinstance(value, Global) else None
        if found:
            dtype = found[1]
        elif value is not True:
            raise Refused("holds a tensor with hooks, or a conjugated or negated one")
    _volume(shape)
    if len(stride) != len(shape) or not all(map(_is_size, (offset, *stride))) or not dtype:
        raise Refused("holds a tensor without a dtype, an offset or strides")
    if storage.dtype not in ("", dtype):
        raise Refused(f"holds a tensor of {dtype} in a storage of {storage.dtype}")
    return Tensor(storage, dtype, offset + storage.first, tuple(shape), tuple(stride))


def _first(args: tuple[Any, ...]) -> Any:
    return args[0] if args else ()


def _reconstructor(args: tuple[Any, ...]) -> Made:
    """How protocols 0 and 1 make an object."""
    name = args[0].name
    if name not in _LEFT:
        raise Refused(f"holds {kinds.shown(name)}")
    return Made(name)


def _parameter(args: tuple[Any, ...]) -> Tensor:
    if not args or not isinstance(args[0], Tensor):
        raise Refused("holds a parameter that is no tensor")
    return args[0]


def _of_type(args: tuple[Any, ...]) -> Tensor:
    """torch._tensor._rebuild_from_type_v2: a tensor or parameter that has attributes."""
    function, cls, inner, _ = _args(args, 4, 4)
    if function.name not in _TENSORS or cls.name not in _TYPES:
        raise Refused(f"holds {kinds.shown(cls.name)}")
    return _CALLS[function.name](inner)


_TENSORS = [f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3")]
_PARAMETERS = [f"torch._utils._rebuild_parameter{more}" for more in ("", "_with_state")]
_CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **dict.fromkeys(("collections.OrderedDict", "collections.defaultdict"), _dictionary),
    **dict.fromkeys(("collections.Counter", "builtins.dict"), _dictionary),
    **dict.fromkeys(_TENSORS, _tensor),
    **dict.fromkeys(_PARAMETERS, _parameter),
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": _first,
    "copyreg._reconstructor": _reconstructor,
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "scalar": _numpy_scalar,
    "_reconstruct": lambda args: Made("numpy.ndarray"),
    "_frombuffer": _numpy_frombuffer,
}
_TENSORS += _PARAMETERS


def _canonical(name: str) -> str:
    """One name for what other versions of Python and numpy call otherwise."""
    module, _, last = name.rpartition(".")
    module = _PYTHON_2.get(module, module)
    if re.fullmatch(r"numpy\._?core\.(multiarray|numeric|_internal)", module) and last in _ARRAYS:
        return last
    if module == "pathlib._local":  # of Python 3.13
        module = "pathlib"
    return f"{module}.{last}"


def _is_harmless(name: str) -> bool:
    if name in _CALLS or name in _LEFT or name in _TYPES:
        return True
    return bool(_DTYPE.fullmatch(name) or _STORAGE.fullmatch(name))


@dataclass
class _Machine:
    """The stack and the memo that opcodes work on.

    `keeps_all` leaves what is not harmless as a name, too, and notes it in `foreign`.
    """

    keeps_all: bool = False
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    n_opcodes: int = 0

    def run(self, stream: BinaryIO) -> Any:
        """What the next pickle of a stream holds."""
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(stream):
            self.n_opcodes += 1
            if self.n_opcodes > MAX_OPCODES:
                raise Refused(f"has more than {MAX_OPCODES:,} opcodes, and no state dict has")
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise Refused(f"uses the opcode {opcode.name}, which no state dict needs")
        return self.stack.pop()

    def above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def named(self, name: str) -> None:
        """Push a global, which is "module name" in one opcode."""
        name = _canonical(name)
        if not _is_harmless(name):
            if not self.keeps_all:
                raise Refused(f"holds {kinds.shown(name)}")
            self.foreign.add(name)
        self.stack.append(Global(name))

    def stack_global(self, _: Any) -> None:
        last, module = self.stack.pop(), self.stack.pop()
        if not isinstance(last, str) or not isinstance(module, str):
            raise Refused("names a class by what is no text")
        if len(module) + len(last) > MAX_NAME:
            raise Refused("names a class by a text that is too long")
        self.named(f"{module}.{last}")

    def call(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise Refused("calls what is no class")
        self.n_opcodes += sum(len(a) for a in args if isinstance(a, list))
        try:
            self.stack.append(self.called(function.name, args))
        except Refused:
            if not self.keeps_all:
                raise
            self.foreign.add(function.name)
            self.stack.append(Made(function.name))

    @staticmethod
    def called(name: str, args: tuple[Any, ...]) -> Any:
        if name in _CALLS:
            return _CALLS[name](args)
        if name in _LEFT:
            return Made(name)
        if name == "builtins.bytes" and not args:  # how protocol 2 writes no bytes
            return b""
        raise Refused(f"calls {kinds.shown(name)}")

    def persistent(self, _: Any) -> None:
        """Push the storage that a persistent id of torch names."""
        _, cls, key, _, size, *view = _args(self.stack.pop(), 5, 6)
        found = _STORAGE.fullmatch(cls.name)
        if found is None or not isinstance(key, str) or not _is_size(size):
            raise Refused(f"holds a storage of {kinds.shown(cls.name)}")
        storage = Storage(key, _STORAGES[found[1]], size)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"says two things of its storage {kinds.shown(key)}")
        if view and view[0] is not None:
            _, first, _ = view[0]
            if not _is_size(first):
                raise Refused("holds a view without an offset")
            storage = Storage(key, storage.dtype, size, first)
        self.stack.append(storage)

    def build(self, _: Any) -> None:
        """Give an object its state; of those that are made only arrays have one that matters."""
        state, to = self.stack.pop(), self.stack[-1]
        if not isinstance(to, Made) or to.name != "numpy.ndarray" or not isinstance(state, tuple):
            return
        try:
            _, shape, dtype, _, data = _args(state, 5, 5)
            _check_numbers(dtype, _volume(shape), data)
        except Refused:
            if not self.keeps_all:
                raise

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        to = self.stack[-1]
        if isinstance(to, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                to[_name(key, to)] = value

    def push_marked(self, kind: type) -> None:
        items = self.above_mark()
        self.stack.append(kind(items))

    def push_dict(self, _: Any) -> None:
        items = self.above_mark()
        self.stack.append({})
        self.update(items)

    def tuple_of(self, n: int) -> None:
        if len(self.stack) < n:
            raise IndexError
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def inst(self, name: str) -> None:
        args = tuple(self.above_mark())
        self.named(name.replace(" ", "."))
        self.stack.append(args)
        self.call(None)

    def obj(self, _: Any) -> None:
        cls, *args = self.above_mark()
        self.stack += [cls, tuple(args)]
        self.call(None)

    def new_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self.call(None)


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT",
}  # fmt: skip
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda m, _: m.stack.append([])),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.stack.pop() if m.stack else m.above_mark(),
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda m, _: m.push_marked(list)),
    "TUPLE": lambda m, _: m.push_marked(tuple),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "DICT": _Machine.push_dict,
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m.extend(m.above_mark())),
    "SETITEM": lambda m, _: m.update([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.update(m.above_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m.stack.append(m.memo[i])),
    "GLOBAL": lambda m, name: m.named(name.replace(" ", ".")),
    "STACK_GLOBAL": _Machine.stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "INST": _Machine.inst,
    "OBJ": _Machine.obj,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


@dataclass
class Pickle:
    """A file's content, and where its storages are.

    `foreign` names what was left out of it, with `keeps_all`.
    """

    path: Path
    content: Any
    foreign: set[str]
    _at: dict[str, tuple[str, int]]  # storage -> the member of the archive or "", its first byte

    def check(self, tensor: Tensor) -> str:
        """What is wrong with a tensor, "" for nothing: all of it must be in the file."""
        size = ITEM_SIZES[tensor.dtype]
        n_stored = tensor.storage.size * (1 if tensor.storage.dtype else 1 / size)
        n = math.prod(tensor.shape)
        last = tensor.offset + sum((d - 1) * s for d, s in zip(tensor.shape, tensor.stride))
        if n > n_stored:
            return "is larger than what it holds of it"
        return "lies outside of what it holds" if n and last >= n_stored else ""

    @contextmanager
    def reading(self) -> Iterator[Callable[[Storage, memoryview], None]]:
        """A function that fills a buffer, as long as a storage is, with its bytes."""
        with open(self.path, "rb") as file:
            archive = zipfile.ZipFile(file) if any(m for m, _ in self._at.values()) else None

            def read(storage: Storage, buffer: memoryview) -> None:
                member, start = self._at[storage.key]
                if archive is None:
                    file.seek(start)
                    _fill(file, buffer)
                else:
                    with archive.open(member) as stored:
                        _fill(stored, buffer)

            yield read


def _fill(stream: Any, buffer: memoryview) -> None:
    for start in range(0, len(buffer), _PIECE):
        piece = buffer[start : start + _PIECE]
        if stream.readinto(piece) != len(piece):
            raise EOFError("it ends too early")


def n_bytes(storage: Storage) -> int:
    """How many bytes a storage has."""
    return storage.size * ITEM_SIZES.get(storage.dtype, 1)


def opened(path: Path, keeps_all: bool = False) -> Pickle:
    """Read a pickle up to the numbers of its tensors.

    keeps_all: leave out what is not harmless, instead of refusing the file. Raises `InputError`
    that names what is in the way, before anything of a size that the file only claims is made.
    """
    machine = _Machine(keeps_all)
    try:
        if kinds.kind(path) == "zip":
            return _of_archive(path, machine)
        with open(path, "rb") as file:
            content = machine.run(file)
            if content == _MAGIC and isinstance(content, int):
                return _of_old_format(path, file, machine)
            if machine.storages:
                raise ValueError("its tensors are elsewhere")
            return Pickle(path, content, machine.foreign, {})
    except Refused as refused:
        raise InputError(_advice(path, str(refused))) from refused
    except InputError:
        raise
    except Exception as error:  # whatever is wrong with a stranger's bytes
        if not kinds.is_pickle(path):
            raise InputError(f"{path} {kinds.NEITHER}") from error
        reason = kinds.shown(str(error).strip().split("\n")[0]) or "no reason"
        raise InputError(
            f"{path} cannot be read as weights: it is damaged ({type(error).__name__}: {reason}); "
            "copy or download it again"
        ) from error


def _advice(path: Path, why: str) -> str:
    if "_load_from_bytes" in why:
        return (
            f"{path} cannot be read as weights: it {why}, as pickle.dump writes tensors; write "
            "them with torch.save"
        )
    return (
        f"{path} cannot be read as weights: it {why}, which weights do not need; nothing of it was "
        f"run. Keep only its tensors with {kinds.conversion(path)}"
    )


def _of_archive(path: Path, machine: _Machine) -> Pickle:
    """What torch.save has written since 1.6: a pickle and a member for each storage, unpacked."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise Refused("has two members of one name")
        total = sum(info.file_size for info in members.values())
        if total > path.stat().st_size:
            raise InputError(f"{path} would unpack to {total} bytes; torch writes no such file")
        pickles = [name for name in members if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise Refused(f"has {len(pickles)} members data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if len(root) > MAX_NAME:
            raise Refused("has a folder of too long a name")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise Refused("has numbers in another order of bytes than this machine")
        with archive.open(pickles[0]) as stream:
            content = machine.run(stream)
        at = {key: (f"{root}data/{key}", 0) for key in machine.storages}
        for key, storage in machine.storages.items():
            member = members.get(at[key][0])
            if member is None or member.file_size != n_bytes(storage):
                raise EOFError(f"the numbers of storage {kinds.shown(key)} are not all there")
    return Pickle(path, content, machine.foreign, at)


def _of_old_format(path: Path, file: BinaryIO, machine: _Machine) -> Pickle:
    """What torch.save wrote before 1.6: pickles, then the storages in order of their keys."""
    version, system = machine.run(file), machine.run(file)
    if version != 1001 or not system.get("little_endian"):
        raise Refused("has another version or order of bytes than this machine reads")
    content, keys = machine.run(file), machine.run(file)
    at, end = {}, path.stat().st_size
    for key in keys:
        storage = machine.storages[key]
        size, start = int.from_bytes(file.read(8), "little"), file.tell()
        if size != storage.size or start + n_bytes(storage) > end:
            raise EOFError(f"the numbers of storage {kinds.shown(key)} are not all there")
        at[key] = ("", start)
        file.seek(n_bytes(storage), 1)
    if set(at) != set(machine.storages):
        raise EOFError("some numbers are not there")
    return Pickle(path, content, machine.foreign, at)
