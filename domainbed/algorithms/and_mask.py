"""Steps where domains agree on the direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from domainbed.algorithms import penalties
from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class ANDMask(ERM):
    """Move only the weights for which the domains' gradients agree in sign.

    Parascandolo et al. 2020, arXiv 2009.00329. As in DomainBed, each parameter's gradient is
    divided by the share of its weights that are moved, and each domain passes the network by
    itself.
    """

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the masked mean gradient."""
        risks = [F.cross_entropy(self.predict(x), y) for x, y in minibatches]
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        for p, gradients in zip(parameters, penalties.domain_gradients(risks, parameters)):
            mask = self._mask(gradients)
            p.grad = mask * gradients.mean(0) * (1 / (mask.mean() + 1e-10))
        self.optimizer.step()
        return {"loss": torch.stack(risks).mean().item()}

    def _mask(self, gradients: torch.Tensor) -> torch.Tensor:
        """Weights in [0, 1] for a parameter's gradients (domains, *shape)."""
        return (agreement(gradients) >= self.hparams["tau"]).to(gradients)


class SANDMask(ANDMask):
    """ANDMask that is smooth, and smaller where the gradients' sizes differ.

    Shahtalebi et al. 2021, arXiv 2106.02266. Of the gradients, the mask is
    max(0, tanh(k (agreement - tau) / variance)); at DomainBed's default tau of 1 nothing moves.
    """

    def _mask(self, gradients: torch.Tensor) -> torch.Tensor:
        excess = agreement(gradients) - self.hparams["tau"]
        variance = gradients.var(0, correction=min(1, len(gradients) - 1))
        return (self.hparams["k"] * excess / variance.clamp(min=1e-17)).tanh().relu()


def agreement(gradients: torch.Tensor) -> torch.Tensor:
    """In [0, 1], how far the signs of gradients (domains, *shape) agree: 1 where all are alike."""
    return gradients.sign().mean(0).abs()
