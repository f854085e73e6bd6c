"""Mixup of samples of different domains."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class Mixup(ERM):
    """Train on convex combinations of the samples of one domain with those of another.

    Zhang et al. 2017, arXiv 1710.09412, between domains as in Yan et al. 2020, arXiv 2001.00677,
    without its adversary. As in DomainBed, one coefficient is drawn for each pair of domains.
    """

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the mixtures of each domain with the next in a random circle."""
        alpha = self.hparams["mixup_alpha"]
        order = torch.randperm(len(minibatches)).tolist()
        risks = []
        for i, j in zip(order, order[1:] + order[:1]):
            (x1, y1), (x2, y2) = minibatches[i], minibatches[j]
            n, lam = min(len(y1), len(y2)), np.random.beta(alpha, alpha)
            logits = self.predict(lam * x1[:n] + (1 - lam) * x2[:n])
            one, two = F.cross_entropy(logits, y1[:n]), F.cross_entropy(logits, y2[:n])
            risks.append(lam * one + (1 - lam) * two)
        loss = torch.stack(risks).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}
