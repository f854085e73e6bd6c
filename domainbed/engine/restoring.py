"""Put back what an algorithm kept, as state.py saved it, into one that was made anew."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from typing import Any

import numpy as np
import torch
from torch import nn

from domainbed.engine.state import GENERATORS, SEQUENCES, Plain, attributes_of


def load(algorithm: nn.Module, state: dict[str, Plain]) -> None:
    """Put everything back.

    Raises `ValueError`, `KeyError` or `RuntimeError` if the state is of another kind of algorithm.
    """
    for name, (donor, is_same) in state["modules"].items():
        module = algorithm.get_submodule(donor)
        parent, _, last = name.rpartition(".")
        new = module if is_same else copy.deepcopy(module)
        algorithm.get_submodule(parent).add_module(last, new)
    for name, (is_parameter, tensor) in state["tensors"].items():
        _make_room(algorithm, name, is_parameter, tensor)
    extra = {} if state["extra"] is None else {"_extra_state": state["extra"]}
    algorithm.load_state_dict({**state["weights"], **extra})
    for name, parameter in algorithm.named_parameters():
        parameter.requires_grad_(name in state["requires_grad"])
        parameter.grad = state["gradients"].get(name)
    for name, module in algorithm.named_modules():
        module.training = name in state["training"]
    restorer = _Restorer(algorithm)
    for name, attributes in state["attributes"].items():
        restorer.attributes(algorithm.get_submodule(name), attributes, name)


def _make_room(algorithm: nn.Module, name: str, is_parameter: bool, tensor: Any) -> None:
    """Make room for a tensor that came to be, or changed its shape, after construction."""
    parent, _, last = name.rpartition(".")
    module = algorithm.get_submodule(parent)
    own: dict[str, Any] = module._parameters if is_parameter else module._buffers
    there = own.get(last)
    if isinstance(tensor, torch.Tensor):  # of a buffer that no state dict has
        module._non_persistent_buffers_set.add(last)
        own[last] = tensor if there is None or there.shape != tensor.shape else there.copy_(tensor)
    elif there is None or list(there.shape) != tensor:
        device = next((t.device for t in algorithm.parameters()), "cpu")
        room = torch.zeros(tensor, device=device)
        own[last] = nn.Parameter(room) if is_parameter else room


class _Restorer:
    """Puts plain values back where `_Walk` found them."""

    def __init__(self, algorithm: nn.Module) -> None:
        self.algorithm = algorithm
        self.tensors = dict([*algorithm.named_parameters(), *algorithm.named_buffers()])
        self.seen: dict[str, Any] = {}

    def attributes(self, owner: Any, saved: dict[str, Plain], place: str) -> None:
        """Set the attributes of a module or an object, and delete those that were not kept."""
        there = attributes_of(owner) if isinstance(owner, nn.Module) else dict(vars(owner))
        for name in there.keys() - saved.keys():
            delattr(owner, name)
        for name, value in saved.items():
            way = f"{place}.{name}" if place else name
            new = self.value(value, there.get(name), way)
            if new is not there.get(name):
                setattr(owner, name, new)

    def value(self, saved: Plain, there: Any, place: str) -> Any:
        """Return what was saved; an object that is there already is filled and returned."""
        if "numpy" in saved:
            return np.dtype(saved["numpy"]).type(saved["value"])
        if "value" in saved:
            return saved["value"]
        if "constant" in saved:
            return there
        if "same" in saved:
            self.seen[place] = self._same(saved)
            return self.seen[place]
        if isinstance(there, (list, dict)) or "object" in saved:
            self.seen[place] = there  # before its parts, which may know it
        new = self._filled(saved, there, place)
        self.seen[place] = new
        return new

    def _same(self, saved: Plain) -> Any:
        if saved["as"] == "module":
            return self.algorithm.get_submodule(saved["same"])
        if saved["as"] == "view":
            return self.tensors[saved["same"]].detach()
        return (self.tensors if saved["as"] == "tensor" else self.seen)[saved["same"]]

    def _filled(self, saved: Plain, there: Any, place: str) -> Any:
        if "tensor" in saved:
            return self._tensor(saved, there)
        if "array" in saved:
            raw = b"" if saved["array"] is None else saved["array"].cpu().numpy().tobytes()
            return np.frombuffer(raw, saved["dtype"]).reshape(saved["shape"]).copy()
        if "items" in saved:
            return self._items(saved, there, place)
        if "pairs" in saved:
            return self._pairs(saved, there, place)
        if "optimizer" in saved:
            return self._optimizer(saved, there, place)
        if "generator" in saved:
            state = self.value(saved["generator"], None, f"{place} state")
            GENERATORS[next(t for t in GENERATORS if isinstance(there, t))][1](there, state)
            return there
        if "module" in saved:
            there.load_state_dict(saved["module"])
            return there
        if "state" in saved:
            before = there.state_dict()
            there.load_state_dict(self.value(saved["state"], before, f"{place}.state_dict()"))
            return there
        if type(there).__name__ != saved["object"]:
            raise ValueError(f"{place} was a {saved['object']}, made in an update")
        self.attributes(there, saved["fields"], place)
        return there

    def _tensor(self, saved: Plain, there: Any) -> torch.Tensor:
        tensor = saved["tensor"]
        is_alike = isinstance(there, torch.Tensor) and (there.shape, there.dtype) == (
            tensor.shape,
            tensor.dtype,
        )
        if is_alike and there.is_leaf:  # in place, since an optimiser may know it
            with torch.no_grad():
                return there.copy_(tensor)
        return tensor.clone().requires_grad_(saved["grad"])

    def _items(self, saved: Plain, there: Any, place: str) -> Any:
        before = list(there) if isinstance(there, (list, tuple, deque)) else []
        before += [None] * (len(saved["items"]) - len(before))
        items = [
            self.value(item, old, f"{place}[{i}]")
            for i, (item, old) in enumerate(zip(saved["items"], before))
        ]
        if isinstance(there, list):
            there[:] = items
            return there
        if isinstance(there, tuple) and type(there) is not tuple:  # a named one
            return type(there)(*items)
        if saved["kind"] == "deque":
            return deque(items, saved["most"])
        return SEQUENCES[saved["kind"]](items)

    def _pairs(self, saved: Plain, there: Any, place: str) -> Any:
        before = dict(there) if isinstance(there, dict) else {}
        new = {}
        for key, item in saved["pairs"]:
            name = self.value(key, None, f"key of {place}")
            new[name] = self.value(item, before.get(name), f"{place}[{name!r}]")
        if not isinstance(there, dict):
            return OrderedDict(new) if saved["ordered"] else new
        there.clear()
        there.update(new)
        return there

    def _optimizer(self, saved: Plain, there: Any, place: str) -> Any:
        state = self.value(saved["state"], None, f"{place}.state_dict()")
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        if isinstance(there, torch.optim.Optimizer):
            of = [names.get(id(p)) for group in there.param_groups for p in group["params"]]
            if of == saved["parameters"]:
                there.load_state_dict(state)
                return there
        return self._made_anew(saved, there, state, place)

    def _made_anew(self, saved: Plain, there: Any, state: Any, place: str) -> Any:
        """An optimiser that an update made, or made over other parameters."""
        kind = saved["optimizer"]
        cls = type(there) if type(there).__name__ == kind else getattr(torch.optim, kind, None)
        if cls is None or None in saved["parameters"]:
            raise ValueError(f"{place}, a {kind}, was made in an update over unknown parameters")
        left = iter(saved["parameters"])
        groups = [
            {**group, "params": [self.tensors[next(left)] for _ in group["params"]]}
            for group in state["param_groups"]
        ]
        optimizer = cls(groups, lr=groups[0]["lr"])
        optimizer.load_state_dict(state)
        return optimizer
