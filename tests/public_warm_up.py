"""Updates of public ModelRatatouille across the end of the warm-up of its head, in float64.

tests/golden/warm_up.json was written so, with a checkout of ModelRatatouille on PYTHONPATH:

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 python public_warm_up.py > warm_up.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from public_updates import double, seed_all

SHAPE, N_CLASSES, LP_STEPS, N_UPDATES = (1, 28, 28), 10, 20, 40
HPARAMS = {"lr": 1e-3, "weight_decay": 0.0, "resnet_dropout": 0.0, "batch_size": 8}


def minibatches(step: int) -> list:
    """Three domains of whole numbers / 1024, and labels."""
    generator = torch.Generator().manual_seed(step)
    return [
        (
            torch.randint(-2048, 2049, (8, *SHAPE), generator=generator) / 1024,
            torch.randint(0, N_CLASSES, (8,), generator=generator),
        )
        for _ in range(3)
    ]


def trained(algorithm: Any) -> dict[str, Any]:
    """The losses of all updates, and the sum of each parameter after them."""
    losses = [float(algorithm.update(minibatches(step))["loss"]) for step in range(N_UPDATES)]
    named = algorithm.named_parameters()
    return {"losses": losses, "final": {name: p.sum().item() for name, p in named}}


def main() -> None:
    from domainbed import algorithms

    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self
    out, sys.stdout = sys.stdout, sys.stderr  # it prints
    make = algorithms.get_algorithm_class("ERM")
    with double(), tempfile.TemporaryDirectory() as folder:
        start, auxiliary = str(Path(folder, "start.pkl")), str(Path(folder, "auxiliary.pkl"))
        hparams = {**HPARAMS, "lp_steps": LP_STEPS}
        for seed, path in ((0, start), (7, auxiliary)):
            seed_all(seed)
            first = make(SHAPE, N_CLASSES, hparams, what_is_trainable="all")
            if seed:
                torch.save(first.featurizer.state_dict(), path)
            else:
                first.save_path_for_future_init(path)
        more = {"path_init": start, "dict_featurizers_aux": {auxiliary: 1.0}}
        algorithm = make(SHAPE, N_CLASSES, hparams, what_is_trainable="all", **more)
        print(json.dumps(trained(algorithm)), file=out)


if __name__ == "__main__":
    main()
