"""What the classes and functions that a pickle names stand for, where weights need them.

Nothing is imported or called: dictionaries are made, tensors and the storages that they view are
described, and the harmless rest is left as a name (`Made`). The versions of numpy and torch that
wrote a pickle do not matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from domainbed.lib.kinds import shown

MAX_NAME = 1000
"""Characters of a name; a pickle can repeat a text in two bytes."""


class Refused(Exception):
    """A pickle says what no state dict does."""


class Foreign(Refused):
    """A pickle holds a class or a function that no state dict needs; its tensors can be kept."""


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

STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128", "Untyped": "",
}  # fmt: skip
STORAGE = re.compile(rf"torch\.(?:cuda\.|storage\.)?_?({'|'.join(STORAGES)})Storage")
_DTYPE = re.compile(rf"torch\.({'|'.join(ITEM_SIZES)})")
_NUMPY_DTYPE = re.compile(r"[<>|=]?([biufcSUMm])(\d{0,9})(?:\[\w{1,8}\])?")
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_ARRAYS = {"scalar", "_reconstruct", "_frombuffer"}
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
LEFT = {
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


def arguments(args: tuple[Any, ...], least: int, most: int) -> tuple[Any, ...]:
    """Arguments as they are, or `Refused` for another number of them."""
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
        made[name_of(key, made)] = value
    return made


def name_of(key: Any, among: dict[str, Any]) -> str:
    """A key as a text, so that a dictionary of a stranger's keys is quick to fill."""
    if isinstance(key, str):
        if len(key) > MAX_NAME:
            raise Refused(f"has a name of {len(key):,} characters")
        return key
    is_plain = isinstance(key, float) or (isinstance(key, int) and abs(key) < 2**63)
    return str(key) if is_plain else f"<{type(key).__name__} {len(among)}>"


def _encode(args: tuple[Any, ...]) -> Made:
    """How protocol 2 writes bytes: as a text of as many characters."""
    text, encoding = arguments(args, 2, 2)
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("calls _codecs.encode for another encoding than latin1")
    return Made("builtins.bytes", len(text))


def _numpy_dtype(args: tuple[Any, ...]) -> Made:
    code = args[0] if args else None
    found = _NUMPY_DTYPE.fullmatch(code) if isinstance(code, str) else None
    if found is None:
        raise Refused(f"holds numpy.dtype({shown(code)}), which is no number, bool or text")
    return Made("numpy.dtype", int(found[2] or 8) * (4 if found[1] == "U" else 1))


def _numpy_scalar(args: tuple[Any, ...]) -> Made:
    dtype, data = (*arguments(args, 1, 2), b"")[:2]
    check_numbers(dtype, 1, data)
    return Made("a numpy scalar")


def check_numbers(dtype: Any, n: Any, data: Any) -> None:
    """Raise `Refused` unless data are the bytes of n numbers of a dtype."""
    if not (isinstance(dtype, Made) and dtype.name == "numpy.dtype" and is_size(n)):
        raise Refused("holds a numpy array without a dtype and a shape")
    is_text = isinstance(data, bytes | bytearray | str)
    size = len(data) if is_text else data.n_bytes if isinstance(data, Made) else -1
    if size != n * dtype.n_bytes:
        raise Refused(f"holds {n} numpy numbers of {dtype.n_bytes} bytes, but not those bytes")


def is_size(n: Any) -> bool:
    """Whether it may be a size or an offset: torch counts in 64 bits."""
    return isinstance(n, int) and 0 <= n < 2**63


def volume(shape: Any) -> int:
    """The number of elements of a shape; raises `Refused` for what is none."""
    if not isinstance(shape, tuple | list) or len(shape) > 64 or not all(map(is_size, shape)):
        raise Refused("holds a tensor without a shape")
    return math.prod(shape)


def _numpy_frombuffer(args: tuple[Any, ...]) -> Made:
    data, dtype, shape, _ = arguments(args, 4, 4)
    check_numbers(dtype, volume(shape), data)
    return Made("a numpy array")


def _tensor(args: tuple[Any, ...]) -> Tensor:
    """The arguments of torch._utils._rebuild_tensor, _v2 and _v3."""
    storage, offset, shape, stride, *more = arguments(args, 4, 8)
    dtype = storage.dtype if isinstance(storage, Storage) else None
    more = [m for m in more if not (isinstance(m, dict | bool | type(None)) and not m)]
    for value in more:  # a dtype; `True` is requires_grad
        found = _DTYPE.fullmatch(value.name) if isinstance(value, Global) else None
        if found:
            dtype = found[1]
        elif value is not True:
            raise Refused("holds a tensor with hooks, or a conjugated or negated one")
    volume(shape)
    if len(stride) != len(shape) or not all(map(is_size, (offset, *stride))) or not dtype:
        raise Refused("holds a tensor without a dtype, an offset or strides")
    if storage.dtype not in ("", dtype):
        raise Refused(f"holds a tensor of {dtype} in a storage of {storage.dtype}")
    return Tensor(storage, dtype, offset + storage.first, tuple(shape), tuple(stride))


def _first(args: tuple[Any, ...]) -> Any:
    return args[0] if args else ()


def _reconstructor(args: tuple[Any, ...]) -> Made:
    """How protocols 0 and 1 make an object."""
    name = args[0].name
    if name not in LEFT:
        raise Refused(f"holds {shown(name)}")
    return Made(name)


def _parameter(args: tuple[Any, ...]) -> Tensor:
    if not args or not isinstance(args[0], Tensor):
        raise Refused("holds a parameter that is no tensor")
    return args[0]


def _of_type(args: tuple[Any, ...]) -> Tensor:
    """torch._tensor._rebuild_from_type_v2: a tensor or parameter that has attributes."""
    function, cls, inner, _ = arguments(args, 4, 4)
    if function.name not in _TENSORS or cls.name not in _TYPES:
        raise Refused(f"holds {shown(cls.name)}")
    return CALLS[function.name](inner)


_TENSORS = [f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3")]
_PARAMETERS = [f"torch._utils._rebuild_parameter{more}" for more in ("", "_with_state")]
CALLS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
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


def canonical(name: str) -> str:
    """One name for what other versions of Python and numpy call otherwise."""
    module, _, last = name.rpartition(".")
    module = _PYTHON_2.get(module, module)
    if re.fullmatch(r"numpy\._?core\.(multiarray|numeric|_internal)", module) and last in _ARRAYS:
        return last
    if module == "pathlib._local":  # of Python 3.13
        module = "pathlib"
    return f"{module}.{last}"


def is_harmless(name: str) -> bool:
    """Whether a pickle of weights may name it."""
    if name in CALLS or name in LEFT or name in _TYPES:
        return True
    return bool(_DTYPE.fullmatch(name) or STORAGE.fullmatch(name))
