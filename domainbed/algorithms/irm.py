"""Invariant risk minimisation."""

from __future__ import annotations

import torch

from domainbed.algorithms import penalties
from domainbed.algorithms.annealed import Annealed
from domainbed.algorithms.base import Minibatch


class IRM(Annealed):
    """Learn features for which one classifier is optimal in every domain.

    Arjovsky et al. 2019, arXiv 1907.02893, IRMv1. As in DomainBed, the penalty weighs 1
    until irm_penalty_anneal_iters updates are done, and Adam starts anew then.
    """

    starts = ("irm_penalty_anneal_iters",)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the mean over domains of risk and penalty."""
        logits = self.predict(torch.cat([x for x, _ in minibatches]))
        nll = penalties.domain_risks(logits, minibatches).mean()
        penalty = penalties.mean_irm(logits, minibatches)
        weight = self.hparams["irm_lambda"] if self.has_started(self.starts[0]) else 1.0
        loss = nll + weight * penalty
        self.step(loss)
        return {"loss": loss.item(), "nll": nll.item(), "penalty": penalty.item()}
