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

from domainbed.networks.small import MNIST_CNN  # noqa: E402


def seconds(function: Callable[[], object], n: int = 10) -> float:
    """Of one call, the least of n, after three."""
    taken = []
    for _ in range(3 + n):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken[3:])


def convolutions(batch: int) -> list[tuple[torch.nn.Conv2d, torch.Tensor]]:
    """Those of the network with their inputs, in order, channels last."""
    network = MNIST_CNN((1, 28, 28)).to(memory_format=torch.channels_last)
    found: list[tuple[torch.nn.Conv2d, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda m, args, _: found.append((m, args[0])))
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        network(torch.randn(batch, 1, 28, 28).contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()
    return found


def passes(layer: torch.nn.Conv2d, x: torch.Tensor, grad: torch.Tensor) -> dict[str, float]:
    """Seconds of a layer's passes; the first layer needs no gradient of its input."""

    def backward(*wanted: bool) -> object:
        return torch.ops.aten.convolution_backward(
            *(grad, x, layer.weight, [layer.out_channels], layer.stride, layer.padding),
            *(layer.dilation, False, [0, 0], layer.groups, wanted),
        )

    found: dict[str, Callable[[], object]] = {
        "forward": lambda: layer(x),
        "by input": lambda: backward(True, False, False),
        "by weight": lambda: backward(False, True, True),
    }
    if layer.in_channels == 1:
        del found["by input"]
    return {name: seconds(function) for name, function in found.items()}


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
    n_bytes = 0
    with freed_memory_kept(), torch.no_grad():
        for layer, x in convolutions(args.batch):
            out = layer(x)
            n_bytes += out.nbytes
            flop = 2 * out.numel() * layer.weight[0].numel()
            for name, taken in passes(layer, x, torch.randn_like(out)).items():
                update += taken
                forward += taken if name == "forward" else 0.0
                shape = f"{x.shape[1]} to {out.shape[1]}, {x.shape[2]} to {out.shape[2]} pixels"
                print(f"| {shape} | {name} | {1e3 * taken:.1f} | {flop / taken / 1e9:.0f} |")
        rate = bandwidth()
    moved = n_bytes / rate
    updates = args.updates * (update + 13 * moved)
    evaluations = args.evaluated / args.batch * (forward + 5 * moved)
    print(
        f"\nan update: convolutions {1e3 * update:.0f} ms, memory {13e3 * moved:.0f} ms at "
        f"{rate / 1e9:.1f} GB/s\n{args.updates} updates {updates:.0f} s, evaluation of "
        f"{args.evaluated} images {evaluations:.1f} s, together {updates + evaluations:.0f} s"
    )


if __name__ == "__main__":
    main()
