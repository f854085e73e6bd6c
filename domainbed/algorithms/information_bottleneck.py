"""Information bottlenecks: little variance of features."""

from __future__ import annotations

import torch

from domainbed.algorithms import penalties
from domainbed.algorithms.annealed import Annealed
from domainbed.algorithms.base import Minibatch


class IB_ERM(Annealed):
    """Penalise the variance of features within domains.

    Ahuja et al. 2021, arXiv 2106.06607, where entropy is bounded by variance. As in
    DomainBed, the penalty weighs 0 until ib_penalty_anneal_iters updates are done, Adam starts anew
    then, and the nll that is logged is the whole loss.
    """

    starts: tuple[str, ...] = ("ib_penalty_anneal_iters",)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the mean over domains of risk and penalties."""
        z = self.featurizer(torch.cat([x for x, _ in minibatches]))
        logits = self.classifier(z)
        loss = penalties.domain_risks(logits, minibatches).mean()
        logged = {}
        for name, value, weight in self._penalties(z, logits, minibatches):
            loss = loss + weight * value
            logged[name] = value.item()
        self.step(loss)
        return {"loss": loss.item(), "nll": loss.item(), **logged}

    def _penalties(
        self, z: torch.Tensor, logits: torch.Tensor, minibatches: list[Minibatch]
    ) -> list[tuple[str, torch.Tensor, float]]:
        """Penalties, each with its logged name and its weight."""
        has_started = self.has_started("ib_penalty_anneal_iters")
        parts = penalties.by_domain(z, minibatches)
        penalty = torch.stack([penalties.mean_variance(part) for part in parts]).mean()
        return [("IB_penalty", penalty, self.hparams["ib_lambda"] if has_started else 0.0)]


class IB_IRM(IB_ERM):
    """IB_ERM with the penalty of IRM.

    Ahuja et al. 2021, arXiv 2106.06607. As in DomainBed, IRM's penalty weighs 1 until
    irm_penalty_anneal_iters updates are done, and Adam starts anew when either penalty sets in.
    """

    starts = ("irm_penalty_anneal_iters", "ib_penalty_anneal_iters")

    def _penalties(
        self, z: torch.Tensor, logits: torch.Tensor, minibatches: list[Minibatch]
    ) -> list[tuple[str, torch.Tensor, float]]:
        has_started = self.has_started("irm_penalty_anneal_iters")
        penalty = penalties.mean_irm(logits, minibatches)
        weight = self.hparams["irm_lambda"] if has_started else 1.0
        return [("IRM_penalty", penalty, weight), *super()._penalties(z, logits, minibatches)]
