"""The floating-point rate of training, against that of the same kernels alone in a loop.

    python benchmarks/utilisation.py [--precision bf16] [--threads 1]

The kernels are the convolutions and linear layers of a network, forward and backward, each by
itself on tensors of its shapes, the fastest of several rounds. Training is what a run does between
two checkpoints: load, augment, update. Operations are counted by torch. Ends with exit code 1 if
the share is below 60 % anywhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from domainbed.engine import initial_weights
from domainbed.engine.options import Options
from domainbed.engine.run import Run

sys.path.insert(0, str(Path(__file__).parent))
from input import write_photos

LEAST = 0.6
N_UPDATES, N_ROUNDS = 8, 5


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


def operations(run: Run, algorithm: Any) -> int:
    """Floating-point operations of an update."""
    with FlopCounterMode(display=False) as counter:
        updates(run, algorithm, 1)
    return counter.get_total_flops() // 3  # that one, and the two before it


def calls(run: Run, algorithm: Any) -> list[tuple[nn.Module, torch.Tensor]]:
    """Each convolution and linear layer with an input that it gets, in order."""
    seen: list[tuple[nn.Module, torch.Tensor]] = []

    def note(module: nn.Module, args: tuple[torch.Tensor, ...], _: Any) -> None:
        seen.append((module, args[0].detach().clone()))

    kernels = [m for m in algorithm.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [module.register_forward_hook(note) for module in kernels]
    ((minibatches),) = [next(iter(run.stream().steps(0, 1, 0)))]
    algorithm.update([(x.to(run.device), y.to(run.device)) for x, y in minibatches])
    for hook in hooks:
        hook.remove()
    return seen


def alone(module: nn.Module, x: torch.Tensor, is_first: bool) -> float:
    """Seconds of a layer by itself, forward and backward; the first one's input has no gradient."""
    x = x.requires_grad_(not is_first)
    wanted = [*([] if is_first else [x]), *module.parameters()]
    out = module(x)
    grad, least = torch.randn_like(out), float("inf")
    for _ in range(N_ROUNDS):
        start = time.perf_counter()
        torch.autograd.grad(module(x), wanted, grad)
        least = min(least, time.perf_counter() - start)
    return least


def measure(name: str, options: Options) -> float:
    """Print the line of one kind of run; return the share."""
    run = Run(options, {})
    algorithm = run.build()
    initial_weights.start(run, algorithm)
    algorithm.train()
    n_operations = operations(run, algorithm)
    seconds = updates(run, algorithm, N_UPDATES)
    is_bf16 = options.precision == "bf16"
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        layers = calls(run, algorithm)
        kernels = sum(alone(module, x, i == 0) for i, (module, x) in enumerate(layers))
    rates = [n_operations / s / 1e9 for s in (seconds, kernels)]
    share = rates[0] / rates[1]
    print(
        f"| {name} | {n_operations / 1e9:.1f} | {seconds:.3f} | {rates[0]:.0f} | {rates[1]:.0f} "
        f"| {100 * share:.0f} % |",
        flush=True,
    )
    return share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, {args.precision}\n")
    print("| | GFLOP an update | seconds | GFLOP/s training | GFLOP/s kernels alone | share |")
    print("|---|---|---|---|---|---|")
    common: dict[str, Any] = {"test_envs": (0,), "precision": args.precision}
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), 227, 12)
        digits = Options(dataset="RotatedDigits", **common)
        shares = [measure("RotatedDigits, MNIST_CNN, 3 x 8", digits)]
        for backbone, flag in (("ResNet-18", "true"), ("ResNet-50", "false")):
            hparams = f'{{"resnet18": {flag}, "batch_size": 8}}'
            photos = Options(
                dataset="PACS", data_dir=folder, hparams=hparams, foundation="random", **common
            )
            shares.append(measure(f"PACS, {backbone}, 3 x 8", photos))
    return 0 if min(shares) >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
