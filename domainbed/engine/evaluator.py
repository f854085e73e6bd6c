"""Accuracies of an algorithm on every split of every domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from domainbed.engine import rng
from domainbed.engine.loading import Sequential, is_in_memory

BATCH_IN_MEMORY, BATCH_OF_FILES = 128, 64
SPLITS = ("in", "out", "uda")


def acc_key(env: int, split: str) -> str:
    """Name of an accuracy in a record: split is "in", "out", "uda", or "all" for the domain."""
    return f"env{env}_{split}_acc"


def is_right(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Which rows of logits (batch, classes) predict y (batch,); one column means two classes."""
    if logits.size(1) == 1:
        return logits[:, 0].gt(0).eq(y.bool())
    return logits.argmax(1).eq(y)


def cross_entropies(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (batch,) in nats of each row; one column means two classes."""
    if logits.size(1) == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], y.float(), reduction="none")
    return F.cross_entropy(logits, y, reduction="none")


def accuracy(
    network: Any, loader: Iterable, weights: torch.Tensor | None, device: torch.device | str
) -> float:
    """Accuracy in [0, 1] of `network.predict` over a loader of (x, y), samples weighted."""
    right = []
    network.eval()
    with torch.no_grad():
        for x, y in loader:
            right.append(is_right(network.predict(x.to(device)), y.to(device)).float().cpu())
    network.train()
    rights = torch.cat(right)
    weights = torch.ones(len(rights)) if weights is None else torch.as_tensor(weights)
    return float((rights * weights[: len(rights)]).sum() / weights[: len(rights)].sum())


class Evaluator:
    """Measures accuracies on named splits of domains, reading each domain once, in order.

    splits: domain index -> split name -> keys of the domain. Nothing here touches the global
    random streams, so how often one evaluates cannot change what is trained.
    """

    def __init__(
        self,
        environments: Sequence[Any],
        splits: Mapping[int, Mapping[str, Sequence[int]]],
        device: torch.device | str,
        num_workers: int = 0,
    ) -> None:
        self.environments, self.splits = environments, splits
        self.device, self.num_workers = device, num_workers

    def evaluate(
        self,
        algorithm: Any,
        envs: Iterable[int] | None = None,
        splits: Sequence[str] = SPLITS,
    ) -> dict[str, float]:
        """Accuracies in [0, 1] by `acc_key`, of all domains or those of `envs`."""
        return self.measure(algorithm, envs, splits)[0]

    def measure(
        self,
        algorithm: Any,
        envs: Iterable[int] | None = None,
        splits: Sequence[str] = SPLITS,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Accuracies and mean cross-entropies (nats), both by `acc_key`."""
        return self.measure_each([algorithm], envs, splits)[0]

    def measure_each(
        self,
        networks: Sequence[Any],
        envs: Iterable[int] | None = None,
        splits: Sequence[str] = SPLITS,
    ) -> list[tuple[dict[str, float], dict[str, float]]]:
        """The same of several networks, in one pass over the data."""
        found: list[tuple[dict[str, float], dict[str, float]]] = [({}, {}) for _ in networks]
        for env in self.splits if envs is None else envs:
            keys, rows = self.keys(env, splits)
            for (accs, losses), (right, loss) in zip(found, self.samples(networks, env, keys)):
                for name, some in rows.items():
                    accs[acc_key(env, name)] = right[some].sum().item() / len(some)
                    losses[acc_key(env, name)] = loss[some].double().mean().item()
        return found

    def keys(
        self, env: int, splits: Sequence[str] = SPLITS
    ) -> tuple[list[int], dict[str, torch.Tensor]]:
        """All keys of splits of a domain, in order, and which of them are a split's, by its name.

        Splits without samples are left out.
        """
        there = {name: self.splits[env][name] for name in splits if len(self.splits[env][name])}
        every = sorted(key for some in there.values() for key in some)
        place = {key: i for i, key in enumerate(every)}
        return every, {n: torch.tensor([place[k] for k in some]) for n, some in there.items()}

    def samples(
        self, networks: Sequence[Any], env: int, keys: Sequence[int]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each network, whether it classifies each sample rightly, and its cross-entropies."""
        right = [[torch.empty(0, dtype=torch.bool)] for _ in networks]
        losses = [[torch.empty(0)] for _ in networks]
        for every, y in self.outputs(networks, env, keys):
            for i, logits in enumerate(every):
                right[i].append(is_right(logits, y).cpu())
                losses[i].append(cross_entropies(logits, y).cpu())
        return [(torch.cat(r), torch.cat(loss)) for r, loss in zip(right, losses)]

    @torch.no_grad()
    def outputs(
        self, networks: Sequence[Any], env: int, keys: Sequence[int]
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """Batches of a domain's samples, in order: the logits of each network, and labels."""
        modes = [network.training for network in networks]
        for network in networks:
            network.eval()
        try:
            for x, y in self.batches(env, keys):
                x = x.to(self.device)
                with rng.preserved():
                    logits = [network.predict(x) for network in networks]
                yield logits, y.to(self.device)
        finally:
            for network, was_training in zip(networks, modes):
                if was_training:
                    network.train()

    def batches(self, env: int, keys: Sequence[int]) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels of samples of a domain as networks see them in evaluation, in order."""
        environment = self.environments[env]
        in_memory = is_in_memory(environment)
        batches = Sequential(
            environment, keys, BATCH_IN_MEMORY if in_memory else BATCH_OF_FILES, env
        )
        return batches.loader(0 if in_memory else self.num_workers)
