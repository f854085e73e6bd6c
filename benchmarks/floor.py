"""The least that an ERM run of MNIST_CNN takes here: its kernels alone, each in a loop.

    python benchmarks/floor.py [--batch 320] [--updates 300] [--evaluated 20000]

Convolutions count as long as each takes alone, on tensors that stay in the cache if they fit;
ReLU and norms as long as memory takes to read and write what they must: an activation 5 times
forward (ReLU reads and writes, the norm reads twice and writes) and 8 times backward (the norm
reads its input twice, the gradient twice, and writes; ReLU reads two and writes). Prints a Markdown
table and the seconds of all updates and evaluations. Optimiser, data and imports come on top.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

from domainbed.lib.machine import freed_memory_kept, use_huge_pages

use_huge_pages()

import torch  # noqa: E402

LAYERS = [(1, 64, 28, 1), (64, 128, 28, 2), (128, 128, 14, 1), (128, 128, 14, 1)]
"""Channels in and out, height and width of the input, stride; kernels of 3 x 3, padding 1."""

ACTIVATION = 4 * (64 * 28**2 + 3 * 128 * 14**2)
"""Bytes of all layers' outputs for an image."""


def seconds(function: Callable[[], object], n: int = 10) -> float:
    """Of one call, the least of n, after three."""
    taken = []
    for _ in range(3 + n):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken[3:])


def convolution(layer: tuple[int, int, int, int], batch: int) -> dict[str, float]:
    """Seconds of a layer's passes; the first layer needs no gradient of its input."""
    n_in, n_out, side, stride = layer
    last = torch.channels_last
    x = torch.randn(batch, n_in, side, side).contiguous(memory_format=last)
    weight = torch.randn(n_out, n_in, 3, 3).contiguous(memory_format=last)
    bias = torch.randn(n_out)
    grad = torch.randn_like(torch.conv2d(x, weight, bias, stride, 1))

    def backward(*wanted: bool) -> object:
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [n_out], [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, wanted
        )

    passes: dict[str, Callable[[], object]] = {
        "forward": lambda: torch.conv2d(x, weight, bias, stride, 1),
        "by input": lambda: backward(True, False, False),
        "by weight": lambda: backward(False, True, True),
    }
    if n_in == 1:
        del passes["by input"]
    return {name: seconds(function) for name, function in passes.items()}


def bandwidth() -> float:
    """Bytes read and written a second by an addition of two large tensors."""
    a, b = torch.randn(2, 2**24)
    out = torch.empty_like(a)
    return 3 * a.nbytes / seconds(lambda: torch.add(a, b, out=out))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=320)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--evaluated", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    update = forward = 0.0
    print(f"{args.threads} threads\n\n| convolution | pass | ms | GFLOP/s |\n|---|---|---|---|")
    with freed_memory_kept():
        for layer in LAYERS:
            n_in, n_out, side, stride = layer
            flop = 2 * 9 * n_in * n_out * (side // stride) ** 2 * args.batch
            for name, taken in convolution(layer, args.batch).items():
                update += taken
                forward += taken if name == "forward" else 0.0
                shape = f"{n_in} to {n_out}, {side} x {side}, stride {stride}"
                print(f"| {shape} | {name} | {1e3 * taken:.1f} | {flop / taken / 1e9:.0f} |")
        rate = bandwidth()
    moved = args.batch * ACTIVATION / rate
    updates = args.updates * (update + 13 * moved)
    evaluations = args.evaluated / args.batch * (forward + 5 * moved)
    print(
        f"\nan update: convolutions {1e3 * update:.0f} ms, memory {13e3 * moved:.0f} ms at "
        f"{rate / 1e9:.1f} GB/s\n{args.updates} updates {updates:.0f} s, evaluation of "
        f"{args.evaluated} images {evaluations:.1f} s, together {updates + evaluations:.0f} s"
    )


if __name__ == "__main__":
    main()
