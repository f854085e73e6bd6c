"""What is trained: fine-tunings that start where averaging works."""

from __future__ import annotations

import logging
from typing import Any

import torch

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM
from domainbed.engine.initial_weights import InitialWeights, needed_weights
from domainbed.networks import foundations
from domainbed.registry import InputError
from domainbed.runs import BEST, LAST

logger = logging.getLogger(__name__)


class FineTuning(ERM):
    """Fine-tune a foundation under a head that was linear-probed first (Kumar et al. 2022,
    arXiv 2202.10054), with mild hyper-parameters: a member of DiWA (Rame et al. 2022, arXiv
    2205.09739).

    All runs of a (dataset, test envs) share foundation and head, or they could not be averaged; a
    small network that has no pretrained weights takes a foundation that is the same for all runs.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        shared = foundations.default_shared(input_shape, hparams)
        if shared is not None:
            hparams = {"foundation": shared, **hparams}
        super().__init__(input_shape, num_classes, num_domains, hparams)

    def start(self, initial: InitialWeights) -> None:
        """Take the probe's weights: the foundation under the probed head."""
        for folder in initial.run.needs.get("probe", []):
            initial.load_all(needed_weights(folder, BEST), "probe")


class InterTraining(FineTuning):
    """Fine-tune from weights that were first fine-tuned on an auxiliary dataset (Rame et al. 2023,
    arXiv 2212.10445; inter-training: Phang et al. 2018, arXiv 1811.01088).

    When they are not the foundation itself, the first `lp_steps` updates train only the head.
    """

    n_updates = 0
    n_head_updates = 0

    def start(self, initial: InitialWeights) -> None:
        """Take the probe's weights, then the featurizer of the auxiliary run.

        Raises `InputError` when that run has seen the target dataset or descends from another
        foundation than the probe, as its own records say.
        """
        super().start(initial)
        target, foundation = initial.run.options.dataset, initial.provenance["foundation"]
        initial.provenance["datasets_seen"] = []  # the probe left the featurizer as it was
        for folder in initial.run.needs.get("auxiliary", []):
            path = needed_weights(folder, LAST)
            theirs = initial.load_featurizer(path, "auxiliary")
            if target in theirs.get("datasets_seen", [target]):
                raise InputError(
                    f"{path} has seen {theirs.get('datasets_seen', 'unknown datasets')}, among "
                    f"them the target {target}; expected weights that never saw it"
                )
            if theirs["foundation"]["sha256"] != foundation["sha256"]:
                raise InputError(
                    f"{path} descends from foundation {theirs['foundation']}, the probe from "
                    f"{foundation}; weights can be recycled from the same foundation only"
                )
            self.n_head_updates = self.hparams["lp_steps"]
            if initial.run.n_steps <= self.n_head_updates:
                logger.warning(
                    "all %d steps train only the head, since lp_steps is %d; give more --steps or "
                    "a smaller hparam lp_steps",
                    initial.run.n_steps,
                    self.n_head_updates,
                )

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One step of ERM, of the head alone during the warm-up."""
        if self.n_head_updates:
            self.featurizer.requires_grad_(self.n_updates >= self.n_head_updates)
        self.n_updates += 1
        return super().update(minibatches, unlabeled)

    def get_extra_state(self) -> dict[str, Any]:
        """The optimiser and how far the warm-up is."""
        counts = {"n_updates": self.n_updates, "n_head_updates": self.n_head_updates}
        return {**super().get_extra_state(), "counts": counts}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        state = dict(state)
        vars(self).update(state.pop("counts", {}))
        super().set_extra_state(state)
