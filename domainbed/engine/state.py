"""All that an algorithm keeps between updates, as plain values and tensors, and put back.

A state dict holds parameters, buffers and what a class declares. Algorithms keep more: optimisers,
schedulers, counters, moving averages in lists, networks made in the first update. `saved` walks
through every attribute, so that a resumed run goes on as if undisturbed; what cannot be saved is
refused, never left out.
"""

from __future__ import annotations

import enum
import functools
import io
import random
import re
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

Plain = Any
"""None, numbers, texts, tensors, and lists and dictionaries of them: what weights-only loads."""


class CannotSave(TypeError):
    """An algorithm keeps something that no state can hold."""


_OWN = set(vars(nn.Module()))
"""Attributes of every module, which its state dict takes care of."""

_LIBRARIES = ("torch", "torchvision", "timm")
"""Whose modules keep all that they keep in their state dicts."""

_SIMPLE = (type(None), bool, int, float, str)
_CONSTANT = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    functools.partial,
    enum.Enum,
    PurePath,
    re.Pattern,
    range,
    bytes,
    torch.dtype,
    torch.device,
    torch.Size,
    np.dtype,
    np.ufunc,
)
"""Types whose values do not change; those of the new object are as good."""


class Made:
    """What an algorithm has after its construction, which is there again when it is made anew."""

    def __init__(self, algorithm: nn.Module) -> None:
        self.modules = frozenset(n for n, _ in algorithm.named_modules(remove_duplicate=False))
        self.places: set[str] = set()
        self.optimizers: dict[str, list[str | None]] = {}
        self.fault: CannotSave | None = None
        try:
            walk = _Walk(algorithm, None)
            walk.everything()
            self.places, self.optimizers = walk.places, walk.optimizers
        except CannotSave as error:  # told when the first state is to be written
            self.fault = error


def saved(algorithm: nn.Module, made: Made) -> dict[str, Plain]:
    """Return all that `algorithm` keeps, as `load` of restoring.py takes it.

    Raises `CannotSave` that names an attribute which no state can hold, and says what to do.
    """
    if made.fault is not None:
        raise made.fault
    return _Walk(algorithm, made).everything()


