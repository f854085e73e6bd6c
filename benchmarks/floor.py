"""The least that an ERM run on digits takes here: its kernels alone, each in a loop.

    python benchmarks/floor.py [--precision bf16] [--updates 300] [--evaluated 20000]

Every kernel that torch calls in an update of 5 x 64 digits, and in the evaluation of as many, is
timed by itself, on tensors that stay in the cache if they fit. Prints a Markdown table, and the
seconds of all updates and evaluations if nothing came between. Data and imports come on top.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter

from domainbed.lib.machine import freed_memory_kept, use_huge_pages

use_huge_pages()

import kernels  # noqa: E402
import torch  # noqa: E402

from domainbed import algorithms, hparams_registry  # noqa: E402
from domainbed.engine import precision  # noqa: E402

SHAPE, N_CLASSES, N_DOMAINS, BATCH = (1, 28, 28), 10, 5, 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--evaluated", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hparams = hparams_registry.default_hparams("ERM", "RotatedMNIST")
    erm = algorithms.get_algorithm_class("ERM")(SHAPE, N_CLASSES, N_DOMAINS, hparams)
    if args.precision == "bf16":
        precision.compute_in_bf16(erm, torch.device("cpu"))
    erm = erm.to(memory_format=torch.channels_last)
    images = torch.randn(N_DOMAINS, BATCH, *SHAPE)
    labels = torch.randint(0, N_CLASSES, (N_DOMAINS, BATCH))
    with freed_memory_kept():
        erm.update(list(zip(images, labels)))  # which makes the optimiser's state
        update = kernels.calls(lambda: erm.update(list(zip(images, labels))))
        with torch.no_grad():
            evaluation = kernels.calls(lambda: erm.predict(images.flatten(0, 1)))
        update_s = [kernels.alone(call) for call in update]
        evaluation_s = sum(map(kernels.alone, evaluation))
    by_kernel: Counter[str] = Counter()
    flop: Counter[str] = Counter()
    for call, taken in zip(update, update_s):
        by_kernel[str(call.kernel)] += taken
        flop[str(call.kernel)] += call.n * call.flop
    print(f"{args.threads} threads, {args.precision}\n\n| kernel | ms an update | GFLOP/s |")
    print("|---|---|---|")
    for kernel, taken in by_kernel.most_common(8):
        rate = f"{flop[kernel] / taken / 1e9:.0f}" if flop[kernel] else ""
        print(f"| {kernel} | {1e3 * taken:.1f} | {rate} |")
    updates = args.updates * sum(update_s)
    evaluations = args.evaluated / (N_DOMAINS * BATCH) * evaluation_s
    print(
        f"\nan update {1e3 * sum(update_s):.0f} ms; {args.updates} updates {updates:.0f} s, "
        f"evaluation of {args.evaluated} images {evaluations:.1f} s, "
        f"together {updates + evaluations:.0f} s"
    )


if __name__ == "__main__":
    main()
