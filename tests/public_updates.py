"""Train algorithms of whichever `domainbed` is on the path for some updates; write what they did.

Everything is drawn and computed in float64, and inputs are multiples of 1/1024, so that the figures
are the same on every processor, to rounding. Golden figures of public DomainBed are written so:

    python public_updates.py --cases DRAWS|DEFAULTS > cases.json
    PYTHONPATH=checkout_of_public_domainbed python public_updates.py cases.json out.json
    python public_updates.py --golden cases.json out.json > golden.json

with DRAWS for tests/golden/public_draws.json and DEFAULTS for tests/golden/public_defaults.json.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

Case = dict[str, Any]

N_CLASSES, N_DOMAINS, BATCH, N_UPDATES = 4, 3, 8, 5
SMALL = {"mlp_width": 32, "mlp_depth": 3, "mlp_dropout": 0.0}
"""Public networks of vectors need these, which most algorithms do not have."""
INSTEAD = {
    "irm_penalty_anneal_iters": 2,
    "vrex_penalty_anneal_iters": 2,
    "ib_penalty_anneal_iters": 2,
    "rdm_penalty_anneal_iters": 2,
    "penalty_anneal_iters": 2,
    "eqrm_burnin_iters": 2,
    "iters": 2,
    "linear_steps": 2,
    "gda": False,
}
"""In place of draws: penalties set in after two updates; with gda, public learns nothing."""


def draws() -> list[Case]:
    """Three draws of each algorithm; vectors, but for ARM, which there takes images alone."""
    from domainbed import algorithms

    return [
        {
            "algorithm": name,
            "draw_for": dataset,
            "draw_seed": seed,
            "input_shape": [3, 28, 28] if name == "ARM" else [12],
        }
        for name in algorithms.ALGORITHMS
        for dataset, seed in (("Debug28", 1), ("PACS", 2), ("DomainNet", 3))
    ]


def defaults() -> list[Case]:
    """Images and the defaults for them; and Transfer with updates that its radius cuts short."""
    from domainbed import algorithms

    named = [(name, {}) for name in algorithms.ALGORITHMS]
    named.append(("Transfer", {"delta": 1e-3, "lr_d": 0.1, "d_steps_per_g": 2}))
    return [
        {
            "algorithm": name,
            "draw_for": "Debug28",
            "draw_seed": None,
            "input_shape": [3, 28, 28],
            "hparams": {"data_augmentation": False, **own},
        }
        for name, own in named
    ]


def of_vectors() -> list[Case]:
    """The defaults on vectors, which take less time; ARM takes images alone."""
    names = {case["algorithm"]: case for case in defaults() if case["algorithm"] != "ARM"}
    vectors = [{**case, "input_shape": [12]} for case in names.values()]
    return [*vectors, next(case for case in defaults() if case["algorithm"] == "ARM")]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def double() -> Iterator[None]:
    """Draw and compute in float64 meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def minibatches(seed: int, shape: list[int]) -> list:
    """Whole numbers / 1024, which every floating-point type holds exactly, and labels."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(-2048, 2049, (BATCH, *shape), generator=generator) / 1024,
            torch.randint(0, N_CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(N_DOMAINS)
    ]


def hparams_of(case: Case) -> dict[str, Any]:
    """Defaults or drawn values in plain types, some replaced."""
    from domainbed import hparams_registry

    name, dataset, seed = case["algorithm"], case["draw_for"], case["draw_seed"]
    if seed is None:
        values = hparams_registry.default_hparams(name, dataset)
    else:
        values = hparams_registry.random_hparams(name, dataset, seed)
    values = {name: v.item() if hasattr(v, "item") else v for name, v in values.items()}
    values.update({name: v for name, v in INSTEAD.items() if name in values})
    return {**SMALL, **values, **case.get("hparams", {})}


def sums(algorithm: torch.nn.Module) -> dict[str, float]:
    """The sum of each parameter that both name.

    Public Fish has a second network for a while, public TRM's classifiers of domains have no names.
    """
    named = algorithm.named_parameters()
    return {k: p.sum().item() for k, p in named if not k.startswith(("network_inner", "clist"))}


def run(case: Case, n_updates: int = N_UPDATES) -> dict[str, Any]:
    """The values of each update, logits of a new batch after them, sums of all parameters."""
    from domainbed import algorithms

    with double():
        seed_all(0)
        cls = algorithms.get_algorithm_class(case["algorithm"])
        shape = case["input_shape"]
        algorithm = cls(tuple(shape), N_CLASSES, N_DOMAINS, hparams_of(case)).to(torch.float64)
        initial, updates = sums(algorithm), []
        for step in range(n_updates):
            seed_all(step)
            torch.manual_seed(1000 + step)
            values = algorithm.update(minibatches(step, shape), None)
            updates.append({key: float(value) for key, value in values.items()})
        algorithm.eval()
        seed_all(999)
        with torch.no_grad():
            logits = algorithm.predict(minibatches(999, shape)[0][0])
        final = sums(algorithm)
    return {"initial": initial, "updates": updates, "logits": logits[:2].tolist(), "final": final}


def difference(row: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two rows, relative to the second, whose numbers count 1e-4."""
    if isinstance(other, dict):
        assert row.keys() == other.keys(), f"{sorted(row)} and {sorted(other)}"
        return max((difference(row[key], other[key]) for key in other), default=0.0)
    if isinstance(other, list):
        assert len(row) == len(other), f"{len(row)} and {len(other)} entries"
        return max((difference(a, b) for a, b in zip(row, other)), default=0.0)
    return abs(row - other) / max(abs(other), 1e-4)


def run_or_tell(case: Case, n_updates: int) -> dict[str, Any]:
    try:
        return run(case, n_updates)
    except Exception:
        return {"error": traceback.format_exc(limit=-2)}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


def main(*argv: str) -> None:
    if argv[0] == "--cases":
        print(json.dumps({"DRAWS": draws, "DEFAULTS": defaults, "VECTORS": of_vectors}[argv[1]]()))
    elif argv[0] == "--golden":
        every, done = (json.load(open(name)) for name in argv[1:])
        rows = [{**case, **rounded(row)} for case, row in zip(every, done)]
        print("[" + ",\n".join(json.dumps(row) for row in rows) + "]")
    else:
        torch.Tensor.cuda = lambda self, *_: self  # some classes ask for a GPU that need none
        torch.nn.Module.cuda = lambda self, *_: self
        torch.set_num_threads(1)
        n_updates = int(argv[2]) if argv[2:] else N_UPDATES
        done = [run_or_tell(case, n_updates) for case in json.load(open(argv[0]))]
        with open(argv[1], "w") as file:
            json.dump(done, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
