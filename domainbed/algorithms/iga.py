"""Inter-domain gradient alignment."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from domainbed.algorithms import penalties
from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class IGA(ERM):
    """Penalise the variance between domains of the gradient of the risk.

    Koyama and Yamaguchi 2020, arXiv 2008.01883. As in DomainBed, the penalty is the sum over
    domains of squared distances to the mean gradient, not their mean, and each domain passes the
    network by itself.
    """

    differentiates_twice = True

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on risk and penalty; the loss returned is without the penalty."""
        risks = [F.cross_entropy(self.predict(x), y) for x, y in minibatches]
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        gradients = penalties.domain_gradients(risks, parameters, create_graph=True)
        penalty = penalties.total((g - g.mean(0)).square().sum() for g in gradients)
        loss = torch.stack(risks).mean()
        self.optimizer.zero_grad()
        (loss + self.hparams["penalty"] * penalty).backward()
        self.optimizer.step()
        return {"loss": loss.item(), "penalty": penalty.item()}
