"""Empirical quantile risk minimisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.distributions import Normal

from domainbed.algorithms.annealed import Annealed
from domainbed.algorithms.base import Minibatch

N_BISECTIONS = 30


class EQRM(Annealed):
    """Minimise a quantile of the risks of domains, as estimated by their kernel density.

    Eastwood et al. 2022, arXiv 2207.09944, algorithm 1. As in DomainBed, kernels are Gaussian with
    the bandwidth of the Gaussian rule, and the mean risk is minimised until eqrm_burnin_iters
    updates are done, when Adam starts anew with eqrm_lr.
    """

    starts = ("eqrm_burnin_iters",)
    restart_lr = "eqrm_lr"

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the mean or, in time, the quantile of the domains' risks."""
        risks = torch.stack([F.cross_entropy(self.predict(x), y) for x, y in minibatches])
        if self.has_started("eqrm_burnin_iters"):
            loss = density_quantile(risks, self.hparams["eqrm_quantile"])
        else:
            loss = risks.mean()
        self.step(loss)
        return {"loss": loss.item()}


def density_quantile(values: torch.Tensor, q: float) -> torch.Tensor:
    """Quantile q in (0, 1) of the Gaussian kernel density of values (n,).

    The bandwidth is 1.06 std n^(-1/5). The quantile lies between the smallest and the largest of
    the kernels' own quantiles; where between them is found by bisection, and counts as constant in
    the gradient. Values that are all alike, or one alone, have themselves as quantile.
    """
    n = len(values)
    if bool((values == values[0]).all()):
        return values.mean()
    bandwidth = 1.06 * values.std() * n**-0.2
    kernels = Normal(values, bandwidth, validate_args=False)  # NaN passes through
    quantiles = kernels.icdf(torch.full_like(values, q))
    low, high = quantiles.amin(), quantiles.amax()  # not every torch differentiates aminmax
    with torch.no_grad():
        start, end = torch.zeros_like(low), torch.ones_like(low)
        for _ in range(N_BISECTIONS):
            place = (start + end) / 2
            is_low = kernels.cdf(low.lerp(high, place)).mean() < q
            start, end = torch.where(is_low, place, start), torch.where(is_low, end, place)
    return low.lerp(high, place)
