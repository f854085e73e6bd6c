"""Adaptive risk minimisation."""

from __future__ import annotations

from typing import Any

import torch

from domainbed import networks
from domainbed.algorithms.erm import ERM


class ARM(ERM):
    """Give the network the mean context of its batch as one more channel.

    Zhang et al. 2021, arXiv 2007.02931, the context form (ARM-CML). A batch that is a multiple of
    hparams["batch_size"] is taken as that many groups, each with its own context, any other batch
    as one. As in DomainBed, the context network keeps its initial weights: only those of `network`
    are trained. An input that is a vector gets a context of its own length.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        is_vector = len(input_shape) == 1
        n_context = input_shape[0] if is_vector else 1
        with_context = (input_shape[0] + n_context, *input_shape[1:])
        super().__init__(with_context, num_classes, num_domains, hparams)
        self.context_net = (
            networks.MLP(n_context, n_context, hparams)
            if is_vector
            else networks.ContextNet(input_shape)
        )
        self.support_size = hparams["batch_size"]

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes); they depend on the whole batch."""
        context = self.context_net(x)
        size = self.support_size if len(x) % self.support_size == 0 else len(x)
        groups = context.unflatten(0, (-1, size))
        context = groups.mean(1, keepdim=True).expand_as(groups).flatten(0, 1)
        return self.network(torch.cat([x, context], dim=1))
