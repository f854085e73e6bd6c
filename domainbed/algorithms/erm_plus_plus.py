"""ERM++: careful empirical risk minimisation."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM

AVERAGE_FROM = 600
"""The update from which weights are averaged."""


class ERMPlusPlus(ERM):
    """Train the classifier first, then everything, and predict with averaged weights.

    Teterwak et al. 2023, arXiv 2304.01973. As in DomainBed, the average starts at update 600,
    until which it is the network itself; then its batch norms collect their own statistics.
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
        make = lars if hparams["lars"] else torch.optim.Adam
        decay = hparams["weight_decay"]
        self.optimizer = make(self.network.parameters(), lr=hparams["lr"], weight_decay=decay)
        self.linear_optimizer = make(
            self.classifier.parameters(), lr=hparams["linear_lr"], weight_decay=decay
        )
        self.network_sma = copy.deepcopy(self.network).requires_grad_(False)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One step of the classifier, or after linear_steps of all, on the cross-entropy."""
        is_linear = self.update_count.item() <= self.hparams["linear_steps"]
        optimizer = self.linear_optimizer if is_linear else self.optimizer
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])
        with torch.set_grad_enabled(not is_linear):
            z = self.featurizer(x)
        loss = F.cross_entropy(self.classifier(z), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.update_count += 1
        self._average(x)
        return {"loss": loss.item()}

    @torch.no_grad()
    def _average(self, x: torch.Tensor) -> None:
        """Take the weights into their mean, whose batch norms see x."""
        n_averaged = self.update_count.item() - AVERAGE_FROM + 1
        if n_averaged <= 0:
            self.network_sma.load_state_dict(self.network.state_dict())
            return
        for mean, p in zip(self.network_sma.parameters(), self.network.parameters()):
            mean.lerp_(p, 1 / (n_averaged + 1))
        norms = [m for m in self.network_sma.modules() if hasattr(m, "running_mean")]
        if norms and self.featurizer.training and not self.hparams["freeze_bn"]:
            self.network_sma.eval()
            for norm in norms:
                norm.train()
            self.network_sma(x)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes), by the average."""
        return self.network_sma.eval()(x)


def lars(params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Layer-wise adaptive rates (You et al. 2017, arXiv 1708.03888) with momentum 0.9, by timm.

    Vectors, such as biases, are neither decayed nor adapted.
    """
    try:
        from timm.optim import Lars
    except ImportError as error:
        raise ImportError('LARS needs timm: pip install "domainbed-ratatouille[timm]"') from error
    params = list(params)
    groups = [
        {"params": [p for p in params if p.ndim > 1], "always_adapt": True},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return Lars(groups, lr=lr, momentum=0.9, weight_decay=weight_decay)
