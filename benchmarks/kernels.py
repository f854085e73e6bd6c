"""What torch computes in a function, call by call, and how long each call takes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry


@dataclass
class Call:
    """A kernel, its arguments, and how often it was called with such."""

    kernel: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    flop: int = 0
    n: int = 0

    def __call__(self) -> Any:
        return self.kernel(*self.args, **self.kwargs)


class Recorder(TorchDispatchMode):
    """Keeps account of the kernels that are called meanwhile, those of autograd included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Call] = {}

    def __torch_dispatch__(
        self, kernel: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        key = f"{kernel} {tree_map_only(torch.Tensor, _kind, (args, kwargs))}"
        if key not in self.calls:
            self.calls[key] = Call(kernel, *tree_map_only(torch.Tensor, _copy, (args, kwargs)))
        call, out = self.calls[key], kernel(*args, **kwargs)
        call.n += 1
        counted = flop_registry.get(kernel.overloadpacket)
        if counted:
            call.flop = counted(*args, **kwargs, out_val=out)
        return out


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}"


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor of the same numbers and strides, which may repeat numbers."""
    storage = tensor.untyped_storage().clone()
    place = tensor.storage_offset(), tensor.shape, tensor.stride()
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage, *place)


def calls(function: Callable[[], object]) -> list[Call]:
    """The kernels that a function calls, and how often."""
    with Recorder() as recorder:
        function()
    return list(recorder.calls.values())


def alone(call: Call, n: int = 10) -> float:
    """Seconds of all of a kernel's calls, if each took the least of n, after three."""
    taken = []
    with torch.no_grad():
        for _ in range(3 + n):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return call.n * min(taken[3:])