def _weights(algorithm: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the state dict, as they are."""
    state = algorithm.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that its state dict does not take care of."""
    return {name: value for name, value in vars(module).items() if name not in _OWN}


def _own_modules(algorithm: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose attributes may hold state, by name."""
    for name, module in algorithm.named_modules():
        if type(module).__module__.partition(".")[0] not in _LIBRARIES:
            yield name, module


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for a tensor and one that is detached from it."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _extra_state(algorithm: nn.Module) -> Any:
    """What a class declares itself; optimisers, which our base declares, are walked to anyway."""
    from domainbed.algorithms.base import Algorithm

    own = type(algorithm).get_extra_state
    if own in (nn.Module.get_extra_state, Algorithm.get_extra_state):
        return None
    return algorithm.get_extra_state()


def _is_stateful(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(
        getattr(value, "load_state_dict", None)
    )


class _Walk:
    """One walk through an algorithm, which names each object by the way to it."""

    def __init__(self, algorithm: nn.Module, made: Made | None) -> None:
        self.algorithm, self.made = algorithm, made
        self.places: set[str] = set()
        self.optimizers: dict[str, list[str | None]] = {}
        self.modules = {id(module): name for name, module in algorithm.named_modules()}
        named = [*algorithm.named_parameters(), *algorithm.named_buffers()]
        self.tensors = {id(tensor): name for name, tensor in named}
        self.views = {_memory(tensor): name for name, tensor in named if tensor.numel()}
        self.seen: dict[int, str] = {}
        self.kept: list[Any] = []  # so that no two objects get one identity

    def everything(self) -> dict[str, Plain]:
        """All of it."""
        weights = _weights(self.algorithm)
        attributes = {}
        for name, module in _own_modules(self.algorithm):
            place = f"{name}." if name else ""
            attributes[name] = {
                key: self.plain(value, place + key) for key, value in attributes_of(module).items()
            }
        named = list(self.algorithm.named_parameters())
        return {
            "modules": {} if self.made is None else dict(self._late_modules(self.made)),
            "tensors": self._kinds(weights),
            "weights": {name: tensor.detach() for name, tensor in weights.items()},
            "extra": _extra_state(self.algorithm),
            "requires_grad": [name for name, p in named if p.requires_grad],
            "gradients": {name: p.grad for name, p in named if p.grad is not None},
            "training": [name for name, m in self.algorithm.named_modules() if m.training],
            "attributes": attributes,
        }

    def _late_modules(self, made: Made) -> Iterator[tuple[str, tuple[str, bool]]]:
        """Modules that came in updates: which of the others each is, or can be copied from."""
        known = [(n, m) for n, m in self.algorithm.named_modules() if n in made.modules and n]
        late: list[str] = []
        for name, module in self.algorithm.named_modules(remove_duplicate=False):
            if name in made.modules or any(name.startswith(f"{other}.") for other in late):
                continue
            late.append(name)
            same = next((other for other, one in known if one is module), None)
            alike = (other for other, one in known if _is_alike(module, one))
            donor = same or next(alike, None)
            if donor is None:
                raise self._refusal(name, module, "it was made in an update; make it in __init__")
            yield name, (donor, same is not None)

    def _kinds(self, weights: dict[str, torch.Tensor]) -> dict[str, tuple[bool, torch.Tensor]]:
        """Whether a tensor is a parameter, and what it is where no state dict has it."""
        kinds = {}
        for name, tensor in weights.items():
            kinds[name] = isinstance(tensor, nn.Parameter), torch.empty_like(tensor, device="meta")
        for name, tensor in self.algorithm.named_buffers():
            if name not in weights:
                kinds[name] = False, tensor.detach()
        return {
            name: (is_parameter, tensor if tensor.device.type != "meta" else list(tensor.shape))
            for name, (is_parameter, tensor) in kinds.items()
        }

    def plain(self, value: Any, place: str) -> Plain:
        """Turn an attribute, or a part of one, into plain values."""
        if isinstance(value, np.generic):
            return {"numpy": value.dtype.str, "value": value.item()}
        if type(value) in _SIMPLE:
            return {"value": value}
        if isinstance(value, (*_CONSTANT, staticmethod)):
            self._must_be_made(value, place)
            return {"constant": type(value).__name__}
        for names, kind in ((self.modules, "module"), (self.tensors, "tensor"), (self.seen, "")):
            if id(value) in names:
                return {"same": names[id(value)], "as": kind}
        self.seen[id(value)] = place
        self.kept.append(value)
        turns = (turn for kinds, turn in self.TURNS if isinstance(value, kinds))
        return next(turns, _Walk._object)(self, value, place)

    def _object(self, value: Any, place: str) -> Plain:
        self._must_be_made(value, place)
        if isinstance(value, nn.Module):  # one that no module has
            return {"module": {k: v.detach() for k, v in _weights(value).items()}}
        if _is_stateful(value):
            return {"state": self.plain(value.state_dict(), f"{place}.state_dict()")}
        if hasattr(value, "__dict__") and not isinstance(value, (Iterator, io.IOBase)):
            fields = {k: self.plain(v, f"{place}.{k}") for k, v in vars(value).items()}
            return {"object": type(value).__name__, "fields": fields}
        raise self._refusal(
            place,
            value,
            "keep a number, a text, a tensor, or an object with state_dict and load_state_dict",
        )

    def _must_be_made(self, value: Any, place: str) -> None:
        """Refuse what only a constructor can make again."""
        self.places.add(place)
        if self.made is not None and place not in self.made.places:
            raise self._refusal(place, value, "it was made in an update; make it in __init__")

    def _refusal(self, place: str, value: Any, remedy: str) -> CannotSave:
        name = type(self.algorithm).__name__
        return CannotSave(
            f"{name}.{place} is a {type(value).__name__}, which no state can hold; {remedy}"
        )

    def _tensor(self, value: torch.Tensor, place: str) -> Plain:
        if (owner := self.views.get(_memory(value))) is not None:
            return {"same": owner, "as": "view"}
        return {"tensor": value.detach(), "grad": value.requires_grad}

    def _array(self, value: np.ndarray, place: str) -> Plain:
        if value.dtype.hasobject:
            raise self._refusal(place, value, "keep numbers in it")
        raw = (
            torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8) if value.size else None
        )
        return {"array": raw, "dtype": value.dtype.str, "shape": list(value.shape)}

    def _items(self, value: Any, place: str) -> Plain:
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        kind = next(k for k, t in SEQUENCES.items() if isinstance(value, t))
        plain = [self.plain(item, f"{place}[{i}]") for i, item in enumerate(items)]
        return {"items": plain, "kind": kind, "most": getattr(value, "maxlen", None)}

    def _pairs(self, value: dict, place: str) -> Plain:
        pairs = [
            (self.plain(key, f"key of {place}"), self.plain(item, f"{place}[{key!r}]"))
            for key, item in value.items()
        ]
        return {"pairs": pairs, "ordered": isinstance(value, OrderedDict)}

    def _optimizer(self, value: torch.optim.Optimizer, place: str) -> Plain:
        parameters = [p for group in value.param_groups for p in group["params"]]
        names = [self.tensors.get(id(p)) for p in parameters]
        self.optimizers[place] = names
        if self.made is not None and None in names and self.made.optimizers.get(place) != names:
            raise self._refusal(place, value, "its parameters are of no module of the algorithm")
        return {
            "optimizer": type(value).__name__,
            "parameters": names,
            "state": self.plain(value.state_dict(), f"{place}.state_dict()"),
        }

    def _generator(self, value: Any, place: str) -> Plain:
        self._must_be_made(value, place)
        state = GENERATORS[next(t for t in GENERATORS if isinstance(value, t))][0](value)
        return {"generator": self.plain(state, f"{place} state")}

    TURNS: ClassVar[list[tuple[Any, Callable[[_Walk, Any, str], Plain]]]] = [
        (torch.Tensor, _tensor),
        (np.ndarray, _array),
        ((list, tuple, set, frozenset, deque), _items),
        (dict, _pairs),
        (torch.optim.Optimizer, _optimizer),
    ]


SEQUENCES: dict[str, type] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque,
}  # fmt: skip

GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    random.Random: (lambda r: r.getstate(), lambda r, state: r.setstate(state)),
    np.random.RandomState: (lambda r: r.get_state(), lambda r, state: r.set_state(state)),
    np.random.Generator: (
        lambda r: r.bit_generator.state,
        lambda r, state: setattr(r.bit_generator, "state", state),
    ),
    torch.Generator: (lambda r: r.get_state(), lambda r, state: r.set_state(state.cpu())),
}
_Walk.TURNS.append((tuple(GENERATORS), _Walk._generator))


def _is_alike(module: nn.Module, other: nn.Module) -> bool:
    """Whether a copy of the other holds the state of a module."""
    if type(module) is not type(other):
        return False
    shapes, others = ({k: v.shape for k, v in _weights(m).items()} for m in (module, other))
    return shapes == others
