"""Transferability against an adversarial classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed import networks
from domainbed.algorithms.base import Algorithm, Minibatch


class Transfer(Algorithm):
    """Learn features on which classifiers near the learnt one do alike in all domains.

    Zhang et al. 2021, arXiv 2106.03632, algorithm 1. With `gda` the outer steps are plain gradient
    descent, else Adam's. As in DomainBed, beta1 and weight_decay_d are not used.
    """

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
        self.adv_classifier = networks.Classifier(
            self.featurizer.n_outputs, num_classes, hparams["nonlinear_classifier"]
        )
        self.adv_classifier.load_state_dict(self.classifier.state_dict())
        learnt = [*self.featurizer.parameters(), *self.classifier.parameters()]
        self.optimizer: torch.optim.Optimizer
        if hparams["gda"]:
            self.optimizer = torch.optim.SGD(learnt, lr=hparams["lr"])
        else:
            self.optimizer = torch.optim.Adam(
                learnt, lr=hparams["lr"], weight_decay=hparams["weight_decay"]
            )
        self.adv_opt = torch.optim.SGD(self.adv_classifier.parameters(), lr=hparams["lr_d"])

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """A step on the risk, one on the gap, then the adversary's steps to widen the gap."""
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])
        loss = F.cross_entropy(self.predict(x), y)
        self._step(self.optimizer, loss)
        weight = self.hparams["t_lambda"]
        gap = weight * self._gap([(self.featurizer(x), y) for x, y in minibatches])
        self._step(self.optimizer, gap)
        with torch.no_grad():
            features = [(self.featurizer(x), y) for x, y in minibatches]
        self.adv_classifier.load_state_dict(self.classifier.state_dict())
        for _ in range(self.hparams["d_steps_per_g"]):
            gap = weight * self._gap(features)
            self._step(self.adv_opt, -gap)
            project(self.adv_classifier, self.classifier, self.hparams["delta"])
        return {"loss": loss.item(), "gap": gap.item()}

    def _gap(self, features: list[Minibatch]) -> torch.Tensor:
        """The adversary's largest risk over domains less its smallest."""
        risks = torch.stack([F.cross_entropy(self.adv_classifier(z), y) for z, y in features])
        return risks.max() - risks.min()

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.classifier(self.featurizer(x))


@torch.no_grad()
def project(module: torch.nn.Module, centre: torch.nn.Module, radius: float) -> None:
    """Move weights to the nearest point of the Euclidean ball around those of `centre`."""
    weights, centres = list(module.parameters()), list(centre.parameters())
    distance = torch.cat([(w - c).flatten() for w, c in zip(weights, centres)]).norm()
    scale = (radius / distance).clamp(max=1.0)
    for w, c in zip(weights, centres):
        w.copy_(c.lerp(w, scale))
