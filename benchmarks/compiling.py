"""Training with `--compile` beside training without it.

    python benchmarks/compiling.py [--precision bf16] [--threads N] [--repeats 5]

Two algorithms train in turn on the same batches, loading included; then both classify a batch of 64
images. Prints a Markdown table: seconds without and with, medians, and the ratio without / with,
median, least and most; and the seconds that compiling and the first three updates take, without
kernels that an earlier run left on disk. The first of them has the import of the compiler, too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from domainbed.lib.machine import freed_memory_kept, use_huge_pages

use_huge_pages()

import torch  # noqa: E402
from input import write_photos  # noqa: E402
from utilisation import updates  # noqa: E402

from domainbed.engine import compiling  # noqa: E402
from domainbed.engine.options import Options  # noqa: E402
from domainbed.engine.run import Run  # noqa: E402

N_UPDATES, BATCH = 8, 64


@torch.no_grad()
def evaluation(algorithm: Any, x: torch.Tensor) -> float:
    """Seconds of classifying a batch, after one that warms up."""
    algorithm.eval()
    algorithm.predict(x)
    start = time.perf_counter()
    algorithm.predict(x)
    seconds = time.perf_counter() - start
    algorithm.train()
    return seconds


def row(name: str, pairs: list[tuple[float, float]]) -> str:
    """A line of the table, of seconds without and with."""
    without, with_it = (median(seconds) for seconds in zip(*pairs))
    ratios = sorted(a / b for a, b in pairs)
    spread = f"x {median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"| {name} | {without:.3f} | {with_it:.3f} ({spread}) |"


def measure(name: str, options: Options, repeats: int) -> None:
    """Print the lines of one kind of run."""
    run = Run(options, {})
    plain, compiled = run.build().train(), run.build().train()
    start = time.perf_counter()
    compiling.compile_featurizers(compiled, run.device)
    updates(run, compiled, 1)
    first = time.perf_counter() - start
    x = torch.rand(BATCH, *run.dataset.input_shape, device=run.device)
    both, turns = (plain, compiled), range(repeats)
    pairs = [tuple(updates(run, one, N_UPDATES) for one in both) for _ in turns]
    print(row(f"{name}: an update", pairs) + f" {first:.0f} |", flush=True)
    pairs = [tuple(evaluation(one, x) for one in both) for _ in turns]
    print(row(f"{name}: {BATCH} images classified", pairs) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, {args.precision}\n\n| | without | with | to begin |")
    print("|---|---|---|---|")
    common: dict[str, Any] = {"test_envs": (0,), "precision": args.precision}
    with tempfile.TemporaryDirectory() as folder, freed_memory_kept():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/kernels"
        write_photos(Path(folder), 227, 12)
        measure("MNIST_CNN, 3 x 8", Options(dataset="RotatedDigits", **common), args.repeats)
        hparams = '{"resnet18": true, "batch_size": 8, "freeze_bn": true}'
        photos = Options(
            dataset="PACS", data_dir=folder, hparams=hparams, foundation="random", **common
        )
        measure("ResNet-18, norms frozen, 3 x 8", photos, args.repeats)


if __name__ == "__main__":
    main()
