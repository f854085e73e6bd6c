"""Frozen featurizers: nothing in them moves, so what they make of fixed images is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import TensorDataset

from domainbed.datasets.images import ImageEnvironment
from domainbed.engine.evaluator import Evaluator
from domainbed.engine.loading import is_in_memory
from domainbed.engine.run import Run


def freeze(featurizer: torch.nn.Module) -> None:
    """Keep a featurizer as it is: no gradients, no moving statistics, no dropout."""
    featurizer.requires_grad_(False)
    featurizer.eval()
    featurizer.train = lambda mode=True: featurizer  # type: ignore[method-assign]


@contextmanager
def features_once(run: Run, algorithm: Any) -> Iterator[None]:
    """Let a run read features (n_samples, n_outputs) where its images are the same every time.

    They are when it evaluates, and when it trains without augmentation. Meanwhile the frozen
    featurizer passes features on. If they need more than `--memory`, all is left as it is.
    """
    featurizer, images, views = algorithm.featurizer, run.environments, run.views
    are_fixed = all(map(is_fixed, images))
    n_bytes = 4 * featurizer.n_outputs * sum(map(len, views))
    is_told_apart = are_fixed or len(run.dataset.input_shape) > 1  # from features, which are rows
    if n_bytes > run.memory or not is_told_apart:
        yield
        return
    run.views = [_features(run, featurizer, env) for env in range(len(views))]
    if are_fixed:
        run.environments = run.views
    of_images = featurizer.forward
    featurizer.forward = lambda x: x if x.dim() == 2 else of_images(x)
    try:
        yield
    finally:
        del featurizer.forward
        run.environments, run.views = images, views


def is_fixed(environment: Any) -> bool:
    """Whether a sample is the same every time that it is drawn."""
    if isinstance(environment, ImageEnvironment):
        return not environment.augment
    return is_in_memory(environment)


def _features(run: Run, featurizer: torch.nn.Module, env: int) -> TensorDataset:
    evaluator: Evaluator = run.evaluator
    parts, labels = [], []
    with torch.no_grad():
        for x, y in evaluator.batches(env, range(len(run.views[env]))):
            parts.append(featurizer(x.to(run.device)).cpu())
            labels.append(y)
    return TensorDataset(torch.cat(parts), torch.cat(labels))
