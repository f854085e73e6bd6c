"""What is trained: fine-tunings that start where averaging works."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm import ERM
from domainbed.engine.initial_weights import InitialWeights, needed_weights
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.lib import weights
from domainbed.lib.seeds import seed_hash
from domainbed.lib.weights import State
from domainbed.networks import foundations
from domainbed.registry import InputError
from domainbed.runs import BEST, LAST
from ratatouille_algorithms import pool, recipe
from ratatouille_algorithms.options import FUSING_RANGE
from ratatouille_algorithms.trajectory import Trajectory

MOVING_AVERAGE, SWAD = "model_moving_average.safetensors", "model_swad.safetensors"

logger = logging.getLogger(__name__)


class FineTuning(ERM):
    """Fine-tune a foundation under a head that was linear-probed first (Kumar et al. 2022,
    arXiv 2202.10054), with mild hyper-parameters: a member of DiWA (Rame et al. 2022, arXiv
    2205.09739).

    All runs of a (dataset, test envs) share foundation and head, or they could not be averaged; a
    small network that has no pretrained weights takes a foundation that is the same for all runs.
    """

    reads_features_alone = True
    n_weight_files = 4

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
        self.trajectory: Trajectory | None = None

    def start(self, initial: InitialWeights) -> None:
        """Take the probe's weights: the foundation under the probed head."""
        for folder in initial.run.needs.get("probe", []):
            initial.load_all(needed_weights(folder, BEST), "probe")
        if initial.run.test_envs and initial.run.options.what_is_trainable == "all":
            self.follow()

    def follow(self) -> None:
        """Keep averages of the weights along this run."""
        self.trajectory = Trajectory(self.hparams)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One step of ERM."""
        values = super().update(minibatches, unlabeled)
        if self.trajectory is not None:
            self.trajectory.add(self._state)
        return values

    @cached_property
    def _state(self) -> State:
        """Every tensor once, under the first of its names."""
        return {name: tensor for name, tensor in self._tensors.items() if name == self._first[name]}

    @cached_property
    def _tensors(self) -> State:
        return {k: v for k, v in weights.tensors(self).items() if v.numel()}

    @cached_property
    def _first(self) -> dict[str, str]:
        """The first name of each tensor, by any of its names."""
        names: dict[int, str] = {}
        return {k: names.setdefault(v.data_ptr(), k) for k, v in self._tensors.items()}

    def at_checkpoint(self, run: Run, step: int, losses: Mapping[str, float]) -> None:
        """Tell the averages the validation loss; write them at the end."""
        if self.trajectory is None:
            return
        loss = run.id_mean(losses)
        self.trajectory.checkpoint(math.inf if loss is None else loss)
        if step == run.n_steps - 1:
            means = {MOVING_AVERAGE: self.trajectory.moving, SWAD: self.trajectory.swad.mean()}
            for name, mean in means.items():
                if not mean.n:
                    logger.warning("%s is not kept: the run ended before ma_start", name)
                    continue
                state = {alias: mean.state[first] for alias, first in self._first.items()}
                run.save_tensors(name, state, step=step, n_iterates=mean.n)


class InterTraining(FineTuning):
    """Fine-tune from weights that were first fine-tuned on an auxiliary dataset (Rame et al. 2023,
    arXiv 2212.10445; inter-training: Phang et al. 2018, arXiv 1811.01088).

    When they are not the foundation itself, the first `lp_steps` updates train only the head; then
    a new Adam trains all weights, as in the public code, whose warm-up has one update more.
    """

    reads_features_alone = True
    n_weight_files = 2

    n_updates = 0
    n_head_updates = 0

    def start(self, initial: InitialWeights) -> None:
        """Take the probe's weights, then the featurizer of the auxiliary run.

        Raises `InputError` when that run has seen the target dataset or descends from another
        foundation than the probe, as its own records say.
        """
        super().start(initial)
        initial.provenance["datasets_seen"] = []  # the probe left the featurizer as it was
        paths = [needed_weights(f, LAST) for f in initial.run.needs.get("auxiliary", [])]
        paths += [one.weights for one in self.recycled(initial.run.options)]
        self.take_auxiliary(initial, paths)
        if paths:
            self.n_head_updates = self.hparams["lp_steps"]
            if initial.run.n_steps <= self.n_head_updates:
                logger.warning(
                    "all %d steps train only the head, since lp_steps is %d; give more --steps or "
                    "a smaller hparam lp_steps",
                    initial.run.n_steps,
                    self.n_head_updates,
                )

    def follow(self) -> None:
        """Averages along a run are those of fine-tunings from the foundation."""

    def recycled(self, options: Options) -> list[pool.Ingredient]:
        """The ingredients of a pool that this run starts from, their bytes checked."""
        labels = options.further.get("ingredients") or []
        found = pool.pinned(options.further["aux_dir"], self.turn(labels, options))
        for one in found:
            one.check_bytes()
        return found

    def turn(self, labels: list[str], options: Options) -> Sequence[str]:
        """Which ingredients are this run's."""
        return recipe.turn(labels, {"hparams_seed": options.hparams_seed})

    def take_auxiliary(self, initial: InitialWeights, paths: list[Path]) -> None:
        """Take the featurizer of the one auxiliary run, or keep the foundation's."""
        for path in paths:
            load_ingredient(initial, path)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """One step of ERM, of the head alone during the warm-up, after which Adam starts anew."""
        if self.n_head_updates:
            self.featurizer.requires_grad_(self.n_updates >= self.n_head_updates)
            if self.n_updates == self.n_head_updates:
                self.optimizer = self.new_optimizer()
        self.n_updates += 1
        return super().update(minibatches, unlabeled)


