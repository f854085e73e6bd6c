"""Invariant variances of gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

from domainbed.algorithms import penalties
from domainbed.algorithms.annealed import Annealed
from domainbed.algorithms.base import Minibatch


class Fishr(Annealed):
    """Penalise differences between domains of the variance of the classifier's gradients.

    Rame et al. 2021, arXiv 2109.02934. As in DomainBed, squared differences are averaged over
    weights, not summed; moving averages start at 0 and are divided by 1 - ema, so that the newest
    variance weighs 1; the penalty weighs 0 until penalty_anneal_iters updates are done, when Adam
    starts anew.
    """

    starts = ("penalty_anneal_iters",)
    moving_variances: torch.Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        n_weights = sum(p.numel() for p in self.classifier.parameters())
        self.register_buffer("moving_variances", torch.zeros(num_domains, n_weights))

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on cross-entropy and, in time, the penalty."""
        y = torch.cat([y for _, y in minibatches])
        z = self.featurizer(torch.cat([x for x, _ in minibatches]))
        nll = F.cross_entropy(self.classifier(z), y)
        gradients = sample_gradients(self.classifier, z, y)
        parts = penalties.by_domain(gradients, minibatches)
        variances = self._average(torch.stack([g.var(0, unbiased=False) for g in parts]))
        penalty = (variances - variances.mean(0)).square().mean()
        weight = self.hparams["lambda"] if self.has_started(self.starts[0]) else 0.0
        loss = nll + weight * penalty
        self.step(loss)
        return {"loss": loss.item(), "nll": nll.item(), "penalty": penalty.item()}

    def _average(self, variances: torch.Tensor) -> torch.Tensor:
        """Move the averages (domains, weights), which keep the gradient of the newest part."""
        ema = self.hparams["ema"]
        moved = ema * self.moving_variances + (1 - ema) * variances
        self.moving_variances.copy_(moved.detach())
        return moved / (1 - ema)


def sample_gradients(classifier: nn.Module, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradient of each sample's cross-entropy by all weights, shape (batch, weights).

    z (batch, features) and y (batch,); can be differentiated by z and by the weights.
    """

    def risk(weights: dict[str, torch.Tensor], z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(classifier, weights, (z[None],)), y[None])

    gradients = vmap(grad(risk), in_dims=(None, 0, 0))(dict(classifier.named_parameters()), z, y)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
