"""Records of sweeps as they come: incomplete, tied, restarted, diverged; and public tables of them.

Run as `python random_records.py DIR SEED...` with public DomainBed on PYTHONPATH, it writes a sweep
for each seed into DIR, and prints what public collect_results prints for it, plain and as LaTeX.
tests/golden/random_tables.json was written so:

    PYTHONPATH=checkout_of_public_domainbed \
        python random_records.py DIR 1193 1203 1026 1155 1210 1087 > random_tables.json
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import runpy
import sys
from pathlib import Path

N_DOMAINS = {"PACS": 4, "VLCS": 4, "OfficeHome": 4, "RotatedMNIST": 6, "ColoredMNIST": 3}
ALGORITHMS = ["ERM", "IRM", "VREx", "URM", "Mine", "Another"]


def write_sweep(root: Path, seed: int) -> None:
    """Write the run folders of a made-up sweep, some of which lack something."""
    rng = random.Random(seed)
    digits, n_steps = rng.choice((1, 2, 4)), rng.randint(1, 4)  # few digits make ties
    complete, has_pairs = rng.choice((1.0, 0.95, 0.7)), rng.random() < 0.6
    for dataset in rng.sample(sorted(N_DOMAINS), rng.randint(1, 3)):
        n = N_DOMAINS[dataset]
        test_envs = [[i] for i in range(n)]
        if has_pairs:
            test_envs += [[i, j] for i in range(n) for j in range(i + 1, n)]
        for algorithm in rng.sample(ALGORITHMS, rng.randint(1, 4)):
            for trial in range(rng.randint(1, 3)):
                for hparams_seed in range(rng.randint(1, 4)):
                    for envs in test_envs:
                        if rng.random() < complete:
                            args = {
                                "dataset": dataset,
                                "algorithm": algorithm,
                                "test_envs": envs,
                                "trial_seed": trial,
                                "hparams_seed": hparams_seed,
                                "holdout_fraction": 0.2,
                                "steps": None,
                                "hparams": None,
                            }
                            write_run(root, rng, args, n, n_steps, digits)


def write_run(
    root: Path, rng: random.Random, args: dict, n: int, n_steps: int, digits: int
) -> None:
    folder = root / f"{rng.getrandbits(128):032x}"
    folder.mkdir(parents=True)
    lines = []
    for _ in range(2 if rng.random() < 0.05 else 1):  # some were started anew
        for step in range(n_steps if rng.random() < 0.9 else rng.randint(1, n_steps)):
            loss = float("nan") if rng.random() < 0.05 else rng.random()
            record = {"step": 100 * step, "loss": loss, "args": args, "hparams": {"lr": 0.1}}
            for env in range(n):
                for split in ("in", "out"):
                    record[f"env{env}_{split}_acc"] = round(rng.random(), digits)
            lines.append(json.dumps(record, sort_keys=True))
    if rng.random() < 0.05:  # some were sorted by something else
        rng.shuffle(lines)
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "done").write_text("done")


def public_tables(folder: Path) -> dict[str, str]:
    """What public collect_results prints, with folders in sorted order."""
    list_folder, printed = os.listdir, {}
    os.listdir = lambda path: sorted(list_folder(path))
    try:
        for kind, flags in (("txt", []), ("tex", ["--latex"])):
            sys.argv = ["collect_results", "--input_dir", str(folder), *flags]
            out, bar = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(bar):
                runpy.run_module("domainbed.scripts.collect_results", run_name="__main__")
            printed[kind] = out.getvalue()
    finally:
        os.listdir = list_folder
    return printed


def main(root: str, *seeds: str) -> None:
    tables = {}
    for seed in seeds:
        write_sweep(Path(root, seed), int(seed))
        tables[seed] = public_tables(Path(root, seed))
    print(json.dumps(tables, indent=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
