"""Pure functions of several domains' samples that methods penalise or build upon."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from domainbed.algorithms.base import Minibatch
from domainbed.registry import InputError

GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)


def by_domain(values: torch.Tensor, minibatches: list[Minibatch]) -> tuple[torch.Tensor, ...]:
    """Split what was computed for all samples at once, as they are in the minibatches."""
    return values.split([len(y) for _, y in minibatches])


def domain_risks(logits: torch.Tensor, minibatches: list[Minibatch]) -> torch.Tensor:
    """Cross-entropy of each domain, shape (domains,), of logits of all samples."""
    parts = by_domain(logits, minibatches)
    return torch.stack([F.cross_entropy(z, y) for z, (_, y) in zip(parts, minibatches)])


def domain_gradients(
    risks: Iterable[torch.Tensor], parameters: Iterable[torch.Tensor], create_graph: bool = False
) -> list[torch.Tensor]:
    """Gradients of the domains' risks, for each parameter of shape (domains, *shape).

    Risks whose graphs are apart are best given apart: a backward pass through a stacked tensor is
    one through all of them.
    """
    parameters = list(parameters)
    rows = [
        torch.autograd.grad(
            risk, parameters, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
        for risk in risks
    ]
    return [torch.stack(gradients) for gradients in zip(*rows)]


def irm(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Unbiased estimate of the squared gradient of the risk by a scale of the logits, at scale 1.

    logits (batch, classes), y (batch,); the product of the gradients of even and of odd rows, so
    it may be negative. Arjovsky et al. 2019, arXiv 1907.02893, appendix D. Raises
    `InputError` for fewer than two samples.
    """
    require_two(logits)
    scale = torch.ones((), device=logits.device, requires_grad=True)
    one, two = (
        torch.autograd.grad(F.cross_entropy(z * scale, t), scale, create_graph=True)[0]
        for z, t in ((logits[::2], y[::2]), (logits[1::2], y[1::2]))
    )
    return one * two


def mean_irm(logits: torch.Tensor, minibatches: list[Minibatch]) -> torch.Tensor:
    """Mean over domains of `irm`, of logits of all samples."""
    parts = by_domain(logits, minibatches)
    return torch.stack([irm(z, y) for z, (_, y) in zip(parts, minibatches)]).mean()


def mean_variance(z: torch.Tensor) -> torch.Tensor:
    """Mean over features of their unbiased variance over samples; z is (batch, features)."""
    require_two(z)
    return z.var(0).mean()


def total(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of tensors, first to last; there must be one."""
    return functools.reduce(torch.add, parts)


def mmd(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of samples (n, features) and (m, features).

    Biased, that is >= 0, with the sum of Gaussian kernels exp(-gamma d^2) over `GAMMAS`. Gretton et
    al. 2012, https://jmlr.org/papers/v13/gretton12a.html, eq. 5.
    """

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distances = squared_distances(a, b)
        return total((-gamma * distances).exp().mean() for gamma in GAMMAS)

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances (n, m) of rows of a (n, features) to rows of b (m, features)."""
    a_norms, b_norms = a.square().sum(1, keepdim=True), b.square().sum(1, keepdim=True)
    return (torch.addmm(b_norms.T, a, b.T, alpha=-2) + a_norms).clamp(min=1e-30)


def coral(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the means, plus that of the covariances, of two samples.

    a (n, features), b (m, features); covariances are unbiased. After Sun and Saenko 2016, arXiv
    1607.01719, eq. 1. Raises `InputError` for fewer than two samples.
    """
    require_two(a)
    require_two(b)
    means = (a.mean(0) - b.mean(0)).square().mean()
    return means + (covariance(a) - covariance(b)).square().mean()


def covariance(z: torch.Tensor) -> torch.Tensor:
    """Unbiased covariance (features, features) of z (batch, features)."""
    centred = z - z.mean(0)
    return centred.T @ centred / (len(z) - 1)


def require_two(z: torch.Tensor) -> None:
    """Raise `InputError` unless there are at least two samples z (batch, ...)."""
    if len(z) < 2:
        raise InputError(
            f"A domain's minibatch has {len(z)} sample; expected at least 2, since its spread is "
            "penalised: raise batch_size"
        )
