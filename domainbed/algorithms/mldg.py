"""Meta-learning of a step that also helps on other domains."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import functional_call

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM
from domainbed.registry import InputError


class MLDG(ERM):
    """Learn so that a step on some domains lowers the risk on others.

    Li et al. 2017, arXiv 1710.03463, algorithm 1. As in DomainBed, the gradient of the meta-test
    risk is taken at the inner weights (first order), the inner step is one of a fresh Adam, each
    meta-train domain has a step of its own and one meta-test domain, and sums are divided by the
    number of domains. Moving statistics of batch norms follow all inner batches.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        if num_domains < 2:
            raise InputError(
                f"MLDG was given {num_domains} training domain; expected at least 2, "
                "to hold one out: train on more domains or choose another algorithm"
            )

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One Adam step on the sum of meta-train and meta-test gradients."""
        beta, n_domains = self.hparams["mldg_beta"], len(minibatches)
        weights = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        for p in weights.values():
            p.grad = torch.zeros_like(p)
        objective = 0.0
        for train, test in split_pairs(minibatches, self.hparams["n_meta_test"]):
            inner = {n: p.detach().clone().requires_grad_() for n, p in weights.items()}
            optimizer = torch.optim.Adam(
                inner.values(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"]
            )
            train_loss = self._risk(inner, train)
            train_loss.backward()
            optimizer.step()
            test_loss = self._risk(inner, test)
            test_grads = torch.autograd.grad(test_loss, list(inner.values()))
            for p, copy, grad in zip(weights.values(), inner.values(), test_grads):
                assert p.grad is not None and copy.grad is not None, "both were computed"
                p.grad += copy.grad / n_domains
                p.grad += beta * grad / n_domains
            objective += (train_loss.item() + beta * test_loss.item()) / n_domains
        self.optimizer.step()
        return {"loss": objective}

    def _risk(self, weights: dict[str, torch.Tensor], minibatch: Minibatch) -> torch.Tensor:
        x, y = minibatch
        return F.cross_entropy(functional_call(self.network, weights, x), y)


def split_pairs(
    minibatches: list[Minibatch], n_meta_test: int
) -> list[tuple[Minibatch, Minibatch]]:
    """Split domains at random; pair each for meta-train with one for meta-test, used in turn.

    At least one domain is left for meta-train, so n_meta_test counts at most all but one.
    """
    order = torch.randperm(len(minibatches)).tolist()
    n_train = max(len(order) - n_meta_test, 1)
    test = cycle(order[n_train:])
    return [(minibatches[i], minibatches[next(test)]) for i in order[:n_train]]
