"""Style-agnostic networks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed import networks
from domainbed.algorithms.base import Algorithm, Minibatch


class SagNet(Algorithm):
    """Learn features that tell the class by content, and whose style tells nothing.

    Nam et al. 2019, arXiv 1910.11645, algorithm 1. As in DomainBed, styles are swapped in the
    featurizer's output where the paper does it after an inner block, and the style of a flat
    feature is the mean and variance over its entries.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.network_f = networks.Featurizer(input_shape, hparams)
        n_features, nonlinear = self.network_f.n_outputs, hparams["nonlinear_classifier"]
        self.network_c = networks.Classifier(n_features, num_classes, nonlinear)
        self.network_s = networks.Classifier(n_features, num_classes, nonlinear)
        self.optimizer_f = self._adam(self.network_f)
        self.optimizer_c = self._adam(self.network_c)
        self.optimizer_s = self._adam(self.network_s)

    def _adam(self, network: torch.nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"]
        )

    @property
    def featurizer(self) -> torch.nn.Module:
        """The featurizer, which DomainBed names network_f."""
        return self.network_f

    @property
    def classifier(self) -> torch.nn.Module:
        """The classifier, which DomainBed names network_c."""
        return self.network_c

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """A step of content and features, one of style, one of features against style."""
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])

        loss_c = F.cross_entropy(self.network_c(randomise(self.network_f(x), "style")), y)
        self.optimizer_f.zero_grad()
        self.optimizer_c.zero_grad()
        loss_c.backward()
        self.optimizer_f.step()
        self.optimizer_c.step()

        with torch.no_grad():
            z = self.network_f(x)
        loss_s = F.cross_entropy(self.network_s(randomise(z, "content")), y)
        self.optimizer_s.zero_grad()
        loss_s.backward()
        self.optimizer_s.step()

        scores = self.network_s(randomise(self.network_f(x), "content")).log_softmax(1)
        loss_adv = -self.hparams["sag_w_adv"] * scores.mean()
        self.optimizer_f.zero_grad()
        loss_adv.backward()
        self.optimizer_f.step()
        return {"loss_c": loss_c.item(), "loss_s": loss_s.item(), "loss_adv": loss_adv.item()}

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.network_c(self.network_f(x))


def randomise(z: torch.Tensor, what: str) -> torch.Tensor:
    """Features (batch, ...) with the "style" or "content" of others in the batch.

    Style is the mean and variance over places (of maps) or entries (of flat features); it is
    replaced by a random mixture of a sample's own and another's, content by another's, as a
    constant.
    """
    alpha = torch.rand(len(z), 1, device=z.device)
    flat = z.flatten(2) if z.dim() > 2 else z
    alpha = alpha[..., None] if z.dim() > 2 else alpha
    mean, var = flat.mean(-1, keepdim=True), flat.var(-1, keepdim=True)
    content = (flat - mean) / (var + 1e-5).sqrt()
    other = torch.randperm(len(z), device=z.device)
    if what == "style":
        mean = alpha * mean + (1 - alpha) * mean[other]
        var = alpha * var + (1 - alpha) * var[other]
    else:
        content = content[other].detach()
    return (content * (var + 1e-5).sqrt() + mean).view_as(z)
