"""Compare accuracies of whole runs here with those of public DomainBed, over many seeds.

    python benchmarks/agreement.py --upstream CHECKOUT[:FOLDER_OF_ITS_REQUIREMENTS...] --folder DIR
        [--seeds 48] [--steps 200] [--batch_size 16] [--jobs 2]

ERM on RotatedMNIST, one thread a run. For each seed both start from the same weights, on the same
digits in the same domains; what differs is which samples each step draws. So the mean difference
over seeds is 0 if both draw from the same distribution. Runs that DIR holds already are not run
again, so the command can be interrupted, and given more seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vs_domainbed import LIKE, Bench, train_words, write_mnist

Record = dict[str, float]

MEASURES: dict[str, Callable[[Record], float]] = {
    "test domain": lambda r: 0.8 * r["env0_in_acc"] + 0.2 * r["env0_out_acc"],
    "validation": lambda r: statistics.mean(r[f"env{env}_out_acc"] for env in range(1, 6)),
    "training": lambda r: statistics.mean(r[f"env{env}_in_acc"] for env in range(1, 6)),
}
"""Four fifths of a domain are its in split, the rest its out split."""


def run(
    bench: Bench, who: str, data: Path, folder: Path, seed: int, steps: int, batch: int
) -> Path:
    """Train one run if the folder does not hold it; return the folder."""
    place = folder / who / str(seed)
    if not (place / "run/done").exists():
        words = [*train_words(data, seed, steps, steps), "--skip_model_save"]
        words += ["--hparams", json.dumps({"batch_size": batch})]
        bench.run(who, words + (LIKE if who == "here" else []), place)
        print(f"{who}, seed {seed}", file=sys.stderr, flush=True)
    return place


def row(name: str, theirs: list[float], ours: list[float]) -> str:
    """One line of the table: means, standard deviations over seeds, the paired difference."""
    differences = [b - a for a, b in zip(theirs, ours)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(theirs) ** 0.5
    sides = (f"{statistics.mean(a):.1f} ({statistics.stdev(a):.1f})" for a in (theirs, ours))
    return f"| {name} | {' | '.join(sides)} | {mean:+.2f} +/- {error:.2f} | {mean / error:+.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upstream", required=True, metavar="PATH")
    parser.add_argument("--folder", required=True, type=Path, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    bench = Bench(1, DomainBed=args.upstream)
    folder = args.folder.absolute() / f"{args.steps}x{args.batch_size}"
    if not (args.folder / "data").exists():
        write_mnist(args.folder / "data")
    tasks = [(who, seed) for seed in range(args.seeds) for who in ("DomainBed", "here")]
    with ThreadPoolExecutor(args.jobs) as pool:
        places = list(pool.map(lambda task: run(bench, *task, folder, args), tasks))
    records = [
        json.loads((place / "run/results.jsonl").read_text().splitlines()[-1]) for place in places
    ]
    print(f"{args.seeds} seeds of {args.steps} steps of 5 x {args.batch_size}\n")
    print("| accuracy, % | DomainBed | here | difference | in standard errors |")
    print("|---|---|---|---|---|")
    for name, measure in MEASURES.items():
        values = [100 * measure(record) for record in records]
        print(row(name, values[::2], values[1::2]))


if __name__ == "__main__":
    main()
