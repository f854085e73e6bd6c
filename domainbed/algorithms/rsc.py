"""Representation self-challenging."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM


class RSC(ERM):
    """Mute the features that the prediction rests on most, where it rests on them most.

    Huang et al. 2020, arXiv 2007.02454, algorithm 1. As in DomainBed, features are muted one by
    one, and only in the share rsc_b_drop_factor of samples whose probability of the true class
    falls most.
    """

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the cross-entropy of muted features."""
        y = torch.cat([y for _, y in minibatches])
        z = self.featurizer(torch.cat([x for x, _ in minibatches]))
        muted = z * self._mask(z.detach(), y)
        loss = F.cross_entropy(self.classifier(muted), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def _mask(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """False for the features of z (batch, features) to mute."""
        logits = self.classifier(z.requires_grad_())
        true_logits = logits.gather(1, y[:, None])
        gradients = torch.autograd.grad(true_logits.sum(), z)[0]
        share = 1 - self.hparams["rsc_f_drop_factor"]
        keep_features = gradients < gradients.quantile(share, dim=1, keepdim=True)
        with torch.no_grad():
            muted_logits = self.classifier(z * keep_features)
            falls = (logits.softmax(1) - muted_logits.softmax(1)).gather(1, y[:, None])
            keep_samples = falls < falls.quantile(1 - self.hparams["rsc_b_drop_factor"])
        return keep_features | keep_samples
