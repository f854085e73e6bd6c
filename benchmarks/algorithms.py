"""Time of an update of each algorithm, relative to ERM's on the same batches.

Each pair of measurements is one block of six updates of ERM and one of the algorithm, in turn, so
that whatever slows the machine slows both; six, since adversaries take turns of two or three.
CPU seconds on one thread, with every penalty set in. Prints a Markdown table of ratios: median,
least and most.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from domainbed import algorithms, hparams_registry, testing

AT_ONCE = {
    "irm_penalty_anneal_iters": 0,
    "vrex_penalty_anneal_iters": 0,
    "ib_penalty_anneal_iters": 0,
    "rdm_penalty_anneal_iters": 0,
    "penalty_anneal_iters": 0,
    "eqrm_burnin_iters": 0,
    "iters": 0,
    "linear_steps": -1,
}
SHAPE, N_CLASSES, N_DOMAINS, BLOCK = (3, 28, 28), 7, 3, 6


def build(name: str) -> Any:
    torch.manual_seed(0)
    hparams = hparams_registry.default_hparams(name, "Debug28")
    hparams.update({key: value for key, value in AT_ONCE.items() if key in hparams})
    cls = algorithms.get_algorithm_class(name)
    return cls(SHAPE, N_CLASSES, N_DOMAINS, hparams)


def seconds(algorithm: Any, batch_size: int) -> float:
    """CPU seconds of an update, mean over a block."""
    blocks = [
        testing.minibatches(step, SHAPE, N_CLASSES, N_DOMAINS, batch_size) for step in range(BLOCK)
    ]
    start = time.process_time()
    for minibatches in blocks:
        algorithm.update(minibatches, None)
    return (time.process_time() - start) / BLOCK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithms", nargs="+", default=algorithms.ALGORITHMS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=8, help="samples of each domain")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| algorithm | x ERM, median | least | most |\n|---|---|---|---|")
    baseline = []
    for name in args.algorithms:
        erm, algorithm = build("ERM"), build(name)
        seconds(erm, args.batch_size), seconds(algorithm, args.batch_size)  # warm up
        ratios = []
        for _ in range(args.repeats):
            baseline.append(seconds(erm, args.batch_size))
            ratios.append(seconds(algorithm, args.batch_size) / baseline[-1])
        middle = statistics.median(ratios)
        print(f"| {name} | {middle:.2f} | {min(ratios):.2f} | {max(ratios):.2f} |", flush=True)
    print(f"\nERM: {1000 * statistics.median(baseline):.0f} ms")


if __name__ == "__main__":
    main()
