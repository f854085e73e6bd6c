"""Frozen featurizers: nothing in them moves, so what they make of fixed images is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import TensorDataset

from domainbed.engine.evaluator import BATCH_IN_MEMORY
from domainbed.engine.loading import is_in_memory
from domainbed.engine.run import Run


def freeze(featurizer: torch.nn.Module) -> None:
    """Keep a featurizer as it is: no gradients, no moving statistics, no dropout."""
    featurizer.requires_grad_(False)
    featurizer.eval()
    featurizer.train = lambda mode=True: featurizer  # type: ignore[method-assign]


@contextmanager
def features_once(run: Run, algorithm: Any) -> Iterator[None]:
    """Let a run read features (n_samples, n_outputs) where its images are fixed tensors.

    Meanwhile the frozen featurizer passes them on. Images that are augmented, or that do not fit
    in memory, are left as they are.
    """
    if not all(map(is_in_memory, run.environments)):
        yield
        return
    images = run.environments
    run.environments = [_features(run, algorithm.featurizer, env) for env in images]
    algorithm.featurizer.forward = lambda features: features
    try:
        yield
    finally:
        del algorithm.featurizer.forward
        run.environments = images


def _features(run: Run, featurizer: torch.nn.Module, environment: TensorDataset) -> TensorDataset:
    x, y = environment.tensors
    with torch.no_grad():
        parts = [featurizer(part.to(run.device)).cpu() for part in x.split(BATCH_IN_MEMORY)]
    return TensorDataset(torch.cat(parts), y)
