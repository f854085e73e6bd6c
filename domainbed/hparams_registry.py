"""Hyper-parameters: each a name, a default and a way to draw it.

A draw depends on the seed and the name alone, so adding a hyper-parameter never moves another.
Spaces are those of DomainBed (Gulrajani & Lopez-Paz 2021, arXiv 2007.01434, and its releases).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

from numpy.random import RandomState

from domainbed import datasets
from domainbed.lib.arguments import shortened
from domainbed.lib.bounds import (
    AT_LEAST_ONE,
    COUNT,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Bounds,
    OneOf,
    Within,
    problem,
)
from domainbed.lib.seeds import seed_hash
from domainbed.registry import InputError, Registry, nearest

Plain = Union[bool, int, float, str]
Space = Union[Sequence["HParam"], Callable[[str], Sequence["HParam"]]]

SPACES: Registry[Space] = Registry("hparam space", home="domainbed.algorithms")
"""Algorithm name -> its own hyper-parameters, a list or a function of the dataset's name."""


@dataclass(frozen=True)
class HParam:
    """A hyper-parameter; `draw` takes a RandomState, and None means that it is never drawn.

    bounds: the values that make sense, such as `Within(0, 1)`; those of DomainBed's hparam of the
    same name where it is None and there is one, and else any finite number.
    """

    name: str
    default: Plain
    draw: Callable[[RandomState], Plain] | None = None
    bounds: Bounds | None = None

    def sample(self, random_seed: int) -> Plain:
        """Draw a value from this name's own generator; always a plain Python type."""
        if self.draw is None:
            return self.default
        value = self.draw(RandomState(seed_hash(random_seed, self.name)))
        return value.item() if hasattr(value, "item") else value


def choice(name: str, default: Plain, values: list, bounds: Bounds | None = None) -> HParam:
    """A hyper-parameter drawn from `values` with equal chance; texts can be no others."""
    if isinstance(default, str) and bounds is None:
        bounds = OneOf(tuple(values))
    return HParam(name, default, lambda r: r.choice(values), bounds)


def log_uniform(
    name: str,
    default: float,
    low: float,
    high: float,
    base: int = 10,
    bounds: Bounds | None = NOT_NEGATIVE,
) -> HParam:
    """A hyper-parameter drawn as base ** U(low, high)."""
    return HParam(name, default, lambda r: base ** r.uniform(low, high), bounds)


IMAGE_SIZE = Within(1, 2**13)
WIDTH = Within(1, 2**16)
DEPTH = Within(2, 1000)
"""Layers of an MLP: those of its input and its output, and others between them."""


def _common(dataset: str) -> list[HParam]:
    small = datasets.is_small(dataset)
    return [
        HParam("data_augmentation", True),
        HParam("resnet18", False),
        HParam("resnet50_augmix", True),
        HParam("dinov2", False),
        HParam("vit", False),
        HParam("vit_attn_tune", False),
        HParam("freeze_bn", False),
        HParam("lars", False),
        HParam("linear_steps", 500, bounds=COUNT),
        choice("resnet_dropout", 0.0, [0.0, 0.1, 0.5], SHARE),
        choice("vit_dropout", 0.0, [0.0, 0.1, 0.5], SHARE),
        HParam("class_balanced", False),
        HParam("nonlinear_classifier", False),
        log_uniform("lr", 1e-3, -4.5, -2.5, bounds=POSITIVE)
        if small
        else log_uniform("lr", 5e-5, -5, -3.5, bounds=POSITIVE),
        HParam("weight_decay", 0.0, bounds=NOT_NEGATIVE)
        if small
        else log_uniform("weight_decay", 0.0, -6, -2),
        HParam("batch_size", 64, lambda r: int(2 ** r.uniform(3, 9)), AT_LEAST_ONE)
        if small
        else HParam("batch_size", 32, lambda r: int(2 ** r.uniform(3, 5.5)), AT_LEAST_ONE),
    ]


