"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from tqdm import tqdm

from domainbed.engine import checkpoint, compiling, frozen, initial_weights, sinks
from domainbed.engine.run import Run
from domainbed.runs import BEST, LAST

logger = logging.getLogger(__name__)

T = TypeVar("T", bound="Trainer")


class RunFailed(RuntimeError):
    """A run that cannot go on, told in one line."""


class Trainer:
    """Trains an algorithm, records it at checkpoints, and keeps its best and its last weights."""

    replacement = True
    """Whether batches are drawn with replacement, as by DomainBed's train."""

    def __init__(self, run: Run, algorithm: Any) -> None:
        self.run, self.algorithm = run, algorithm
        self.evaluator = run.evaluator
        self.n_steps = run.n_steps
        self.window: dict[str, list[float]] = defaultdict(list)
        self.best = -math.inf
        self.keeper = checkpoint.Keeper(run.folder, run.options, algorithm)
        self.asked = 0.0

    def train(self) -> None:
        """Do every step that is left; a checkpoint may lower `n_steps` to end sooner."""
        self.algorithm.train()
        first = self._resume() if self.run.state else 0
        started = time.time()
        steps = self.run.stream(self.replacement).steps(first, self.n_steps, self.run.num_workers)
        checkpoint.STOP.is_training = True
        try:
            with tqdm(
                total=self.n_steps, initial=first, unit="step", disable=sinks.QUIET or None
            ) as progress:
                self.asked = time.time()
                for step, minibatches in enumerate(steps, first):
                    self._step(step, minibatches, progress)
                    self.asked = time.time()
                    if step == self.n_steps - 1:
                        break
        finally:
            checkpoint.STOP.is_training = False
        n_steps = self.n_steps - first
        logger.info("trained %d steps in %.1f s", n_steps, time.time() - started)

    def _step(self, step: int, minibatches: list, progress: tqdm) -> None:
        """An update, and what is due after it."""
        self._update(step, minibatches, progress)
        is_last = step == self.n_steps - 1
        at_checkpoint = step % self.run.checkpoint_freq == 0 or is_last
        if at_checkpoint:
            self._checkpoint(step)
        # asked anew: the checkpoint may have lowered n_steps
        if step != self.n_steps - 1 and self.keeper.is_due(at_checkpoint):
            self.keeper.save(step, self.algorithm, self.saved())

    def saved(self) -> dict[str, Any]:
        """What training needs to go on, beside the state of the algorithm."""
        return {"window": dict(self.window), "best": self.best}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was `saved`."""
        self.window.update(saved["window"])
        self.best = saved["best"]

    def _resume(self) -> int:
        """Take the saved state; return the step to go on with."""
        state = self.run.state
        assert state is not None, "only a run that has one resumes"
        checkpoint.restore(state, self.algorithm)
        self.restore(state.content)
        self.run.state = None
        logger.info("going on after step %d", state.content["step"])
        return state.content["step"] + 1

    def _update(self, step: int, minibatches: list, progress: tqdm) -> None:
        start, device = time.time(), self.run.device
        n_domains = len(self.run.train_envs)
        on_device = [(x.to(device), y.to(device)) for x, y in minibatches]
        unlabeled = [x for x, _ in on_device[n_domains:]] or None
        values = self.algorithm.update(on_device[:n_domains], unlabeled)
        for key, value in values.items():
            if not math.isfinite(value):
                raise RunFailed(
                    f"{key} is {value} at step {step}; training cannot go on. "
                    "Try a smaller learning rate"
                )
            self.window[key].append(float(value))
        end = time.time()
        seconds = end - start
        self.window["step_time"].append(end - self.asked)  # with the wait, as in public DomainBed
        self.window["update_time"].append(seconds)
        if not progress.disable:
            n_images = sum(len(y) for _, y in minibatches)
            shown = {k: f"{v:.3g}" for k, v in values.items() if "loss" in k}
            progress.set_postfix({**shown, "images/s": f"{n_images / seconds:.0f}"}, refresh=False)
        progress.update()

    def _checkpoint(self, step: int) -> None:
        run = self.run
        accs, losses = self.evaluator.measure(self.algorithm)
        values = {key: sum(window) / len(window) for key, window in self.window.items()}
        self.window.clear()
        self._record(step, values, accs, losses)
        self._keep(step, accs)
        if hasattr(self.algorithm, "at_checkpoint"):
            self.algorithm.at_checkpoint(run, step, losses)

    def _record(self, step: int, values: dict, accs: dict, losses: dict) -> None:
        """Write what was measured at a checkpoint."""
        self.run.record(step, values, accs)

    def _keep(self, step: int, accs: dict[str, float]) -> None:
        """Save the weights of a checkpoint that are wanted."""
        run, score = self.run, self.run.id_score(accs)
        if run.options.save_model_every_checkpoint:
            run.save(f"model_step{step}.safetensors", self.algorithm, step=step)
        if score > self.best:
            self.best = score
            run.save(BEST, self.algorithm, step=step, id_acc=score)
        if step == self.n_steps - 1:
            run.save(LAST, self.algorithm, step=step, id_acc=score)


def train(run: Run) -> None:
    """Train one run from its initial weights to its last step."""
    train_with(run, Trainer)


def train_with(run: Run, make: Callable[[Run, Any], T]) -> T:
    """Train one run with the trainer that `make` makes of it and its algorithm; return that."""
    algorithm = run.build()
    run.provenance = initial_weights.start(run, algorithm)
    run.folder.describe(run.description())
    if run.options.compile:
        compiling.compile_featurizers(algorithm, run.device)
    is_probe = run.options.what_is_trainable == "classifier"
    is_cached = is_probe and vars(type(algorithm)).get("reads_features_alone")
    with frozen.features_once(run, algorithm) if is_cached else nullcontext():
        trainer = make(run, algorithm)
        trainer.train()
    return trainer
