"""The floating-point rate of training, against that of the same kernels alone in a loop.

    python benchmarks/utilisation.py [--precision bf16] [--threads 1]

Training is what a run does between two checkpoints: load, augment, update. Operations are counted
by torch. Of the kernels that an update calls, each by itself in a loop, two rates are shown: that
of those that multiply (convolutions and linear layers), and that of all of them, in which norms,
ReLU and the optimiser take time as well. Ends with exit code 1 if training has below 60 % of
the latter anywhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from domainbed.lib.machine import freed_memory_kept, use_huge_pages

use_huge_pages()

import kernels  # noqa: E402
import torch  # noqa: E402
from input import write_photos  # noqa: E402

from domainbed.engine import initial_weights  # noqa: E402
from domainbed.engine.options import Options  # noqa: E402
from domainbed.engine.run import Run  # noqa: E402

LEAST = 0.6
N_UPDATES = 8


def updates(run: Run, algorithm: Any, n: int) -> float:
    """Seconds of an update, loading included: the mean of n after two that warm up."""
    start = 0.0
    for i, minibatches in enumerate(run.stream().steps(0, n + 2, 0)):
        if i == 2:
            start = time.perf_counter()
        algorithm.update([(x.to(run.device), y.to(run.device)) for x, y in minibatches])
        if i == n + 1:
            break
    return (time.perf_counter() - start) / n


def measure(name: str, options: Options) -> float:
    """Print the line of one kind of run; return its share of the rate of all kernels."""
    run = Run(options, {})
    algorithm = run.build()
    initial_weights.start(run, algorithm)
    algorithm.train()
    seconds = updates(run, algorithm, N_UPDATES)
    minibatches = next(iter(run.stream().steps(0, 1, 0)))
    calls = kernels.calls(lambda: algorithm.update(minibatches))
    alone = [kernels.alone(call) for call in calls]
    multiplying = sum(taken for taken, call in zip(alone, calls) if call.flop)
    flop = sum(call.n * call.flop for call in calls)
    rate, *rates = (flop / taken / 1e9 for taken in (seconds, multiplying, sum(alone)))
    shares = "".join(f"| {other:.0f} | {100 * rate / other:.0f} % " for other in rates)
    print(f"| {name} | {flop / 1e9:.1f} | {seconds:.3f} | {rate:.0f} {shares}|", flush=True)
    return rate / rates[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, {args.precision}; rates in GFLOP/s\n")
    print(
        "| | GFLOP an update | seconds | training | multiplying alone | share | all alone | share |"
    )
    print("|---|---|---|---|---|---|---|---|")
    common: dict[str, Any] = {"test_envs": (0,), "precision": args.precision}
    with tempfile.TemporaryDirectory() as folder, freed_memory_kept():
        write_photos(Path(folder), 227, 12)
        digits = Options(dataset="RotatedDigits", **common)
        shares = [measure("RotatedDigits, MNIST_CNN, 3 x 8", digits)]
        for depth in (18, 50):
            for is_frozen in (False, True):
                hparams = f'"resnet18": {str(depth == 18).lower()}, "batch_size": 8'
                hparams = f'{{{hparams}, "freeze_bn": {str(is_frozen).lower()}}}'
                photos = Options(
                    dataset="PACS", data_dir=folder, hparams=hparams, foundation="random", **common
                )
                name = f"PACS, ResNet-{depth}, 3 x 8{', norms frozen' if is_frozen else ''}"
                shares.append(measure(name, photos))
    return 0 if min(shares) >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
