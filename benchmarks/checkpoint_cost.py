"""What saving the state of training costs, as a share of the time of training.

    python benchmarks/checkpoint_cost.py [--config sweeps/digits.toml] [--jobs 12]

Trains the first jobs of a recipe one after another, with a state at every checkpoint and as it is:
states at checkpoints are 5 s apart, and so far that they take 1 % of the time. Also prints what one
of a ResNet-50 with Adam takes. Ends with exit code 1 if the recipe's share, as it is, is above 2 %.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from domainbed import algorithms, hparams_registry
from domainbed.engine import checkpoint, sinks
from domainbed.engine.execute import execute
from domainbed.engine.options import Options
from domainbed.engine.trainer import Trainer
from domainbed.runs import RunFolder
from domainbed.scripts import sweep

LIMIT = 0.02


class Timed:
    """Replaces a method meanwhile, and adds up its seconds and calls."""

    def __init__(self, cls: type, name: str) -> None:
        self.cls, self.name, self.method = cls, name, getattr(cls, name)
        self.seconds, self.n_calls = 0.0, 0

    def __enter__(self) -> Timed:
        setattr(self.cls, self.name, lambda *args: self.call(*args))
        return self

    def __exit__(self, *_: object) -> None:
        setattr(self.cls, self.name, self.method)

    def call(self, *args: Any) -> Any:
        """Call the method itself."""
        start = time.perf_counter()
        try:
            return self.method(*args)
        finally:
            self.seconds += time.perf_counter() - start
            self.n_calls += 1


def measure(config: str, n_jobs: int) -> tuple[Timed, Timed]:
    """Train the first jobs of a recipe; the time of saving, and of training with it."""
    with tempfile.TemporaryDirectory() as root:
        words = ["plan", "--config", config, "--output_dir", root]
        graph = sweep.sweep.plan(sweep.parse(words))[1]
        trained = [j for j in graph if algorithms.get_method(j.train_args["algorithm"]).trains]
        with Timed(checkpoint.Keeper, "save") as saving, Timed(Trainer, "train") as training:
            for job in trained[:n_jobs]:
                execute(Options.of_args(job.train_args))
    return saving, training


def one_state() -> tuple[float, int]:
    """Seconds and bytes of one state of a ResNet-50 with Adam."""
    hparams = hparams_registry.default_hparams("ERM", "PACS")
    hparams.update(resnet50_augmix=False, foundation="random")
    algorithm = algorithms.get_algorithm_class("ERM")((3, 64, 64), 7, 3, hparams)
    algorithm.update([(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))])
    with tempfile.TemporaryDirectory() as root:
        keeper = checkpoint.Keeper(RunFolder(root), Options(output_dir=root))
        keeper.save(0, algorithm, {"window": {}, "best": 0.0})
        (path,) = Path(root).glob("state-*.pt")
        return keeper.cost, path.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default=str(Path(__file__).parents[1] / "sweeps/digits.toml"))
    parser.add_argument("--jobs", type=int, default=12)
    args = parser.parse_args()
    sinks.QUIET, share = True, 0.0
    as_it_is = checkpoint.LEAST_SECONDS, checkpoint.SHARE
    for name, limits in (("every checkpoint", (0.0, math.inf)), ("as it is", as_it_is)):
        checkpoint.LEAST_SECONDS, checkpoint.SHARE = limits
        saving, training = measure(args.config, args.jobs)
        share = saving.seconds / training.seconds
        print(
            f"{name:17} {training.seconds:6.1f} s of training, {saving.n_calls:3} states in "
            f"{saving.seconds:.3f} s: {share:.2%}"
        )
    cost, n_bytes = one_state()
    gap = max(checkpoint.LEAST_SECONDS, cost / checkpoint.SHARE)
    print(f"ResNet-50, Adam: a state of {n_bytes / 1e6:.0f} MB in {cost:.2f} s, {gap:.0f} s apart")
    return int(share > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
