"""Training twice: to learn how the learning rate should fall, then on all samples by that schedule.

ERM++ calls it Auto-LR and full data (Teterwak et al. 2023, arXiv 2304.01973).
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from domainbed.algorithms import get_algorithm_class
from domainbed.engine import trainer
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.registry import InputError
from domainbed.runs import LAST

logger = logging.getLogger(__name__)

FACTOR, REDUCTIONS, PATIENCE, THRESHOLD = 0.1, 3, 1, 1e-4


class Plateau:
    """Tells by which factor to scale the learning rate, from the validation loss at checkpoints.

    A loss is better if it is below the best by more than 0.01 %. The second one in a row that is
    not divides the rate by ten; in place of the third division, training is over.
    """

    def __init__(self) -> None:
        self.best, self.n_bad, self.n_reductions = math.inf, 0, 0

    def __call__(self, loss: float) -> float:
        """The factor from here on; 0 when training is over."""
        if loss < self.best * (1 - THRESHOLD):
            self.best, self.n_bad = loss, 0
        else:
            self.n_bad += 1
        if self.n_bad > PATIENCE:
            self.n_bad = 0
            self.n_reductions += 1
        return FACTOR**self.n_reductions if self.n_reductions < REDUCTIONS else 0.0


def scale_learning_rates(algorithm: Any, factor: float) -> None:
    """Set the rates of all optimisers of an algorithm to `factor` times those they began with."""
    for value in vars(algorithm).values():
        if isinstance(value, torch.optim.Optimizer):
            for group in value.param_groups:
                group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


class Annealed(trainer.Trainer):
    """Lowers the learning rate where validation stalls; `schedule` maps a step to the factor."""

    replacement = False

    def __init__(self, run: Run, algorithm: Any) -> None:
        super().__init__(run, algorithm)
        self.plateau = Plateau()
        self.schedule: dict[int, float] = {}
        is_two_phased = isinstance(algorithm, get_algorithm_class("ERMPlusPlus"))
        self.first_step = run.hparams["linear_steps"] if is_two_phased else 0

    def saved(self) -> dict[str, Any]:
        """Also where the schedule is."""
        return {
            **super().saved(),
            "plateau": vars(self.plateau),
            "schedule": self.schedule,
            "n_steps": self.n_steps,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was `saved`."""
        super().restore(saved)
        vars(self.plateau).update(saved["plateau"])
        self.schedule, self.n_steps = saved["schedule"], saved["n_steps"]

    def _record(self, step: int, values: dict, accs: dict, losses: dict) -> None:
        factor = 1.0
        if step >= self.first_step:
            loss = self.run.id_mean(losses)
            assert loss is not None, "samples for validation were checked for"
            factor = self.plateau(loss)
        if factor == 0:  # as in DomainBed, nothing of this checkpoint is recorded or kept
            self.n_steps = step + 1
            return
        self.schedule[step] = factor
        scale_learning_rates(self.algorithm, factor)
        lr = self.run.hparams["lr"] * factor
        super()._record(step, {**values, "lr": lr}, accs, losses)

    def _keep(self, step: int, accs: dict[str, float]) -> None:
        if step in self.schedule:
            super()._keep(step, accs)


class Found(NamedTuple):
    """How many steps to train, and by which factor to scale the rate from some on."""

    n_steps: int
    schedule: dict[int, float]


class FullData(trainer.Trainer):
    """Trains by a schedule that was found, without validation."""

    replacement = False

    def __init__(self, run: Run, algorithm: Any, found: Found, options: Options) -> None:
        super().__init__(run, algorithm)
        self.keeper.options = options  # those of the job, not of this half
        self.n_steps, self.schedule = found.n_steps, found.schedule

    def saved(self) -> dict[str, Any]:
        """Also the schedule, so that it is not looked for again."""
        found = {"n_steps": self.n_steps, "schedule": self.schedule}
        return {**super().saved(), "found": found}

    def _record(self, step: int, values: dict, accs: dict, losses: dict) -> None:
        factor = self.schedule[step]
        scale_learning_rates(self.algorithm, factor)
        accs = {f"fd_{key}": acc for key, acc in accs.items()}
        lr = self.run.hparams["lr"] * factor
        super()._record(step, {**values, "lr": lr}, accs, losses)

    def _keep(self, step: int, accs: dict[str, float]) -> None:
        if step == self.n_steps - 1:
            self.run.save(LAST, self.algorithm, step=step)


def train(run: Run) -> None:
    """Train a run twice, from the same initial weights; the last weights are the second one's."""
    o = run.options
    is_trained = run.method.trains and not run.needs
    if not is_trained or hasattr(run.method.load(), "at_checkpoint"):
        raise InputError(
            f"train_autolr was given --algorithm {o.algorithm}, which needs other runs or has a "
            "schedule of its own; give one that is trained by itself, such as ERMPlusPlus"
        )
    if not any(run.splits[env].out for env in run.train_envs):
        raise InputError(
            f"train_autolr needs samples for validation, but --holdout_fraction "
            f"{o.holdout_fraction} leaves none; give a larger one, such as 0.2"
        )
    full = Run(replace(o, holdout_fraction=0.0), run.needs)
    if run.state and "found" in run.state.content:
        found, full.state = Found(**run.state.content["found"]), run.state
    else:
        first = trainer.train_with(run, Annealed)
        found = Found(max(first.schedule) + 1, first.schedule)
    logger.info("Training again on all samples, by the schedule that was found.")
    trainer.train_with(full, functools.partial(FullData, found=found, options=o))
    run.provenance = full.provenance
    run.folder.describe(run.description())
