"""Transfer risk minimisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from domainbed import networks
from domainbed.algorithms import penalties
from domainbed.algorithms.base import Algorithm, Minibatch

N_HEAD_STEPS = 30
N_NEUMANN_TERMS = 10
LARGEST = 10.0


class TRM(Algorithm):
    """Learn features on which one domain's best classifier is good on the other domains.

    Xu and Jaakkola 2021, arXiv 2110.09940. As in DomainBed, the domains' linear classifiers move
    by 30 steps of gradient descent an update, the inverse Hessian is a Neumann series of ten terms
    that is cut where an entry passes 10, and the penalty sets in after `iters` updates of ERM.
    """

    update_count: torch.Tensor
    alpha: torch.Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("update_count", torch.tensor([0]))
        self.featurizer = networks.Featurizer(input_shape, hparams)
        n_features = self.featurizer.n_outputs
        self.classifier = nn.Linear(n_features, num_classes)
        self.optimizer = torch.optim.Adam(
            self.parameters(), lr=hparams["lr"], weight_decay=hparams["weight_decay"]
        )
        self.clist = nn.ModuleList(nn.Linear(n_features, num_classes) for _ in range(num_domains))
        self.head_optimizer = torch.optim.SGD(self.clist.parameters(), lr=0.1)
        self.register_buffer("alpha", 1 - torch.eye(num_domains))

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the mean risk and, in time, the transfer risk."""
        labels = [y for _, y in minibatches]
        z = self.featurizer(torch.cat([x for x, _ in minibatches]))
        loss = F.cross_entropy(self.classifier(z), torch.cat(labels))
        nll = loss.item()
        if self.update_count >= self.hparams["iters"]:
            features = z.split([len(y) for y in labels])
            self._fit_heads(features, labels)
            loss = loss + self._transfer_risk(features, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_count += 1
        return {"nll": nll, "trm_loss": loss.item() - nll}

    def _fit_heads(self, features: tuple[torch.Tensor, ...], labels: list[torch.Tensor]) -> None:
        """Move each domain's classifier towards the best one for its features."""
        if self.hparams["class_balanced"]:
            for head in self.clist:
                head.get_parameter("weight").data.copy_(self.classifier.weight)
        for _ in range(N_HEAD_STEPS):
            risks = [
                F.cross_entropy(head(z.detach()), y)
                for head, z, y in zip(self.clist, features, labels)
            ]
            self.head_optimizer.zero_grad()
            penalties.total(risks).backward()
            self.head_optimizer.step()

    def _transfer_risk(
        self, features: tuple[torch.Tensor, ...], labels: list[torch.Tensor]
    ) -> torch.Tensor:
        """Mean over domains of the others' risks and their gradients' alignment; moves `alpha`."""
        self.alpha /= self.alpha.sum(1, keepdim=True)
        parts = []
        for q, head in enumerate(self.clist):
            risks = torch.stack([F.cross_entropy(head(z), y) for z, y in zip(features, labels)])
            weighted = self.alpha[q].clone() * risks
            weight = head.get_parameter("weight")
            own = torch.autograd.grad(risks[q], weight, create_graph=True)[0]
            others = torch.autograd.grad(weighted.sum(), weight, retain_graph=True)[0]
            z = features[q].detach()
            step = inverse_hessian_product(others, z, head(z).detach().softmax(1))
            weighted = weighted.detach()
            self.alpha[q] *= (self.hparams["groupdro_eta"] * weighted).exp()
            moved = self.alpha[q].clone() * (risks - risks.detach())  # 0, with a gradient
            alignment = self.hparams["cos_lambda"] * (step * own).sum()
            parts.append((weighted + moved).sum() - alignment)
        return penalties.total(parts) / len(labels)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.classifier(self.featurizer(x))


def inverse_hessian_product(
    v: torch.Tensor, z: torch.Tensor, probabilities: torch.Tensor
) -> torch.Tensor:
    """Neumann series of H^-1 v, where H is the Hessian of a linear classifier's cross-entropy.

    v is shaped as the weight (classes, features); z (batch, features), probabilities (batch,
    classes). H v = mean over samples of (diag(p) - p p') v z z'. As in DomainBed, the series lacks
    its first term, v, and has the second one twice.
    """
    total = None
    for _ in range(N_NEUMANN_TERMS):
        change = probabilities * (z @ v.T)
        change = change - probabilities * change.sum(1, keepdim=True)
        v = v - change.T @ z / len(z)
        total = v + (v if total is None else total)
        if total.abs().max() > LARGEST:
            break
    assert total is not None, "there is a term"
    return total
