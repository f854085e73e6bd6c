"""What a network says of samples, computed once for each run and kept beside it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from domainbed.datasets.base import evaluation_view
from domainbed.engine import rng
from domainbed.engine.evaluator import Evaluator, is_right
from domainbed.engine.run import Run
from domainbed.lib import weights
from domainbed.registry import InputError

CACHE = "predictions.safetensors"
N_FEATURES = 1000
"""Samples of a set whose features are kept, evenly spread: similarity needs no more."""

Samples = Mapping[int, Sequence[int]]
"""Domain -> keys of samples in it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """What a network says of n samples, in a fixed order.

    logits (n, classes); y and env (n,) int64, the labels and domains; features (m, d) of m of the
    samples, at most `N_FEATURES`, the same for every network.
    """

    logits: torch.Tensor
    y: torch.Tensor
    env: torch.Tensor
    features: torch.Tensor

    @property
    def right(self) -> torch.Tensor:
        """Which samples are classified rightly, (n,) bool."""
        return is_right(self.logits, self.y)

    @property
    def accuracy(self) -> float:
        """Accuracy in [0, 1], the mean over domains."""
        right = self.right.double()
        accs = [right[self.env == env].mean().item() for env in self.env.unique()]
        return math.fsum(accs) / len(accs)


def predict(network: Any, run: Run, samples: Samples) -> Predictions:
    """Evaluate a network with a `featurizer` on samples of a run's domains, un-augmented."""
    return predict_each([network], run, samples)[0]


def predict_each(networks: Sequence[Any], run: Run, samples: Samples) -> list[Predictions]:
    """The same of several networks, in one pass over the data."""
    found: list[dict[str, list[torch.Tensor]]] = [
        {"logits": [], "y": [], "env": [], "features": []} for _ in networks
    ]
    stride = max(1, math.ceil(sum(map(len, samples.values())) / N_FEATURES))
    features: list[torch.Tensor] = []
    hooks = [
        network.featurizer.register_forward_hook(lambda m, args, out: features.append(out))
        for network in networks
    ]
    n_seen, evaluator = 0, _evaluator(run)
    try:
        for env, keys in samples.items():
            for every, y in evaluator.outputs(networks, env, keys):
                each = len(features) // len(networks)  # some call their featurizer more than once
                last = features[each - 1 :: each]
                for parts, logits, z in zip(found, every, last):
                    parts["logits"].append(logits.float().cpu())
                    parts["y"].append(y.cpu())
                    parts["env"].append(torch.full_like(y, env).cpu())
                    kept = z.flatten(1)[-n_seen % stride :: stride]
                    parts["features"].append(kept.float().cpu())
                features.clear()
                n_seen += len(y)
    finally:
        for hook in hooks:
            hook.remove()
    return [Predictions(**{k: torch.cat(v) for k, v in parts.items()}) for parts in found]


def _evaluator(run: Run) -> Evaluator:
    views = [evaluation_view(environment) for environment in run.environments]
    return Evaluator(views, {}, run.device, run.num_workers)


def fingerprint(run: Run, samples: Samples) -> str:
    """The identity of samples: which they are, and the first of each domain as a network sees it.

    A changed split, image size, normalisation or data set changes it.
    """
    digest = hashlib.sha256()
    for env, keys in samples.items():
        digest.update(json.dumps([run.options.dataset, run.env_names[env], list(keys)]).encode())
    firsts = {env: keys[:1] for env, keys in samples.items()}
    evaluator = _evaluator(run)
    with rng.preserved():
        for env, keys in firsts.items():
            for x, y in evaluator.batches(env, keys):
                digest.update(weights.content_hash({"x": x, "y": y}).encode())
    return digest.hexdigest()


def save(path: Path, key: str, predictions: Mapping[str, Predictions]) -> None:
    """Write predictions by name; the file appears whole or not at all.

    Where the folder cannot be written, they are not kept.
    """
    tensors = {f"{name}.{k}": v for name, p in predictions.items() for k, v in asdict(p).items()}
    try:
        weights.save(path, tensors, {"key": key})
    except OSError as error:
        logger.warning("%s cannot be written (%s): predictions are not kept", path, error.strerror)


def load(path: Path, key: str) -> dict[str, Predictions] | None:
    """Predictions that were saved under this very key; None for none, stale or damaged ones."""
    if not path.is_file():
        return None
    try:
        state, header = weights.read(path)
    except InputError as error:
        logger.warning("%s; its predictions are computed anew", error)
        return None
    if header.get("key") != key:
        return None
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        found.setdefault(name.rpartition(".")[0], {})[name.rpartition(".")[2]] = tensor
    return {name: Predictions(**tensors) for name, tensors in found.items()}
