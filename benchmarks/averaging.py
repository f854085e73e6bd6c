"""Seconds and peak memory of a uniform average of M weight files, against reading the files.

Each measurement is a process of its own, so that its peak is its own. Files hold random weights.
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


def measure(what: str, paths: list[str]) -> None:
    """Print seconds and MB that `what` took beyond what the process had after its imports."""
    import torch

    from domainbed.lib import weights as files
    from ratatouille_algorithms import weights

    torch.set_num_threads(1)
    before = peak_mib()
    start = time.perf_counter()
    if what == "average":
        with files.opened(paths[0]) as file:
            into = {n: torch.empty(file.get_slice(n).get_shape()) for n in file.keys()}
        weights.uniform([Path(path) for path in paths], into)
    elif what == "read":
        for path in paths:
            Path(path).read_bytes()
    seconds = time.perf_counter() - start
    print(f"{seconds} {peak_mib() - before} {peak_mib()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], args.measure[1:])
        return
    for n in args.members:
        with tempfile.TemporaryDirectory() as root:
            paths = list(map(str, write_members(Path(root), n, args.backbone)))
            size = Path(paths[0]).stat().st_size / 2**20
            results = {}
            for what in ("read", "average"):
                command = [sys.executable, __file__, "--measure", what, *paths]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[what] = list(map(float, out.split()))
            (read_s, _, _), (s, more, peak) = results["read"], results["average"]
            print(
                f"M = {n}, files of {size:.1f} MiB: {s:.2f} s, {read_s / s:.2f} of the speed of "
                f"reading them; {more / size:.2f} networks ({more:.0f} MiB) above the imports, "
                f"{peak:.0f} MiB in all"
            )


if __name__ == "__main__":
    main()
