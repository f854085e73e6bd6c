"""Averages of weight files: streamed, strict, in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from domainbed.lib import weights
from domainbed.registry import InputError

CHUNK = 1_000_000
"""Numbers summed at a time: what an average holds in memory beside its result."""


def check_members(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the members' headers, or raise `InputError` naming the first that does not fit.

    Members must agree with the first one in names, shapes and dtypes of tensors, in the foundation
    that they descend from and in the head that they started with.
    """
    if not paths:
        raise InputError("There are no members to average; expected at least one finished run")
    headers = [weights.read_header(path) for path in paths]
    layouts = [_layout(path) for path in paths]
    for path, header, layout in zip(paths, headers, layouts):
        if layout != layouts[0]:
            odd = sorted(set(layout.items()) ^ set(layouts[0].items()))[0][0]
            raise InputError(
                f"{path} and {paths[0]} differ in tensor {odd!r}: {layout.get(odd, 'missing')} "
                f"against {layouts[0].get(odd, 'missing')}; only weights of one architecture "
                "can be averaged"
            )
        for what in ("foundation", "head"):
            ours, theirs = (_origin(h, what) for h in (headers[0], header))
            if ours != theirs:
                raise InputError(
                    f"{path} starts from another {what} than {paths[0]}: {theirs} against {ours}; "
                    "only weights that share both foundation and linear probe can be averaged"
                )
    return headers


def _origin(header: dict[str, Any], what: str) -> str:
    origin = header.get("provenance", {}).get(what)
    return origin["sha256"] if isinstance(origin, dict) else str(origin)


def _layout(path: Path) -> dict[str, str]:
    with weights.opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {n: f"{s.get_dtype()} {list(s.get_shape())}" for n, s in slices.items()}


def combine(
    paths: Sequence[Path], coefficients: Sequence[float], into: Mapping[str, torch.Tensor]
) -> None:
    """Write the mean of weights, each counted `coefficient` times, into tensors by name.

    It is computed in float64. Files are memory-mapped, one open at a time, and read in chunks of
    whole tensors: little but the result is in memory. Integer buffers must agree and are kept.
    Raises `InputError` naming the file and the tensor that hold a number that is not finite.
    """
    for names in _chunks(paths[0]):
        sums: weights.State = {}
        for path, coefficient in zip(paths, coefficients):
            with weights.opened(path) as file:
                for name in names:
                    _add(sums, name, file.get_tensor(name), coefficient, path)
        with torch.no_grad():
            for name in names:
                if sums[name].is_floating_point():
                    sums[name].div_(sum(coefficients))
                into[name].copy_(sums.pop(name))


def _add(
    sums: weights.State, name: str, tensor: torch.Tensor, coefficient: float, path: Path
) -> None:
    if not tensor.is_floating_point():
        if not torch.equal(sums.setdefault(name, tensor.clone()), tensor):
            raise InputError(f"{path} differs from the other members in the integers of {name!r}")
        return
    if not torch.isfinite(tensor).all():
        raise InputError(f"{path} holds a weight that is not finite, in {name!r}; leave it out")
    if name in sums:
        sums[name].add_(tensor.double(), alpha=coefficient)
    else:
        sums[name] = tensor.double().mul_(coefficient)


def _chunks(path: Path) -> Iterator[list[str]]:
    with weights.opened(path) as file:
        sizes = {n: torch.Size(file.get_slice(n).get_shape()).numel() for n in sorted(file.keys())}
    chunk: list[str] = []
    for name, size in sizes.items():
        if chunk and sum(sizes[n] for n in chunk) + size > CHUNK:
            yield chunk
            chunk = []
        chunk.append(name)
    yield chunk


def uniform(paths: Sequence[Path], into: Mapping[str, torch.Tensor]) -> None:
    """Write the mean of the members' weights into tensors by name."""
    combine(paths, [1] * len(paths), into)


def places(algorithm: torch.nn.Module, path: Path) -> weights.State:
    """The algorithm's own tensors under the names that a file stores them by.

    Raises `InputError` unless every tensor of the algorithm has its counterpart, none left over.
    """
    own, stored = weights.tensors(algorithm), _layout(path)
    found = {name: tensor for name, tensor in own.items() if name in stored}
    covered = {tensor.data_ptr() for tensor in found.values() if tensor.numel()}
    missing = [n for n, t in own.items() if t.numel() and t.data_ptr() not in covered]
    left = sorted(set(stored) - set(found))
    if missing or left:
        raise InputError(
            f"{path} does not fit {type(algorithm).__name__}: missing {missing[:3]}, left over "
            f"{left[:3]}; expected weights of the same architecture"
        )
    return found
