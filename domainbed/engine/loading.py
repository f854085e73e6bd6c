"""Where samples come from: a training stream that depends on (seed, env, step) alone.

Which samples step s draws from domain e, and how the one at position p is augmented, are functions
of (seed, e, s, p). So the number of workers, the checkpoint frequency or an interruption cannot
change what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from domainbed.engine import rng
from domainbed.lib.seeds import seed_hash
from domainbed.registry import InputError

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Source:
    """Samples of one domain to draw batches from: `keys` of `environment`, perhaps weighted."""

    name: str
    environment: Any
    keys: Sequence[int]
    weights: torch.Tensor | None = None


class Stream(torch.utils.data.Dataset):
    """Item s is the list of batches (x, y) of step s, one for each source.

    Without replacement each pass over a source has an order of its own and leaves out what fills
    no batch; sources with weights are drawn with replacement all the same.
    """

    def __init__(
        self, sources: Sequence[Source], batch_size: int, seed: int, replacement: bool = True
    ) -> None:
        self.sources, self.batch_size, self.seed = sources, batch_size, seed
        self.replacement = replacement
        self.keys = [torch.as_tensor(source.keys) for source in sources]

    def __getitem__(self, step: int) -> list[Batch]:
        return [self._batch(i, step) for i in range(len(self.sources))]

    def _batch(self, i: int, step: int) -> Batch:
        source, keys = self.sources[i], self.keys[i]
        generator = torch.Generator().manual_seed(seed_hash(self.seed, source.name, step))
        if source.weights is None and not self.replacement:
            drawn = self._without_replacement(i, step)
        elif source.weights is None:
            drawn = torch.randint(len(keys), (self.batch_size,), generator=generator)
        else:
            drawn = torch.multinomial(
                source.weights, self.batch_size, replacement=True, generator=generator
            )
        seeds = (seed_hash(self.seed, source.name, step, p) for p in range(self.batch_size))
        return fetch(source.environment, keys[drawn], seeds)

    def _without_replacement(self, i: int, step: int) -> torch.Tensor:
        n_batches = len(self.keys[i]) // self.batch_size
        n_passes, position = divmod(step, n_batches)
        seed = seed_hash(self.seed, self.sources[i].name, "pass", n_passes)
        order = torch.randperm(len(self.keys[i]), generator=torch.Generator().manual_seed(seed))
        return order.split(self.batch_size)[position]

    def steps(self, first: int, end: int, num_workers: int) -> Iterator[list[Batch]]:
        """The batches of steps first to end - 1, in order, loaded by `num_workers` processes."""
        if num_workers == 0:
            return (self[step] for step in range(first, end))
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=range(first, end),
            num_workers=num_workers,
            generator=torch.Generator(),  # else the loader draws from the global stream
            pin_memory=torch.cuda.is_available(),
        )
        return _told_in_a_line(loader)


def _told_in_a_line(loader: DataLoader) -> Iterator[Any]:
    """The items of a loader; of a wrong input in a worker the line, without its traceback."""
    try:
        yield from loader
    except InputError as error:
        line = str(error).strip().splitlines()[-1]
        raise InputError(line.removeprefix(f"{InputError.__module__}.InputError: ")) from None


def is_in_memory(environment: Any) -> bool:
    """Whether samples are rows of tensors, drawn without chance."""
    return isinstance(environment, TensorDataset) and len(environment.tensors) == 2


def fetch(environment: Any, keys: torch.Tensor, seeds: Iterator[int] | None = None) -> Batch:
    """The samples of `keys` as x (n, *input_shape) and y (n,) int64.

    `seeds` yields one for each sample; without it a sample must not depend on chance.
    """
    if is_in_memory(environment):
        x, y = environment.tensors
        return x[keys], y[keys]
    xs, ys = torch.empty(0), []
    with rng.preserved():
        for row, key in enumerate(keys.tolist()):
            if seeds is not None:
                rng.seed_cpu(next(seeds))
            x, y = environment[key]
            x = torch.as_tensor(x)
            if row == 0:
                xs = x.new_empty(len(keys), *x.shape)
            xs[row] = x
            ys.append(y)
    return xs, torch.as_tensor(ys)


class Sequential(torch.utils.data.Dataset):
    """Item b is the b-th batch of the samples `keys` of a domain in order, for evaluation."""

    def __init__(self, environment: Any, keys: Sequence[int], batch_size: int, seed: int) -> None:
        self.environment, self.seed = environment, seed
        self.batches = torch.as_tensor(keys).split(batch_size) if len(keys) else ()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        keys = self.batches[index]
        seeds = (seed_hash("evaluation", self.seed, key) for key in keys.tolist())
        return fetch(self.environment, keys, seeds)

    def loader(self, num_workers: int) -> Iterator[Batch]:
        """All batches in order."""
        loader = DataLoader(
            self,
            batch_size=None,
            num_workers=num_workers,
            generator=torch.Generator(),  # else the loader draws from the global stream
            pin_memory=torch.cuda.is_available(),
        )
        return _told_in_a_line(loader)
