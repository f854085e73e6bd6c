"""Spectral decoupling."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class SD(ERM):
    """Penalise the squared logits, so that one easy feature does not starve the others.

    Pezeshki et al. 2020, arXiv 2011.09468. As in DomainBed, squares are averaged over
    classes too and sd_reg is the whole weight, without the paper's factor 1/2.
    """

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on cross-entropy and penalty; the loss returned is without the penalty."""
        logits = self.predict(torch.cat([x for x, _ in minibatches]))
        loss = F.cross_entropy(logits, torch.cat([y for _, y in minibatches]))
        penalty = logits.square().mean()
        self.optimizer.zero_grad()
        (loss + self.hparams["sd_reg"] * penalty).backward()
        self.optimizer.step()
        return {"loss": loss.item(), "penalty": penalty.item()}
