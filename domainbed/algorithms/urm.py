"""Uniformly distributed features by an adversary."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM
from domainbed.registry import InputError

OUTPUTS = {
    "tanh": (torch.tanh, -1.0),
    "relu": (torch.relu, 0.0),
    "sigmoid": (torch.sigmoid, 0.0),
}
"""Activation of the features by name, with the lower end of their uniform law; the upper is 1."""
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}
WIDTH = 100


class URM(ERM):
    """Learn features that a discriminator cannot tell from uniform noise.

    Krishnamachari et al. 2024, TMLR, https://openreview.net/forum?id=PgLbS5yp8n. As in DomainBed,
    urm_adv_lambda weighs the features' part of the discriminator's loss too.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__(input_shape, num_classes, num_domains, hparams)
        for name, known in (
            ("urm", ["adversarial"]),
            ("urm_generator_output", OUTPUTS),
            ("urm_discriminator_optimizer", OPTIMIZERS),
        ):
            if hparams[name] not in known:
                raise InputError(f"{name} was {hparams[name]!r}; give one of {', '.join(known)}")
        self.activation, self.low = OUTPUTS[hparams["urm_generator_output"]]
        self.discriminator = Discriminator(
            self.featurizer.n_outputs, hparams["urm_discriminator_hidden_layers"]
        )
        self.discriminator_opt = OPTIMIZERS[hparams["urm_discriminator_optimizer"]](
            self.discriminator.parameters(),
            lr=hparams["urm_discriminator_lr"],
            weight_decay=hparams["weight_decay"],
        )

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """A step of the network, then one of the discriminator."""
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])
        weight = self.hparams["urm_adv_lambda"]
        z = self.activation(self.featurizer(x))
        fooled = adversarial_loss(self.discriminator(z), 1.0)
        loss = F.cross_entropy(self.classifier(z), y) + weight * fooled
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        noise = torch.empty_like(z).uniform_(self.low, 1.0)
        smoothing = self.hparams["urm_discriminator_label_smoothing"]
        disc_loss = adversarial_loss(self.discriminator(noise), 1.0, smoothing)
        feats_loss = adversarial_loss(self.discriminator(z.detach()), 0.0, smoothing)
        disc_loss = disc_loss + weight * feats_loss
        self.discriminator_opt.zero_grad()
        disc_loss.backward()
        self.discriminator_opt.step()
        return {"loss": loss.item()}

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.classifier(self.activation(self.featurizer(x)))


class Discriminator(nn.Module):
    """Leaky ReLU layers of 100: (batch, n_inputs) to logits (batch, 1) of being noise."""

    def __init__(self, n_inputs: int, n_hidden_layers: int) -> None:
        super().__init__()
        self.dense1 = nn.Linear(n_inputs, WIDTH)
        for layer in range(2, n_hidden_layers + 2):
            self.add_module(f"dense{layer}", nn.Linear(WIDTH, WIDTH))
        self.output = nn.Linear(WIDTH, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 1)."""
        *hidden, output = self.children()
        for layer in hidden:
            z = F.leaky_relu(layer(z))
        return output(z)


def adversarial_loss(logits: torch.Tensor, label: float, smoothing: float = 0.0) -> torch.Tensor:
    """Binary cross-entropy of logits that all have one label, 0 or 1.

    With smoothing each label is drawn from the part of [0, 1] of that length at its end.
    """
    labels = torch.full_like(logits, label)
    if smoothing:
        labels = label * (1 - smoothing) + smoothing * torch.rand_like(logits)
    return F.binary_cross_entropy_with_logits(logits, labels)
