"""Splits of a domain: drawn from a seed, the same whoever asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from numpy.random import RandomState

if TYPE_CHECKING:
    import torch


def split_keys(n: int, n_first: int, seed: int) -> tuple[list[int], list[int]]:
    """Shuffle 0 .. n - 1 by `seed` and cut: the first `n_first` keys, and the rest."""
    if not 0 <= n_first <= n:
        raise ValueError(f"n_first was given {n_first}; expected 0 to {n}")
    keys = list(range(n))
    RandomState(seed).shuffle(keys)
    return keys[:n_first], keys[n_first:]


class Subset:
    """Samples `keys` of a dataset."""

    def __init__(self, underlying_dataset: Any, keys: Sequence[int]) -> None:
        self.underlying_dataset, self.keys = underlying_dataset, keys

    def __getitem__(self, index: int) -> Any:
        return self.underlying_dataset[self.keys[index]]

    def __len__(self) -> int:
        return len(self.keys)


def split_dataset(dataset: Any, n: int, seed: int = 0) -> tuple[Subset, Subset]:
    """Cut a dataset in two: `n` samples drawn by `seed`, and the rest."""
    first, rest = split_keys(len(dataset), n, seed)
    return Subset(dataset, first), Subset(dataset, rest)


def labels(dataset: Any) -> list[int]:
    """The label of each sample; images are decoded only where there is no other way."""
    if isinstance(dataset, Subset):
        every = labels(dataset.underlying_dataset)
        return [every[key] for key in dataset.keys]
    if hasattr(dataset, "targets"):
        return [int(y) for y in dataset.targets]
    if hasattr(dataset, "tensors"):
        return dataset.tensors[-1].tolist()
    return [int(dataset[i][1]) for i in range(len(dataset))]


def make_weights_for_balanced_classes(dataset: Any) -> torch.Tensor:
    """Weights (n_samples,) that sum to 1, and to the same over each class."""
    import torch

    ys = labels(dataset)
    counts = Counter(ys)
    return torch.tensor([1 / (counts[y] * len(counts)) for y in ys])
