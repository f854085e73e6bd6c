"""Adversaries that tell domains apart."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed import networks
from domainbed.algorithms.base import Algorithm, Minibatch


def domain_labels(minibatches: list[Minibatch]) -> torch.Tensor:
    """The index of each sample's domain, int64, in the order of the concatenated minibatches."""
    return torch.cat([torch.full_like(y, d) for d, (_, y) in enumerate(minibatches)])


class DANN(Algorithm):
    """Learn features from which a discriminator cannot tell the domain.

    Ganin et al. 2016, arXiv 1505.07818. As in DomainBed, two Adam optimisers take turns
    (d_steps_per_g_step of the discriminator, then one of featurizer and classifier) where the paper
    reverses a gradient, and the squared gradient of the discriminator's loss may be penalised.
    """

    is_conditional = False

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
        self.featurizer = networks.Featurizer(input_shape, hparams)
        self.classifier = networks.Classifier(
            self.featurizer.n_outputs, num_classes, hparams["nonlinear_classifier"]
        )
        self.discriminator = networks.MLP(self.featurizer.n_outputs, num_domains, hparams)
        self.class_embeddings = torch.nn.Embedding(num_classes, self.featurizer.n_outputs)
        betas = (hparams["beta1"], 0.9)
        self.disc_opt = torch.optim.Adam(
            [*self.discriminator.parameters(), *self.class_embeddings.parameters()],
            lr=hparams["lr_d"],
            weight_decay=hparams["weight_decay_d"],
            betas=betas,
        )
        self.gen_opt = torch.optim.Adam(
            [*self.featurizer.parameters(), *self.classifier.parameters()],
            lr=hparams["lr_g"],
            weight_decay=hparams["weight_decay_g"],
            betas=betas,
        )

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One step of whose turn it is; only that player's loss is returned."""
        self.update_count += 1
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])
        d = domain_labels(minibatches)
        d_steps = self.hparams["d_steps_per_g_step"]
        is_d_turn = self.update_count.item() % (1 + d_steps) < d_steps
        with torch.set_grad_enabled(not is_d_turn):
            z = self.featurizer(x)
        disc_loss = self._disc_loss(z, y, d)
        if is_d_turn:
            self.disc_opt.zero_grad()
            disc_loss.backward()
            self.disc_opt.step()
            return {"disc_loss": disc_loss.item()}
        loss = F.cross_entropy(self.classifier(z), y) - self.hparams["lambda"] * disc_loss
        self.gen_opt.zero_grad()
        loss.backward()
        self.gen_opt.step()
        return {"gen_loss": loss.item()}

    def _disc_loss(self, z: torch.Tensor, y: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        z = z + self.class_embeddings(y) if self.is_conditional else z.requires_grad_()
        losses = F.cross_entropy(self.discriminator(z), d, reduction="none")
        if self.is_conditional:
            counts = y.bincount()
            weights = 1 / (counts[y] * len(counts))
            loss = (losses * weights.float()).sum()  # in float32 always, as in DomainBed
        else:
            loss = losses.mean()
        if self.hparams["grad_penalty"]:
            grads = torch.autograd.grad(losses.sum(), z, create_graph=True)[0]
            loss = loss + self.hparams["grad_penalty"] * grads.square().sum(1).mean()
        return loss

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.classifier(self.featurizer(x))


class CDANN(DANN):
    """DANN whose discriminator knows the class, with all classes weighing the same.

    Li et al. 2018, "Deep Domain Generalization via Conditional Invariant Adversarial Networks",
    ECCV. As in DomainBed, one discriminator sees the feature plus a learnt embedding of its class,
    where the paper has one discriminator for each class beside a common one.
    """

    is_conditional = True
