"""DomainBed's data loaders, whose processes live on from one pass to the next.

Training here reads `domainbed.engine.loading`; these are for code written for DomainBed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)

from domainbed.registry import InputError


class _Endless:
    """Passes over a sampler, one after another."""

    def __init__(self, sampler: BatchSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield from self.sampler


def _batches(dataset: Any, sampler: BatchSampler, num_workers: int) -> Iterator[Any]:
    return iter(DataLoader(dataset, batch_sampler=_Endless(sampler), num_workers=num_workers))


class InfiniteDataLoader:
    """Batches for ever, drawn with replacement; `weights` (n_samples,), or None for equal chances.

    Raises `InputError` for a dataset smaller than a batch.
    """

    replacement = True

    def __init__(
        self, dataset: Any, weights: torch.Tensor | None, batch_size: int, num_workers: int
    ) -> None:
        if len(dataset) < batch_size:
            raise InputError(
                f"A dataset of {len(dataset)} samples is smaller than batch_size {batch_size}; "
                "lower batch_size"
            )
        samples: Sampler[int]
        if weights is None:
            samples = RandomSampler(dataset, replacement=self.replacement)
        else:
            chances = cast("Sequence[float]", weights)  # torch takes its own tensors, too
            samples = WeightedRandomSampler(chances, batch_size, replacement=self.replacement)
        sampler = BatchSampler(samples, batch_size, drop_last=True)
        self._batches = _batches(dataset, sampler, num_workers)

    def __iter__(self) -> Iterator[Any]:
        return self._batches


class InfiniteDataLoaderWithoutReplacement(InfiniteDataLoader):
    """Batches for ever, each pass over the dataset without replacement."""

    replacement = False


class FastDataLoader:
    """All samples once in each pass, in random order."""

    def __init__(self, dataset: Any, batch_size: int, num_workers: int) -> None:
        sampler = BatchSampler(RandomSampler(dataset), batch_size, drop_last=False)
        self._length = len(sampler)
        self._batches = _batches(dataset, sampler, num_workers)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(len(self)):
            yield next(self._batches)

    def __len__(self) -> int:
        return self._length