OPTIONAL = (
    HParam("backbone", "auto"),
    HParam("image_size", 224, bounds=IMAGE_SIZE),
    HParam("mlp_width", 256, bounds=WIDTH),
    HParam("mlp_depth", 3, bounds=DEPTH),
    HParam("mlp_dropout", 0.0, bounds=SHARE),
)
"""Understood everywhere when given, but not part of DomainBed's spaces, so not listed in them."""


def space(algorithm: str, dataset: str) -> dict[str, HParam]:
    """All hyper-parameters of a run; an algorithm's own override a dataset's, and those the common.

    An algorithm that is not registered has the common space, as in DomainBed.
    """
    own = SPACES[algorithm] if algorithm in SPACES else []
    own = own(dataset) if callable(own) else own
    every: dict[str, HParam] = {}
    bounds = {h.name: h.bounds for h in OPTIONAL}
    for h in (*_common(dataset), *datasets.hparam_space(dataset), *own):
        h = h if h.bounds else replace(h, bounds=bounds.get(h.name))
        bounds[h.name], every[h.name] = h.bounds, h
    return every


def names(algorithm: str, dataset: str) -> set[str]:
    """All names that --hparams may give for an algorithm."""
    return {h.name for h in OPTIONAL} | set(space(algorithm, dataset))


def default_hparams(algorithm: str, dataset: str) -> dict[str, Plain]:
    """Default values by name."""
    return {name: h.default for name, h in space(algorithm, dataset).items()}


def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Plain]:
    """Values drawn with `seed`, which a run takes as seed_hash(hparams_seed, trial_seed)."""
    return {name: h.sample(seed) for name, h in space(algorithm, dataset).items()}


def parse_overrides(text: str | None) -> dict[str, Plain]:
    """Read the JSON object of --hparams; raises `InputError` for anything else."""
    if text is None:
        return {}
    try:
        overrides = json.loads(text, object_pairs_hook=_once)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--hparams was given {shortened(text, 200)}, which is not JSON ({error}); "
            """give an object such as '{"lr": 0.001}'"""
        ) from error
    if not isinstance(overrides, dict):
        raise InputError(
            f"--hparams was given {shortened(text, 200)}; expected a JSON object such as "
            """'{"lr": 0.001}'"""
        )
    return overrides


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no name stands twice."""
    seen = dict(pairs)
    if len(seen) < len(pairs):
        name = next(n for n, _ in pairs if sum(n == other for other, _ in pairs) > 1)
        raise InputError(f"--hparams gives {name!r} twice; give it once")
    return seen


def check_overrides(overrides: dict[str, Plain], known: Iterable[HParam]) -> None:
    """Raise `InputError` for an unknown name, and a value of another type or outside its bounds.

    An int passes for a float; a bool passes for nothing but a bool.
    """
    table = {h.name: h for h in (*OPTIONAL, *known)}
    for name, value in overrides.items():
        if name not in table:
            raise InputError(f"Unknown hparam {name!r}. {nearest(name, table)}")
        check_value(table[name], value)


def check_value(hparam: HParam, value: Any) -> None:
    """Raise `InputError` for a value that a hyper-parameter cannot have."""
    kind = type(hparam.default)
    bounds = hparam.bounds
    if bounds is None and kind in (int, float):
        bounds = FINITE
    expected = problem(value, kind, bounds)
    if expected is None and value == "":
        expected = "expected a text that is not empty"
    if expected:
        raise InputError(
            f"hparam {hparam.name!r} was given {shortened(value)}; "
            f"{expected}, such as {json.dumps(hparam.default)}"
        )


def resolve(
    algorithm: str, dataset: str, random_seed: int | None, overrides: dict[str, Plain]
) -> dict[str, Plain]:
    """The hyper-parameters of a run: defaults (seed None) or a draw, then checked overrides."""
    known = space(algorithm, dataset)
    check_overrides(overrides, known.values())
    if random_seed is None:
        values = {name: h.default for name, h in known.items()}
    else:
        values = {name: h.sample(random_seed) for name, h in known.items()}
    return {**values, **overrides}
