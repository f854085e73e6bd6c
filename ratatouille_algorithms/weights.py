"""Means of weight files, put into networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from domainbed.lib import stored, weights
from domainbed.lib.kinds import shown
from domainbed.registry import InputError
from ratatouille_algorithms.means import means


def combine(
    paths: Sequence[Path], coefficients: Sequence[float], into: Mapping[str, torch.Tensor]
) -> None:
    """Put the mean of weights, each counted `coefficient` times, into tensors by name.

    Little but the result is in memory. Raises as `means.means` does.
    """
    for piece, mean in means(paths, coefficients):
        into[piece.name].detach()[piece.rows].copy_(torch.from_numpy(mean))


def uniform(paths: Sequence[Path], into: Mapping[str, torch.Tensor]) -> None:
    """Put the mean of the members' weights into tensors by name."""
    combine(paths, [1] * len(paths), into)


def places(algorithm: torch.nn.Module, path: Path) -> weights.State:
    """The algorithm's own tensors under the names that a file stores them by.

    Raises `InputError` unless every tensor of the algorithm has its counterpart, none left over.
    """
    own, theirs = weights.tensors(algorithm), stored.tensors(path)
    found = {name: tensor for name, tensor in own.items() if name in theirs}
    covered = {tensor.data_ptr() for tensor in found.values() if tensor.numel()}
    missing = [n for n, t in own.items() if t.numel() and t.data_ptr() not in covered]
    left = sorted(set(theirs) - set(found))
    other = [
        f"{shown(name)} of {list(theirs[name].shape)} for {list(tensor.shape)}"
        for name, tensor in found.items()
        if theirs[name].shape != tuple(tensor.shape)
    ]
    if missing or left or other:
        faults = {"missing": missing, "left over": list(map(shown, left)), "of other shape": other}
        told = "; ".join(f"{fault} {', '.join(of[:3])}" for fault, of in faults.items() if of)
        raise InputError(
            f"{path} does not fit {type(algorithm).__name__}: {told}; expected weights of the same "
            "architecture and number of classes"
        )
    return found
