"""Additive disentanglement of domain features, remixed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from domainbed import networks
from domainbed.algorithms.base import Algorithm, Minibatch
from domainbed.algorithms.dann import domain_labels


class ADRMX(Algorithm):
    """Subtract a domain feature from the label feature; add another sample's and classify.

    Demirel et al. 2023, arXiv 2308.06624. The paper's weight of 1/2 between contrasts within and
    across domains cancels, which leaves the supervised contrastive loss. As in DomainBed, the pair
    remixed for a class with n samples is drawn from the first n of the batch, whatever their class,
    where the paper takes two of the class from different domains.
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
        self.num_classes = num_classes
        self.featurizer_label = networks.Featurizer(input_shape, hparams)
        self.featurizer_domain = networks.Featurizer(input_shape, hparams)
        n_features = self.featurizer_label.n_outputs
        self.discriminator = networks.MLP(n_features, num_domains, hparams)
        self.classifier_label_1 = networks.Classifier(n_features, num_classes, is_nonlinear=True)
        self.classifier_label_2 = networks.Classifier(n_features, num_classes, is_nonlinear=True)
        self.classifier_domain = networks.Classifier(n_features, num_domains, is_nonlinear=True)
        betas = (hparams["beta1"], 0.9)
        self.disc_opt = torch.optim.Adam(
            self.discriminator.parameters(), lr=hparams["lr"], betas=betas
        )
        learnt = [
            *self.featurizer_label.parameters(),
            *self.featurizer_domain.parameters(),
            *self.classifier_label_1.parameters(),
            *self.classifier_label_2.parameters(),
            *self.classifier_domain.parameters(),
        ]
        self.opt = torch.optim.Adam(learnt, lr=hparams["lr"], betas=betas)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One step of whose turn it is: the discriminator's, or that of all the rest."""
        self.update_count += 1
        x = torch.cat([x for x, _ in minibatches])
        y = torch.cat([y for _, y in minibatches])
        d = domain_labels(minibatches)
        d_steps = self.hparams["d_steps_per_g_step"]
        is_d_turn = self.update_count.item() % (1 + d_steps) < d_steps
        with torch.set_grad_enabled(not is_d_turn):
            label, domain = self.featurizer_label(x), self.featurizer_domain(x)
        if is_d_turn:
            loss = F.cross_entropy(self.discriminator(label - domain), d)
            self.disc_opt.zero_grad()
            loss.backward()
            self.disc_opt.step()
            return {"loss_disc": loss.item()}
        losses = self._losses(label, domain, y, d)
        self.opt.zero_grad()
        losses["loss_total"].backward()
        self.opt.step()
        return {name: loss.item() for name, loss in losses.items()}

    def _losses(
        self, label: torch.Tensor, domain: torch.Tensor, y: torch.Tensor, d: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        h, invariant = self.hparams, label - domain
        losses = {
            "loss_cnt_int": supervised_contrastive(label, y),
            "loss_cnt_final": supervised_contrastive(invariant, y),
            "loss_clf_int": F.cross_entropy(self.classifier_label_1(label), y),
            "loss_clf_fin": F.cross_entropy(self.classifier_label_2(invariant), y),
            "loss_dmn": F.cross_entropy(self.classifier_domain(domain), d),
            "loss_disc": F.cross_entropy(self.discriminator(invariant), d),
            "loss_remixed": self._remixed(invariant, domain, y),
        }
        total = (
            losses["loss_clf_int"]
            + losses["loss_clf_fin"]
            + h["dclf_lambda"] * losses["loss_dmn"]
            + h["rmxd_lambda"] * losses["loss_remixed"]
            + h["cnt_lambda"] * (losses["loss_cnt_int"] + losses["loss_cnt_final"])
            - h["disc_lambda"] * losses["loss_disc"]
        )
        return {"loss_total": total, **losses}

    def _remixed(
        self, invariant: torch.Tensor, domain: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """Risk of one sample of each class that has two, with the other one's domain feature."""
        counts = y.bincount(minlength=self.num_classes).tolist()
        pairs = [torch.randperm(n)[:2] for n in counts if n >= 2]
        if not pairs:
            return y.new_zeros((), dtype=domain.dtype)
        one, two = torch.stack(pairs, 1).to(y.device)
        logits = self.classifier_label_1(invariant[one] + domain[two])
        return F.cross_entropy(logits, y[one], reduction="sum") / self.num_classes

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.classifier_label_1(self.featurizer_label(x))


def supervised_contrastive(
    z: torch.Tensor,
    y: torch.Tensor,
    temperature: float = 0.07,
    weights: torch.Tensor | float = 1.0,
) -> torch.Tensor:
    """Supervised contrastive loss of features z (batch, features) with labels y (batch,).

    Khosla et al. 2020, arXiv 2004.11362, eq. 2, over the samples that have a positive. `weights`
    (batch, batch) says how much each sample, by column, counts for each other one.
    """
    z = F.normalize(z)
    is_self = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (y == y[:, None]) & ~is_self
    scores = z @ z.T / temperature + torch.as_tensor(weights).log()
    probability = scores.masked_fill(is_self, -torch.inf).softmax(1)
    n_positive = positive.sum(1)
    sums = ((probability + 1e-5).log() * positive).sum(1)
    return -(sums / n_positive.clamp(min=1)).sum() / ((n_positive > 0).sum() + 1)
