"""Seconds and peak memory of a uniform average of M weight files, against reading the files.

The average is written to a file, or put into a network's tensors. Each measurement is a process of
its own, so that its peak is its own. Files hold random weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_members(root: Path, n: int, backbone: str) -> list[Path]:
    import torch

    from domainbed import networks
    from domainbed.lib import weights

    hparams = {"backbone": backbone, "foundation": "random", "resnet_dropout": 0.0}
    shape = (1, 28, 28) if backbone == "mnist_cnn" else (3, 224, 224)
    net = networks.Featurizer(shape, {**hparams, "freeze_bn": True, "resnet50_augmix": False})
    paths = [root / f"{i}.safetensors" for i in range(n)]
    for path in paths:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_()
        weights.save(path, net.state_dict(), {})
    return paths


def peak_mib() -> float:
    """Peak resident memory of this process, from Linux; getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return int(status.split()[0]) / 1024


def read(paths: list[Path]) -> None:
    for path in paths:
        path.read_bytes()


def write(paths: list[Path]) -> None:
    """What the command `average` does; it needs no torch."""
    from ratatouille_algorithms import means

    with tempfile.TemporaryDirectory() as folder:
        means.write_uniform(paths, Path(folder) / "mean.safetensors", {})


def put(paths: list[Path]) -> None:
    """What jobs do: the mean goes into a network's tensors."""
    import torch

    from domainbed.lib import stored
    from ratatouille_algorithms import weights

    into = {name: torch.empty(tensor.shape) for name, tensor in stored.tensors(paths[0]).items()}
    weights.uniform(paths, into)


WAYS = {"read": read, "write": write, "put": put}


def measure(way: str, paths: list[Path]) -> None:
    """Print seconds that one of `WAYS` takes once all is imported, and its peak memory."""
    WAYS[way](paths[:1])
    start = time.perf_counter()
    WAYS[way](paths)
    print(f"{time.perf_counter() - start} {peak_mib()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], [Path(path) for path in args.measure[1:]])
        return
    for n in args.members:
        with tempfile.TemporaryDirectory() as root:
            paths = list(map(str, write_members(Path(root), n, args.backbone)))
            size = Path(paths[0]).stat().st_size / 2**20
            results = {}
            for way in WAYS:
                command = [sys.executable, __file__, "--measure", way, *paths]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[way] = list(map(float, out.split()))
            print(f"{n} files of {size:.1f} MiB")
            for way, (seconds, peak) in results.items():
                ratio = results["read"][0] / seconds
                print(f"{way:6} {seconds:.2f} s, {ratio:.2f} of reading's speed, {peak:.0f} MiB")


if __name__ == "__main__":
    main()
