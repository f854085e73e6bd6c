"""Marginal transfer learning."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed import networks
from domainbed.algorithms import penalties
from domainbed.algorithms.base import Algorithm, Minibatch


class MTL(Algorithm):
    """Classify features beside an embedding of their domain.

    Blanchard et al. 2017, arXiv 1711.07910, as a network. There the embedding is the domain's mean
    feature, whose moving average is kept in `embeddings`. As in DomainBed, what the classifier is
    given in its place is standard normal noise: nothing reads `embeddings`, and predictions vary
    with the generator.
    """

    embeddings: torch.Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.featurizer = networks.Featurizer(input_shape, hparams)
        self.classifier = networks.Classifier(
            self.featurizer.n_outputs * 2, num_classes, hparams["nonlinear_classifier"]
        )
        self.optimizer = torch.optim.Adam(
            self.parameters(), lr=hparams["lr"], weight_decay=hparams["weight_decay"]
        )
        self.register_buffer("embeddings", torch.zeros(num_domains, self.featurizer.n_outputs))

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the sum of the domains' cross-entropies."""
        loss = penalties.total(
            F.cross_entropy(self.predict(x, d), y) for d, (x, y) in enumerate(minibatches)
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def predict(self, x: torch.Tensor, env: int | None = None) -> torch.Tensor:
        """Logits of shape (batch, num_classes); `env` is the training domain that x comes from."""
        z = self.featurizer(x)
        if env is not None:
            ema = self.hparams["mtl_ema"]
            self.embeddings[env] = (1 - ema) * self.embeddings[env] + ema * z.detach().mean(0)
        return self.classifier(torch.cat([z, torch.randn_like(z)], dim=1))
