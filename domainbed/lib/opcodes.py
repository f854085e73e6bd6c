"""The opcodes of pickles, as far as weights need them, on a stack and a memo; nothing is called."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from domainbed.lib import pickled
from domainbed.lib.kinds import shown
from domainbed.lib.pickled import MAX_NAME, Foreign, Global, Made, Refused, Storage

MAX_OPCODES = 4_000_000
"""A state dict takes about 40 for each tensor."""


@dataclass
class Machine:
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
                raise Refused(f"has more than {MAX_OPCODES:,} opcodes, as no state dict has")
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise Refused(f"has the opcode {opcode.name}, as no state dict has")
        return self.stack.pop()

    def _above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def _named(self, name: str) -> None:
        """Push a global, which is "module name" in one opcode."""
        name = pickled.canonical(name)
        if not pickled.is_harmless(name):
            if not self.keeps_all:
                raise Foreign(f"holds {shown(name)}")
            self.foreign.add(name)
        self.stack.append(Global(name))

    def _stack_global(self, _: Any) -> None:
        last, module = self.stack.pop(), self.stack.pop()
        if not isinstance(last, str) or not isinstance(module, str):
            raise Refused("names a class by what is no text")
        if len(module) + len(last) > MAX_NAME:
            raise Refused("names a class by a text that is too long")
        self._named(f"{module}.{last}")

    def _call(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            if not self.keeps_all:
                raise Refused("calls what is no class")
            self.stack.append(Made("what was not called"))
            return
        self.n_opcodes += sum(len(a) for a in args if isinstance(a, list))
        try:
            self.stack.append(self._called(function.name, args))
        except Refused as refused:
            if not self.keeps_all:
                raise Foreign(str(refused)) from refused
            self.foreign.add(function.name)
            self.stack.append(Made(function.name))

    @staticmethod
    def _called(name: str, args: tuple[Any, ...]) -> Any:
        if name in pickled.CALLS:
            return pickled.CALLS[name](args)
        if name in pickled.LEFT:
            return Made(name)
        if name == "builtins.bytes" and not args:  # how protocol 2 writes no bytes
            return b""
        raise Refused(f"calls {shown(name)}")

    def _persistent(self, _: Any) -> None:
        """Push the storage that a persistent id of torch names."""
        _, cls, key, _, size, *view = pickled.arguments(self.stack.pop(), 5, 6)
        found = pickled.STORAGE.fullmatch(cls.name)
        if found is None or not isinstance(key, str) or not pickled.is_size(size):
            raise Refused(f"holds a storage of {shown(cls.name)}")
        storage = Storage(key, pickled.STORAGES[found[1]], size)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"says two things of its storage {shown(key)}")
        if view and view[0] is not None:
            _, first, _ = view[0]
            if not pickled.is_size(first):
                raise Refused("holds a view without an offset")
            storage = Storage(key, storage.dtype, size, first)
        self.stack.append(storage)

    def _build(self, _: Any) -> None:
        """Give an object its state; of those that are made only arrays have one that matters."""
        state, to = self.stack.pop(), self.stack[-1]
        if not isinstance(to, Made) or to.name != "numpy.ndarray" or not isinstance(state, tuple):
            return
        try:
            _, shape, dtype, _, data = pickled.arguments(state, 5, 5)
            pickled.check_numbers(dtype, pickled.volume(shape), data)
        except Refused:
            if not self.keeps_all:
                raise

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        to = self.stack[-1]
        if isinstance(to, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                to[pickled.name_of(key, to)] = value

    def _push_marked(self, kind: type) -> None:
        items = self._above_mark()
        self.stack.append(kind(items))

    def _push_dict(self, _: Any) -> None:
        items = self._above_mark()
        self.stack.append({})
        self._update(items)

    def _tuple_of(self, n: int) -> None:
        if len(self.stack) < n:
            raise IndexError
        self.stack[-n:] = [tuple(self.stack[-n:])]

    def _inst(self, name: str) -> None:
        args = tuple(self._above_mark())
        self._named(name.replace(" ", "."))
        self.stack.append(args)
        self._call(None)

    def _obj(self, _: Any) -> None:
        cls, *args = self._above_mark()
        self.stack += [cls, tuple(args)]
        self._call(None)

    def _new_with_keywords(self, _: Any) -> None:
        self.stack.pop()
        self._call(None)


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT",
}  # fmt: skip
_STEPS: dict[str, Callable[[Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda m, _: m.stack.append([])),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "MARK": Machine._mark,
    "POP": lambda m, _: m.stack.pop() if m.stack else m._above_mark(),
    "POP_MARK": lambda m, _: m._above_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda m, _: m._push_marked(list)),
    "TUPLE": lambda m, _: m._push_marked(tuple),
    "TUPLE1": lambda m, _: m._tuple_of(1),
    "TUPLE2": lambda m, _: m._tuple_of(2),
    "TUPLE3": lambda m, _: m._tuple_of(3),
    "DICT": Machine._push_dict,
    "APPEND": lambda m, _: m._extend([m.stack.pop()]),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m._extend(m._above_mark())),
    "SETITEM": lambda m, _: m._update([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m._update(m._above_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine._remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m.stack.append(m.memo[i])),
    "GLOBAL": lambda m, name: m._named(name.replace(" ", ".")),
    "STACK_GLOBAL": Machine._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), Machine._call),
    "NEWOBJ_EX": Machine._new_with_keywords,
    "INST": Machine._inst,
    "OBJ": Machine._obj,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent,
}