class Fusing(InterTraining):
    """Fine-tune from an interpolation of the foundation and one run of each auxiliary dataset
    (Choshen et al. 2022, arXiv 2204.03044, with random coefficients as Rame et al. 2023 draw them).
    """

    def turn(self, labels: list[str], options: Options) -> Sequence[str]:
        """All of them."""
        return labels

    def take_auxiliary(self, initial: InitialWeights, paths: list[Path]) -> None:
        """Take the interpolation; what was drawn for each run is in the provenance."""
        o = initial.run.options
        fusing_range = o.further["fusing_range"]
        kappas = coefficients(
            len(paths) + 1, FUSING_RANGE if fusing_range is None else fusing_range, o.seed
        )
        featurizer = weights.tensors(self.featurizer)
        floats = [name for name, tensor in featurizer.items() if tensor.is_floating_point()]
        total = {name: kappas[0] * featurizer[name].double() for name in floats}
        for kappa, path in zip(kappas[1:], paths):
            load_ingredient(initial, path)
            initial.provenance["initial"][-1]["coefficient"] = kappa
            for name in floats:
                total[name] += kappa * featurizer[name].double()
        for name in floats:
            featurizer[name].copy_(total[name])


def coefficients(n: int, fusing_range: float, seed: int) -> list[float]:
    """n random numbers that sum to 1: exp(fusing_range x uniform(0, 1)), normalised."""
    uniform = np.random.RandomState(seed_hash("fusing", seed)).uniform(size=n)
    kappas = np.exp(fusing_range * uniform)
    return (kappas / kappas.sum()).tolist()


def load_ingredient(initial: InitialWeights, path: Path) -> None:
    """Load a featurizer that was fine-tuned on auxiliary data.

    Raises `InputError` when it saw the target or descends from another foundation.
    """
    options, foundation = initial.run.options, initial.provenance["foundation"]
    theirs = initial.load_featurizer(path, "auxiliary")
    seen = theirs.get("datasets_seen")
    if seen is None and not options.further.get("allow_unknown_provenance"):
        raise InputError(
            f"{path} does not say which datasets it has seen; expected weights that never saw "
            f"{options.dataset} (--allow_unknown_provenance uses those of a pool all the same)"
        )
    if any(pool.is_same_dataset(options.dataset, name) for name in seen or ()):
        raise InputError(
            f"{path} has seen {seen}, among them the target {options.dataset}; expected weights "
            "that never saw it"
        )
    if theirs["foundation"]["sha256"] != foundation["sha256"]:
        raise InputError(
            f"{path} descends from foundation {theirs['foundation']}, the probe from "
            f"{foundation}; weights can be recycled from the same foundation only"
        )
