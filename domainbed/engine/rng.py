"""Random streams: isolated from each other, so that one never moves another."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch, on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_cpu(seed: int) -> None:
    """Seed Python, numpy and torch's CPU generator: all that loading a sample may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Leave the global generators as they were, whatever the block draws."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
