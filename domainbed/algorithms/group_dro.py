"""Group distributionally robust optimisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class GroupDRO(ERM):
    """Weigh domains by how bad their risks have been.

    Sagawa et al. 2019, arXiv 1911.08731, algorithm 1. As in DomainBed, weights start at 1, not at
    1 / domains, which the first update undoes, and all domains are seen in every update.
    """

    q: torch.Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("q", torch.ones(num_domains))

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """Move the domains' weights, then one Adam step on the weighted risks."""
        risks = torch.stack([F.cross_entropy(self.predict(x), y) for x, y in minibatches])
        self.q *= (self.hparams["groupdro_eta"] * risks.detach()).exp()
        self.q /= self.q.sum()
        loss = self.q.clone() @ risks
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}
