"""Risk distribution matching."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed.algorithms import penalties
from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM

GAMMAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


class RDM(ERM):
    """Match the risks of the worst domain's samples with those of all samples.

    Nguyen et al. 2023, arXiv 2310.18598. As in DomainBed, the distance is the squared maximum mean
    discrepancy with a sum of Gaussian kernels, the variances of both samples of risks may be
    penalised, and Adam starts anew with rdm_lr when the penalties set in.
    """

    update_count: torch.Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer("update_count", torch.tensor([0]))

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the mean risk and, in time, the penalties."""
        n_done, start = self.update_count.item(), self.hparams["rdm_penalty_anneal_iters"]
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])
        risks = F.cross_entropy(self.predict(x), y, reduction="none")
        by_domain = risks.split([len(y) for _, y in minibatches])
        means = torch.stack([domain.mean() for domain in by_domain])
        worst = by_domain[means.argmax()]
        penalties.require_two(worst)
        erm_loss = means.mean()
        matching, variance = mmd(worst, risks), risks.var() + worst.var()
        loss = erm_loss
        if n_done >= start:
            loss = (
                erm_loss
                + self.hparams["rdm_lambda"] * matching
                + self.hparams["variance_weight"] * variance
            )
        if n_done == start:
            self.optimizer = torch.optim.Adam(
                self.network.parameters(),
                lr=self.hparams["rdm_lr"],
                weight_decay=self.hparams["weight_decay"],
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.update_count += 1
        return {
            "update_count": float(n_done + 1),
            "total_loss": loss.item(),
            "erm_loss": erm_loss.item(),
            "matching_penalty": matching.item(),
            "variance_penalty": variance.item(),
            "rdm_lambda": float(self.hparams["rdm_lambda"]),
        }


def mmd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of two samples of numbers, summed over Gaussian kernels."""

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distances = (a[:, None] - b).square()
        return penalties.total((-gamma * distances).exp().mean() for gamma in GAMMAS)

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
