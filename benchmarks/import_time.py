"""CPU seconds of collect_results on a small sweep, from start to end of its process."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def write_sweep(root: Path, n_runs: int) -> None:
    for i in range(n_runs):
        args = {"dataset": "PACS", "algorithm": "ERM", "test_envs": [i % 4], "trial_seed": i // 80}
        args.update(hparams_seed=i // 4 % 20, seed=i, task="domain_generalization")
        (root / str(i)).mkdir()
        with open(root / str(i) / "results.jsonl", "w") as file:
            for step in range(0, 5001, 300):
                record = {"step": step, "args": args, "hparams": {"lr": 5e-5}}
                for env in range(4):
                    for split in ("in", "out"):
                        record[f"env{env}_{split}_acc"] = (i * 7 + step * 3 + env) % 100 / 100
                file.write(json.dumps(record) + "\n")


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        write_sweep(Path(root), args.runs)
        ours = [sys.executable, "-m", "domainbed.scripts.collect_results", "--input_dir", root]
        rows = {"collect_results": ours, "python alone": [sys.executable, "-c", "pass"]}
        rows["import torch"] = [sys.executable, "-c", "import torch"]
        for name, command in rows.items():
            times = [cpu_seconds(command) for _ in range(args.repeats)]
            print(f"{name:16} median {statistics.median(times):.2f} s CPU "
                  f"({min(times):.2f} to {max(times):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
