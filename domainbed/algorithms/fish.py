"""Gradient matching by a first-order meta step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed import networks
from domainbed.algorithms.base import Algorithm, Minibatch


class Fish(Algorithm):
    """Match the gradients of domains: step through them in turn, then go part of the way.

    Shi et al. 2021, arXiv 2104.09937, algorithm 1. As in DomainBed, the inner steps are Adam's,
    whose moments live on from one update to the next, and the domains' order is fixed.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.network = networks.WholeFish(input_shape, num_classes, hparams)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=hparams["lr"], weight_decay=hparams["weight_decay"]
        )

    @property
    def featurizer(self) -> torch.nn.Module:
        """The featurizer, which DomainBed names network.net.0."""
        return self.network.net[0]

    @property
    def classifier(self) -> torch.nn.Module:
        """The classifier, which DomainBed names network.net.1."""
        return self.network.net[1]

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One inner step for each domain, then the outer step; the loss is the last domain's."""
        start = {name: value.clone() for name, value in self.network.state_dict().items()}
        for x, y in minibatches:
            loss = F.cross_entropy(self.predict(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.copy_(start[name].lerp(value, self.hparams["meta_lr"]))
        return {"loss": loss.item()}

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.network(x)
