"""Train algorithms of whichever `domainbed` is on the path for some updates; write what they did.

Run as `python public_updates.py CASES OUT`, with public DomainBed or this package on PYTHONPATH.
From one seed both start with the same weights. tests/golden/public_draws.json was written so:

    python public_updates.py --cases > cases.json
    PYTHONPATH=checkout_of_public_domainbed python public_updates.py cases.json out.json
    python public_updates.py --golden cases.json out.json > public_draws.json
"""

from __future__ import annotations

import json
import random
import sys
import traceback
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


def cases() -> list[Case]:
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


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def minibatches(seed: int, shape: list[int]) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(BATCH, *shape, generator=generator),
            torch.randint(0, N_CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(N_DOMAINS)
    ]


def hparams_of(case: Case) -> dict[str, Any]:
    """Drawn values in plain types, some replaced."""
    from domainbed import hparams_registry

    drawn = hparams_registry.random_hparams(case["algorithm"], case["draw_for"], case["draw_seed"])
    drawn = {name: v.item() if hasattr(v, "item") else v for name, v in drawn.items()}
    return {**SMALL, **drawn, **{name: v for name, v in INSTEAD.items() if name in drawn}}


def run(case: Case) -> dict[str, Any]:
    """The values of each update, and logits of a new batch after them."""
    from domainbed import algorithms

    seed_all(0)
    cls = algorithms.get_algorithm_class(case["algorithm"])
    shape = case["input_shape"]
    algorithm = cls(tuple(shape), N_CLASSES, N_DOMAINS, hparams_of(case))
    updates = []
    for step in range(N_UPDATES):
        seed_all(1000 + step)
        values = algorithm.update(minibatches(step, shape), None)
        updates.append({key: float(value) for key, value in values.items()})
    algorithm.eval()
    seed_all(5)
    with torch.no_grad():
        logits = algorithm.predict(minibatches(99, shape)[0][0])
    return {"updates": updates, "logits": logits[:2].tolist()}


def run_or_tell(case: Case) -> dict[str, Any]:
    try:
        return run(case)
    except Exception:
        return {"error": traceback.format_exc(limit=-2)}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def main(*argv: str) -> None:
    if argv == ("--cases",):
        print(json.dumps(cases()))
    elif argv[0] == "--golden":
        every, done = (json.load(open(name)) for name in argv[1:])
        rows = [{**case, **rounded(row)} for case, row in zip(every, done)]
        print("[" + ",\n".join(json.dumps(row) for row in rows) + "]")
    else:
        torch.Tensor.cuda = lambda self, *_: self  # some classes ask for a GPU that need none
        torch.nn.Module.cuda = lambda self, *_: self
        torch.set_num_threads(1)
        done = [run_or_tell(case) for case in json.load(open(argv[0]))]
        with open(argv[1], "w") as file:
            json.dump(done, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
