"""Checks that authors of plug-ins run on their own classes.

Each raises an AssertionError that names the promise which is broken.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from domainbed.engine import rng

Minibatches = list[tuple[torch.Tensor, torch.Tensor]]


def minibatches(
    seed: int, input_shape: tuple[int, ...], num_classes: int, num_domains: int, size: int = 8
) -> Minibatches:
    """Random inputs (size, *input_shape) and labels (size,) for each domain, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, *input_shape, generator=generator),
            torch.randint(0, num_classes, (size,), generator=generator),
        )
        for _ in range(num_domains)
    ]


def update(algorithm: Any, step: int, batches: Minibatches) -> dict[str, float]:
    """One update in the random state of this step."""
    rng.seed_all(1000 + step)
    values = algorithm.update(batches, None)
    for key, value in values.items():
        assert isinstance(value, float) and math.isfinite(value), (
            f"update returned {key}={value!r}; expected a finite float"
        )
    return values


def check_algorithm(
    cls: type,
    hparams: Mapping[str, Any],
    input_shape: tuple[int, ...] = (3, 28, 28),
    num_classes: int = 4,
    num_domains: int = 3,
) -> None:
    """Build an algorithm and train it for a few steps.

    Checks that its updates return finite floats, that two trainings from one seed are alike, that
    one saved after three updates and loaded into a fresh object goes on as if undisturbed, that
    predictions are logits of shape (batch, num_classes) and predicting leaves the state as it was.
    """

    def build(seed: int) -> Any:
        rng.seed_all(seed)
        return cls(input_shape, num_classes, num_domains, dict(hparams))

    def batches(step: int) -> Minibatches:
        return minibatches(step, input_shape, num_classes, num_domains)

    algorithm, twin = build(0), build(0)
    first = [update(algorithm, step, batches(step)) for step in range(3)]
    again = [update(twin, step, batches(step)) for step in range(3)]
    assert first == again, f"two trainings from one seed differ: {first} and {again}"

    resumed = build(1)
    resumed.load_state_dict(copy.deepcopy(algorithm.state_dict()))
    rest = [update(algorithm, step, batches(step)) for step in range(3, 6)]
    resumed_rest = [update(resumed, step, batches(step)) for step in range(3, 6)]
    assert rest == resumed_rest, (
        "training that was saved and loaded goes on differently, so some state that update reads "
        f"is not in the state dict: {rest} and {resumed_rest}"
    )
    for name, value in _flat(algorithm.state_dict()).items():
        assert torch.equal(value, _flat(resumed.state_dict())[name]), (
            f"{name} differs after training was saved, loaded and gone on with"
        )

    algorithm.eval()
    before = copy.deepcopy(_flat(algorithm.state_dict()))
    x = torch.cat([x for x, _ in batches(999)])
    with torch.no_grad():
        logits = algorithm.predict(x)
    assert logits.shape == (len(x), num_classes), (
        f"predict returned shape {tuple(logits.shape)}; expected {(len(x), num_classes)}"
    )
    for name, value in _flat(algorithm.state_dict()).items():
        assert torch.equal(value, before[name]), f"predict in evaluation mode changed {name}"


def _flat(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict."""
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
