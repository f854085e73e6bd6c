"""Penalties that set in after some updates."""

from __future__ import annotations

import math
from typing import Any

import torch

from domainbed.algorithms.erm import ERM


class Annealed(ERM):
    """ERM that changes its objective after some updates, and then starts Adam anew.

    Adam's moments are of gradients before the change, often much smaller than those after it.
    A subclass names in `starts` the hparams that hold these numbers of updates, and in `restart_lr`
    the one that holds the learning rate of a new Adam.
    """

    update_count: torch.Tensor
    starts: tuple[str, ...] = ()
    restart_lr = "lr"

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("update_count", torch.tensor([0]))

    def has_started(self, start: str) -> bool:
        """Whether as many updates are done as the hparam `start` says."""
        return self.update_count.item() >= self.hparams[start]

    def step(self, loss: torch.Tensor) -> None:
        """Do one step on `loss`, and count it."""
        if self.update_count.item() in {math.ceil(self.hparams[start]) for start in self.starts}:
            self.optimizer = torch.optim.Adam(
                self.network.parameters(),
                lr=self.hparams[self.restart_lr],
                weight_decay=self.hparams["weight_decay"],
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_count += 1
