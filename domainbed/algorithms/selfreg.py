"""Self-supervised contrastive regularisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class SelfReg(ERM):
    """Pull features and logits towards those of others of their class, and mixtures of two.

    Kim et al. 2021, arXiv 2104.09841, without its curriculum of domains and averaged weights. As
    in DomainBed, the projection head `cdpl` keeps its initial weights (only its batch norms'
    statistics move), and feature terms weigh 0.3.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        n_features = self.featurizer.n_outputs
        width = n_features if n_features == 2048 else n_features * 2
        self.cdpl = nn.Sequential(
            nn.Linear(n_features, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, n_features),
            nn.BatchNorm1d(n_features),
        )

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on cross-entropy and dissimilarities within classes."""
        lam = np.random.beta(0.5, 0.5)
        y, order = torch.cat([y for _, y in minibatches]).sort()
        x = torch.cat([x for x, _ in minibatches])[order]
        z = self.featurizer(x)
        projected, logits = self.cdpl(z), self.classifier(z)
        one, two = _partners(y)
        loss = F.cross_entropy(logits, y)
        individual = F.mse_loss(logits, logits[one]) + 0.3 * F.mse_loss(z, projected[one])
        mixed = F.mse_loss(logits, lam * logits[one] + (1 - lam) * logits[two]) + 0.3 * F.mse_loss(
            z, lam * projected[one] + (1 - lam) * projected[two]
        )
        scale = loss.detach().clamp(max=1.0)
        loss = loss + scale * (lam * individual + (1 - lam) * mixed)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}


def _partners(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two random permutations within classes, as indices into sorted labels y."""
    start, one, two = 0, [], []
    for n in y.unique_consecutive(return_counts=True)[1].tolist():
        one.append(torch.randperm(n) + start)
        two.append(torch.randperm(n) + start)
        start += n
    return torch.cat(one).to(y.device), torch.cat(two).to(y.device)
