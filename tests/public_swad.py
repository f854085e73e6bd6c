"""Which segments public SWAD averages, of made-up curves of validation losses.

Run as `python public_swad.py CHECKOUT N` with a checkout of https://github.com/khanrc/swad, it
prints N curves and how often each segment counts. tests/golden/swad_members.json was written so:

    python public_swad.py CHECKOUT 40 > swad_members.json
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

Curve = dict[str, Any]


def curve(seed: int) -> Curve:
    """Losses at 8 to 40 checkpoints: a walk, a fall, noise or a plateau with ties."""
    rng = random.Random(seed)
    kind, value, losses = rng.choice(["walk", "fall", "noise", "plateau"]), 1.0, []
    for i in range(rng.randint(8, 40)):
        value = max(0.05, value + rng.gauss(-0.03, 0.12))
        losses.append(
            {
                "walk": value,
                "fall": 1 / (1 + 0.3 * i) + 0.1 * rng.random(),
                "noise": rng.random() + 0.2,
                "plateau": round(max(0.2, 1 - 0.1 * i) + 0.1 * rng.random(), 1),
            }[kind]
        )
    rule = (3, 6, 0.3)
    if seed % 2:
        rule = (rng.randint(1, 5), rng.randint(1, 8), rng.choice([0.1, 0.3, 0.5]))
    losses = [round(loss, 4) for loss in losses]
    return {"losses": losses, **dict(zip(("n_converge", "n_tolerance", "tolerance"), rule))}


def public(checkout: str) -> tuple[Any, Any]:
    """Its module of SWAD and that of averages, without the rest, which wants a GPU."""
    found = []
    for name, file in (("domainbed.lib.swa_utils", "lib/swa_utils.py"), ("swad", "swad.py")):
        spec = importlib.util.spec_from_file_location(name, Path(checkout, "domainbed", file))
        module = importlib.util.module_from_spec(spec)
        for parent in ("domainbed", "domainbed.lib"):
            sys.modules.setdefault(parent, types.ModuleType(parent))
        sys.modules[name] = module
        sys.modules["domainbed.lib"].swa_utils = sys.modules["domainbed.lib.swa_utils"]
        spec.loader.exec_module(module)
        found.append(module)
    return found[1], found[0]


def members(swad: Any, averages: Any, about: Curve) -> list[int]:
    """How often each segment counts in its average; segment i is the i-th unit vector."""
    import torch

    torch.nn.Module.cuda = lambda self, *_: self
    losses = about["losses"]

    def network(i: int) -> torch.nn.Module:
        module = torch.nn.Module()
        module.w = torch.nn.Parameter(torch.eye(len(losses), dtype=torch.float64)[i].clone())
        module.featurizer = module.classifier = module.network = torch.nn.Identity()
        return module

    quiet = types.SimpleNamespace(error=lambda *_: None)
    rule = [about[key] for key in ("n_converge", "n_tolerance", "tolerance")]
    valley = swad.LossValley(types.SimpleNamespace(logger=quiet), *rule)
    for i, loss in enumerate(losses):
        segment = averages.AveragedModel(network(i))
        segment.update_parameters(network(i), step=10 * (i + 1))
        segment.start_step, segment.end_step = 10 * i, 10 * (i + 1)
        valley.update_and_evaluate(segment, 0.5, loss, lambda *_: None)
        if valley.dead_valley:
            break
    mean = dict(valley.get_final_model().named_parameters())["module.w"].tolist()
    least = min(share for share in mean if share > 1e-9)
    n = next(
        n for n in range(1, 99) if abs(n * least - round(n * least)) < 1e-9 and is_whole(mean, n)
    )
    return [round(n * share) for share in mean]


def is_whole(mean: list[float], n: int) -> bool:
    """Whether shares are whole numbers of n-ths."""
    return all(abs(n * share - round(n * share)) < 1e-6 for share in mean)


def main(checkout: str, n: str) -> None:
    swad, averages = public(checkout)
    out, sys.stdout = sys.stdout, sys.stderr  # it prints
    rows = [{**curve(i), "members": members(swad, averages, curve(i))} for i in range(int(n))]
    print("[" + ",\n".join(json.dumps(row) for row in rows) + "]", file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
