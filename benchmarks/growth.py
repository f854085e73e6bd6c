"""How the cost of sweeps, averages and datasets grows with their size, with the exponent.

    python benchmarks/growth.py [--largest 100000] [--plot growth.png]

Each measurement is a process of its own: seconds of the processor without imports, and peak memory.
The exponent is the slope of a line through the logarithms of the larger sizes and their seconds
beyond those of the smallest; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

RUN = """
import json, sys, time
from pathlib import Path
import torch
from domainbed import preflight
from domainbed.scripts import collect_results, sweep
from domainbed.engine.loading import Source, Stream
from ratatouille_algorithms import weights
start = time.process_time()
{code}
seconds = time.process_time() - start
status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
print(json.dumps([seconds, int(status.split()[0]) / 1024]))
"""
SWEEP = ["--datasets", "Debug28", "--algorithms", "ERM", "--single_test_envs", "--n_trials", "1"]
PLAN = """
sys.stdout = open("/dev/null", "w")
sweep.main({words!r})
sys.stdout = sys.__stdout__
"""
LAUNCH = """
import domainbed.command_launchers as launchers
from domainbed.runs import RunFolder
preflight.check = lambda jobs: None
def pretend(queue, _):
    while (command := queue.take()) is not None:
        folder = RunFolder(queue.running[command].output_dir)
        text = {record!r}.replace('"hparams_seed": 0', f'"hparams_seed": {{len(queue.done)}}')
        (folder / "results.jsonl").write_text(text)
        (folder / "done").write_text("done")
        queue.ended(command, 1.0)
launchers.REGISTRY._items["pretend"] = type("", (), {{"launch_queue": staticmethod(pretend)}})
"""
INDEX = """
samples = torch.utils.data.TensorDataset(torch.zeros({n}, 1), torch.zeros({n}))
stream = Stream([Source("0", samples, range({n}))], 32, 0)
for i, batch in enumerate(stream.steps(0, 100, 0)):
    pass
"""
AVERAGE = """
paths = sorted(Path({folder!r}).glob("*.safetensors"))[:{n}]
weights.uniform(paths, {{"w": torch.zeros(1_000_000)}})
"""


def measure(code: str) -> tuple[float, float]:
    """Processor seconds and peak MiB of Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(code=code)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def record() -> str:
    """A record of a run, of the usual length."""
    args = {"dataset": "Debug28", "algorithm": "ERM", "test_envs": [0], "trial_seed": 0}
    accs = {f"env{i}_{split}_acc": 0.5 for i in range(3) for split in ("in", "out")}
    return (
        json.dumps({"args": {**args, "hparams_seed": 0}, "hparams": {}, "step": 0, **accs}) + "\n"
    )


def sweeps(sizes: list[int], root: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Launching, asking for the status of, and collecting sweeps whose jobs take no time."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for n in sizes:
        words = [*SWEEP, "--n_hparams", str(math.ceil(n / 3)), "--output_dir", str(root / str(n))]
        launch = ["launch", *words, "--skip_confirmation", "--command_launcher", "pretend"]
        cases = {
            "sweep launch": LAUNCH.format(record=record()) + PLAN.format(words=launch),
            "sweep status": PLAN.format(words=["status", *words]),
            "collect_results": PLAN.replace("sweep.main", "collect_results.main").format(
                words=["--input_dir", str(root / str(n))]
            ),
        }
        for name, code in cases.items():
            found.setdefault(name, []).append((n, *measure(code)))
    return found


def indices(sizes: list[int]) -> list[tuple[int, float, float]]:
    """100 batches of a domain of n samples."""
    return [(n, *measure(INDEX.format(n=n))) for n in sizes]


def averages(sizes: list[int], root: Path) -> list[tuple[int, float, float]]:
    """The mean of n files of 4 MB."""
    import torch

    from domainbed.lib import weights

    for i in range(max(sizes)):
        weights.save(root / f"{i:04}.safetensors", {"w": torch.randn(1_000_000)}, {})
    return [(n, *measure(AVERAGE.format(folder=str(root), n=n))) for n in sizes]


def exponent(rows: list[tuple[int, float, float]]) -> float:
    """The slope in logarithms, over the larger half of the sizes, of what exceeds the smallest."""
    import numpy as np

    base = rows[0][1]
    points = [(math.log(n), math.log(s - base)) for n, s, _ in rows if s > 2 * base]
    return float(np.polyfit(*zip(*points), 1)[0]) if len(points) > 1 else 0.0


def plot(found: dict[str, list[tuple[int, float, float]]], path: str) -> None:
    """Seconds against size, both on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, rows in found.items():
        axes.loglog([n for n, *_ in rows], [s for _, s, _ in rows], marker="o", label=name)
    axes.set(xlabel="size", ylabel="processor seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=100_000, help="run folders of a sweep")
    parser.add_argument("--plot", metavar="PNG")
    args = parser.parse_args()
    sizes = [n for n in (10, 100, 1000, 10_000, 30_000, 100_000) if n <= args.largest]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "weights").mkdir()
        found = sweeps(sizes, Path(place))
        found["mean of files"] = averages([5, 20, 60, 200], Path(place) / "weights")
    found["100 batches of an index"] = indices([1000, 10_000, 100_000, 1_000_000])
    print("| | size: processor seconds (peak MiB) | exponent |\n|---|---|---|")
    for name, rows in found.items():
        cells = ", ".join(f"{n:,}: {s:.1f} ({peak:.0f})" for n, s, peak in rows)
        print(f"| {name} | {cells} | {exponent(rows):.2f} |")
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
