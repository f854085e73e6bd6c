"""Images a second and core that reading and augmenting give, beside public DomainBed's.

    python benchmarks/input.py --upstream CHECKOUT[:FOLDER_OF_ITS_REQUIREMENTS...]

A folder of JPEGs is made in PACS's layout. Each measurement is a process of its own, theirs and
ours in turn, which builds the dataset, draws an epoch of training batches three times over, and
then reads all images for evaluation three times over. Seconds are those of the processor, of all
threads, so that images a second are those of one core; imports do not count, but the first epoch
includes building the dataset and, where there is one, its cache. Prints a Markdown table: medians,
and ratios with the least and the most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
BATCH, N_EPOCHS, TEST_ENV = 32, 3, 0
HPARAMS = {"data_augmentation": True, "class_balanced": False}


def write_photos(root: Path, size: int, n_per_class: int) -> int:
    """JPEGs of smooth shapes and some noise, quality 90; returns how many."""
    from PIL import Image

    rng = np.random.RandomState(0)
    for domain, label in itertools.product(DOMAINS, range(7)):
        folder = root / "PACS" / domain / f"class{label}"
        folder.mkdir(parents=True)
        for i in range(n_per_class):
            coarse = rng.randint(0, 256, (12, 12, 3), np.uint8)
            smooth = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            noisy = np.asarray(smooth, np.int16) + rng.randint(-10, 11, (size, size, 1))
            photo = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            photo.save(folder / f"{i}.jpg", quality=90)
    return len(DOMAINS) * 7 * n_per_class


Loaders = tuple[float, Callable[[int], Iterator[Any]], Callable[[], Iterator[Any]]]
"""When the work began, and functions that yield the batches of an epoch and of an evaluation."""


def upstream_loaders(root: str) -> Loaders:
    """DomainBed's own."""
    import torchvision.transforms  # noqa: F401

    from domainbed import datasets
    from domainbed.lib.fast_data_loader import FastDataLoader, InfiniteDataLoader

    start = time.process_time()
    dataset = datasets.PACS(root, [TEST_ENV], HPARAMS)
    train = [
        iter(InfiniteDataLoader(dataset=env, weights=None, batch_size=BATCH, num_workers=0))
        for i, env in enumerate(dataset)
        if i != TEST_ENV
    ]
    n_steps = max(1, sum(map(len, dataset)) // (BATCH * len(train)))

    def train_epoch(epoch: int) -> Iterator[Any]:
        return (next(loader) for _ in range(n_steps) for loader in train)

    def evaluation() -> Iterator[Any]:
        for env in dataset:
            yield from FastDataLoader(dataset=env, batch_size=64, num_workers=0)

    return start, train_epoch, evaluation


def our_loaders(root: str, cache: str | None) -> Loaders:
    """Ours, as runs have them."""
    import torchvision.transforms  # noqa: F401

    from domainbed import datasets
    from domainbed.datasets import augmentation, decoding  # noqa: F401
    from domainbed.datasets.base import evaluation_view
    from domainbed.engine.evaluator import BATCH_OF_FILES
    from domainbed.engine.loading import Sequential, Source, Stream

    start = time.process_time()
    decoding.MEMORY_LIMIT = 0  # what is measured stands for a dataset of any size
    dataset = datasets.make("PACS", root, [TEST_ENV], {**HPARAMS, "image_cache": cache})
    sources = [
        Source(str(i), env, range(len(env))) for i, env in enumerate(dataset) if i != TEST_ENV
    ]
    stream = Stream(sources, BATCH, seed=0)
    n_steps = max(1, sum(map(len, dataset)) // (BATCH * len(sources)))

    def train_epoch(epoch: int) -> Iterator[Any]:
        steps = stream.steps(epoch * n_steps, (epoch + 1) * n_steps, num_workers=0)
        return itertools.chain.from_iterable(steps)

    def evaluation() -> Iterator[Any]:
        for i, env in enumerate(dataset):
            yield from Sequential(evaluation_view(env), range(len(env)), BATCH_OF_FILES, i)

    return start, train_epoch, evaluation


def measure(what: str, root: str, cache: str | None) -> None:
    """Print images per CPU second of each epoch as JSON."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    loaders = upstream_loaders(root) if what == "upstream" else our_loaders(root, cache)
    start, train_epoch, evaluation = loaders
    rates: dict[str, list[float]] = {"train": [], "evaluation": []}
    for epoch in range(N_EPOCHS):
        n = sum(len(y) for _, y in train_epoch(epoch))
        rates["train"].append(n / (time.process_time() - start))
        start = time.process_time()
    for _ in range(N_EPOCHS):
        n = sum(len(y) for _, y in evaluation())
        rates["evaluation"].append(n / (time.process_time() - start))
        start = time.process_time()
    first, *later = rates["train"]
    values = {"first epoch": first, "later epochs": statistics.median(later)}
    first, *later = rates["evaluation"]
    print(json.dumps({**values, "evaluation": statistics.median([first, *later])}))


def measured(what: str, root: Path, cache: Path | None, path: str | None) -> dict[str, float]:
    """One measurement in a process of its own, whose imports come from `path` first."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("DOMAINBED_IMAGE_CACHE", None)
    if path:
        env["PYTHONPATH"] = path
    command = [
        sys.executable,
        __file__,
        "--measure",
        what,
        str(root),
        *([str(cache)] * bool(cache)),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def compare(size: int, n_per_class: int, repeats: int, upstream: str | None) -> None:
    """Print the rows of one size of images."""
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        n = write_photos(root, size, n_per_class)
        for i in range(repeats):
            if upstream:
                found = measured("upstream", root, None, upstream)
                results.setdefault("DomainBed", []).append(found)
            results.setdefault("no cache", []).append(measured("ours", root, None, None))
            cache = root / f"cache{i}"
            results.setdefault("cache built", []).append(measured("ours", root, cache, None))
            results.setdefault("cache there", []).append(measured("ours", root, cache, None))
    for name, found in results.items():
        cells = []
        for key in ("first epoch", "later epochs", "evaluation"):
            rates = [rate[key] for rate in found]
            cell = f"{statistics.median(rates):.0f}"
            if upstream and name != "DomainBed":
                ratios = [rate[key] / base[key] for rate, base in zip(found, results["DomainBed"])]
                middle = statistics.median(ratios)
                cell += f" (x {middle:.2f}, {min(ratios):.2f} to {max(ratios):.2f})"
            cells.append(cell)
        print(f"| {size} pixels, {n} images | {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", metavar="PATH", help="checkout of public DomainBed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[227, 500])
    parser.add_argument("--n_per_class", type=int, default=20, help="images of a class and domain")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, root, *cache = args.measure
        measure(what, root, cache[0] if cache else None)
        return
    print(
        "| images/s per core | | first epoch | later epochs | evaluation |\n|---|---|---|---|---|"
    )
    for size in args.sizes:
        compare(size, args.n_per_class, args.repeats, args.upstream)


if __name__ == "__main__":
    main()
