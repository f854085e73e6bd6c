"""Variance risk extrapolation."""

from __future__ import annotations

import torch

from domainbed.algorithms import penalties
from domainbed.algorithms.annealed import Annealed
from domainbed.algorithms.base import Minibatch


class VREx(Annealed):
    """Penalise the variance of risks between domains.

    Krueger et al. 2020, arXiv 2003.00688, eq. 8, with the mean of the risks in place of their sum.
    As in DomainBed, the penalty weighs 1 until vrex_penalty_anneal_iters updates are done, Adam
    starts anew then, and the nll that is logged is the last domain's.
    """

    starts = ("vrex_penalty_anneal_iters",)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the mean and the variance of the domains' risks."""
        logits = self.predict(torch.cat([x for x, _ in minibatches]))
        risks = penalties.domain_risks(logits, minibatches)
        mean = risks.mean()
        penalty = (risks - mean).square().mean()
        weight = self.hparams["vrex_lambda"] if self.has_started(self.starts[0]) else 1.0
        loss = mean + weight * penalty
        self.step(loss)
        return {"loss": loss.item(), "nll": risks[-1].item(), "penalty": penalty.item()}
