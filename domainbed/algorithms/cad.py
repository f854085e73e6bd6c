"""Contrastive adversarial domain bottlenecks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from domainbed import networks
from domainbed.algorithms.base import Algorithm, Minibatch
from domainbed.algorithms.dann import domain_labels

BASE_TEMPERATURE = 0.07


class CAD(Algorithm):
    """Learn features in which a sample's neighbours come from other domains.

    Ruan et al. 2022, arXiv 2201.00057. With is_flipped, DomainBed's default, the probability of
    other domains is maximised, where the paper minimises that of the own domain; the optima are
    the same.
    """

    is_conditional = False

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
            self.featurizer.n_outputs, num_classes, hparams["nonlinear_classifier"]
        )
        learnt = [*self.featurizer.parameters(), *self.classifier.parameters()]
        if hparams["is_project"]:
            n_features = self.featurizer.n_outputs
            self.project = nn.Sequential(
                nn.Linear(n_features, n_features), nn.ReLU(), nn.Linear(n_features, 128)
            )
            learnt += self.project.parameters()
        self.optimizer = torch.optim.Adam(
            learnt, lr=hparams["lr"], weight_decay=hparams["weight_decay"]
        )

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on cross-entropy and the bottleneck."""
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])
        z = self.featurizer(x)
        bn_loss = self._bottleneck(z, y, domain_labels(minibatches))
        clf_loss = F.cross_entropy(self.classifier(z), y)
        loss = clf_loss + self.hparams["lmbda"] * bn_loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {
            "clf_loss": clf_loss.item(),
            "bn_loss": bn_loss.item(),
            "total_loss": loss.item(),
        }

    def _bottleneck(self, z: torch.Tensor, y: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        h = self.hparams
        if h["is_project"]:
            z = self.project(z)
        if h["is_normalized"]:
            z = F.normalize(z)
        other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        same_class, same_domain = (y == y[:, None]) & other, d == d[:, None]
        wanted = ~same_domain if h["is_flipped"] else same_domain
        scores = z @ z.T / h["temperature"] * other
        if self.is_conditional:
            shares = log_shares(scores, same_class & wanted, same_class)
        else:
            shares = log_shares(scores, other & wanted, other, same_class.any(1))
        sign = -1 if h["is_flipped"] else 1
        return mean_or_zero(sign * (h["temperature"] / BASE_TEMPERATURE) * shares)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.classifier(self.featurizer(x))


class CondCAD(CAD):
    """CAD among the samples of one class. Ruan et al. 2022, arXiv 2201.00057."""

    is_conditional = True


def log_shares(
    scores: torch.Tensor,
    part: torch.Tensor,
    whole: torch.Tensor,
    rows: torch.Tensor | bool = True,
) -> torch.Tensor:
    """For each row, log(sum of exp(scores) in `part` / the same in `whole`), shape (n_rows,).

    scores (n, n); part and whole are masks (n, n), part within whole; rows is a mask (n,). Rows
    whose part is empty are left out.
    """
    rows = part.any(1) & rows
    scores, part, whole = scores[rows], part[rows], whole[rows]
    if len(scores):  # so that the last digits are DomainBed's
        scores = scores - scores.max(1, keepdim=True)[0].detach()
    scores = scores - scores.masked_fill(~whole, -torch.inf).logsumexp(1, keepdim=True)
    return scores.masked_fill(~part, -torch.inf).logsumexp(1)


def mean_or_zero(values: torch.Tensor) -> torch.Tensor:
    """The mean of values (n,), and 0 when there are none."""
    return values.sum() / max(len(values), 1)
