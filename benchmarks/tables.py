"""What tables, leaderboard and report of a large sweep cost, beside reading its records.

    python benchmarks/tables.py [--n_hparams 20] [--folder RUNS]

The sweep is made up: 11 algorithms on three datasets of four domains, one or two held out, three
trials, and 11 records in each run; with 20 draws of hparams that are 19,800 runs. Each measurement
is a process of its own: seconds of the processor, and peak memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATASETS = ("PACS", "VLCS", "OfficeHome")
N_DOMAINS, N_TRIALS, STEPS = 4, 3, range(0, 5001, 500)
ALGORITHMS = "ERM IRM GroupDRO Mixup MLDG CORAL MMD DANN SagNet VREx RSC".split()

MEASURE = """
import importlib, json, resource, sys
from domainbed.lib import reporting
{code}
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]), file=sys.stderr)
"""
READ = "from domainbed.scripts import lasting_objects\nwith lasting_objects(): "
COMMANDS = {
    "reading the records": READ + "every = reporting.read_records({folder!r})",
    "collect_results": "from domainbed.scripts.collect_results import main\n"
    "main(['--input_dir', {folder!r}])",
    "leaderboard": "from ratatouille_algorithms.scripts.leaderboard import main\n"
    "main(['--input_dir', {folder!r}])",
    "report": "from ratatouille_algorithms.scripts.report import main\n"
    "main(['--input_dir', {folder!r}, '--output', {page!r}])",
}


def write_sweep(root: Path, n_hparams: int) -> int:
    """Write the run folders; return how many."""
    rng = random.Random(0)
    envs = [*itertools.combinations(range(N_DOMAINS), 1), *itertools.combinations(range(4), 2)]
    seeds = itertools.product(range(N_TRIALS), range(n_hparams))
    jobs = list(itertools.product(DATASETS, ALGORITHMS, seeds, envs))
    for i, (dataset, algorithm, (trial, hparams_seed), test_envs) in enumerate(jobs):
        args = {"dataset": dataset, "algorithm": algorithm, "test_envs": list(test_envs)}
        args.update(trial_seed=trial, hparams_seed=hparams_seed, seed=i, holdout_fraction=0.2)
        args.update(dict.fromkeys("steps hparams checkpoint_freq foundation init".split()))
        args.update(protocol="default", task="domain_generalization", data_dir="/data/domainbed")
        hparams = {f"hparam_{n}": rng.random() for n in range(20)}
        hparams.update(lr=rng.random(), batch_size=32)
        folder = root / f"{i:032x}"
        folder.mkdir(parents=True)
        args["output_dir"] = str(folder)
        with open(folder / "results.jsonl", "w") as file:
            for step in STEPS:
                record = {"step": step, "args": args, "hparams": hparams, "loss": rng.random()}
                record.update(epoch=step / 100, step_time=0.25, mem_gb=7.5)
                for env, split in itertools.product(range(N_DOMAINS), ("in", "out")):
                    record[f"env{env}_{split}_acc"] = round(rng.random(), 3)
                file.write(json.dumps(record, sort_keys=True) + "\n")
        description = {"args": args, "hparams": hparams, "code_version": "0", "protocol": "default"}
        (folder / "run.json").write_text(json.dumps(description))
        (folder / "done").write_text("done")
    return len(jobs)


def measure(name: str, folder: Path, page: Path) -> tuple[float, float, float]:
    """Seconds of the processor, by the clock, and MiB at most."""
    code = MEASURE.format(code=COMMANDS[name].format(folder=str(folder), page=str(page)))
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, memory = json.loads(done.stderr.splitlines()[-1])
    return seconds, time.monotonic() - start, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n_hparams", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="the sweep's folder, made if it is not there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, page = args.folder or Path(temporary, "runs"), Path(temporary, "report.html")
        if not folder.exists():
            print(f"{write_sweep(folder, args.n_hparams):,} runs", flush=True)
        for name in COMMANDS:
            seconds, waited, memory = measure(name, folder, page)
            print(f"{name:<20} {seconds:6.1f} s {waited:6.1f} s by the clock {memory:6.0f} MiB")
        print(f"the page has {page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
