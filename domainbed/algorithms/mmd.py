"""Features distributed alike in all domains."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

from domainbed.algorithms import penalties
from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class MMD(ERM):
    """Penalise the maximum mean discrepancy of the domains' features, over pairs of domains.

    Li et al. 2018, "Domain Generalization with Adversarial Feature Learning", CVPR, without its
    autoencoder and adversary, as in DomainBed.
    """

    distance = staticmethod(penalties.mmd)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on risk and penalty; the loss returned is without the penalty."""
        features = [self.featurizer(x) for x, _ in minibatches]
        risks = [F.cross_entropy(self.classifier(z), y) for z, (_, y) in zip(features, minibatches)]
        loss, penalty = torch.stack(risks).mean(), self._penalty(features)
        self.optimizer.zero_grad()
        (loss + self.hparams["mmd_gamma"] * penalty).backward()
        self.optimizer.step()
        return {"loss": loss.item(), "penalty": penalty.item()}

    def _penalty(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Mean distance over pairs of domains; 0 where there is one domain alone."""
        distances = [self.distance(a, b) for a, b in combinations(features, 2)]
        return torch.stack(distances).mean() if distances else features[0].new_zeros(())


class CORAL(MMD):
    """Penalise differences of the means and covariances of the domains' features.

    Sun and Saenko 2016, arXiv 1607.01719. As in DomainBed, means are matched too and squares are
    averaged over entries, where the paper divides the covariances' sum by 4 x features^2.
    """

    distance = staticmethod(penalties.coral)


class CausIRL_MMD(MMD):
    """Penalise the discrepancy of two random mixtures of the domains' features.

    Chevalley et al. 2022, arXiv 2206.11646. As in DomainBed, the domains are cut at random places,
    and what is before the cuts is compared with what is after them.
    """

    def _penalty(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Distance of the mixtures; 0 where one has fewer than two samples."""
        cuts = [np.random.randint(len(z)) for z in features]
        first = torch.cat([z[:cut] for z, cut in zip(features, cuts)])
        second = torch.cat([z[cut:] for z, cut in zip(features, cuts)])
        if min(len(first), len(second)) < 2:
            return first.new_zeros(())
        return self.distance(first, second)


class CausIRL_CORAL(CausIRL_MMD):
    """CausIRL_MMD with the distance of CORAL. Chevalley et al. 2022, arXiv 2206.11646."""

    distance = staticmethod(penalties.coral)
