"""Hyper-parameters: each a name, a default and a way to draw it.

A draw depends on the seed and the name alone, so adding a hyper-parameter never moves another.
Spaces are those of DomainBed (Gulrajani & Lopez-Paz 2021, arXiv 2007.01434, and its releases).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Union

from numpy.random import RandomState

from domainbed import datasets
from domainbed.lib.seeds import seed_hash
from domainbed.registry import InputError, Registry, nearest

Plain = Union[bool, int, float, str]
Space = Union[Sequence["HParam"], Callable[[str], Sequence["HParam"]]]

SPACES: Registry[Space] = Registry("hparam space", home="domainbed.algorithms")
"""Algorithm name -> its own hyper-parameters, a list or a function of the dataset's name."""


@dataclass(frozen=True)
class HParam:
    """A hyper-parameter; `draw` takes a RandomState, and None means that it is never drawn."""

    name: str
    default: Plain
    draw: Callable[[RandomState], Plain] | None = None

    def sample(self, random_seed: int) -> Plain:
        """Draw a value from this name's own generator; always a plain Python type."""
        if self.draw is None:
            return self.default
        value = self.draw(RandomState(seed_hash(random_seed, self.name)))
        return value.item() if hasattr(value, "item") else value


def choice(name: str, default: Plain, values: list) -> HParam:
    """A hyper-parameter drawn from `values` with equal chance."""
    return HParam(name, default, lambda r: r.choice(values))


def log_uniform(name: str, default: float, low: float, high: float, base: int = 10) -> HParam:
    """A hyper-parameter drawn as base ** U(low, high)."""
    return HParam(name, default, lambda r: base ** r.uniform(low, high))


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
        HParam("linear_steps", 500),
        choice("resnet_dropout", 0.0, [0.0, 0.1, 0.5]),
        choice("vit_dropout", 0.0, [0.0, 0.1, 0.5]),
        HParam("class_balanced", False),
        HParam("nonlinear_classifier", False),
        log_uniform("lr", 1e-3, -4.5, -2.5) if small else log_uniform("lr", 5e-5, -5, -3.5),
        HParam("weight_decay", 0.0) if small else log_uniform("weight_decay", 0.0, -6, -2),
        HParam("batch_size", 64, lambda r: int(2 ** r.uniform(3, 9)))
        if small
        else HParam("batch_size", 32, lambda r: int(2 ** r.uniform(3, 5.5))),
    ]


OPTIONAL = (
    HParam("backbone", "auto"),
    HParam("image_size", 224),
    HParam("mlp_width", 256),
    HParam("mlp_depth", 3),
    HParam("mlp_dropout", 0.0),
)
"""Understood everywhere when given, but not part of DomainBed's spaces, so not listed in them."""


def space(algorithm: str, dataset: str) -> dict[str, HParam]:
    """All hyper-parameters of a run; an algorithm's own override a dataset's, and those the common.

    An algorithm that is not registered has the common space, as in DomainBed.
    """
    own = SPACES[algorithm] if algorithm in SPACES else []
    own = own(dataset) if callable(own) else own
    every = [*_common(dataset), *datasets.hparam_space(dataset), *own]
    return {h.name: h for h in every}


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
    try:
        overrides = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"--hparams was given {text!r}, which is not JSON ({error}); "
            """give an object such as '{"lr": 0.001}'"""
        ) from error
    if not isinstance(overrides, dict):
        raise InputError(
            f"--hparams was given {text!r}; expected a JSON object such as "
            """'{"lr": 0.001}'"""
        )
    return overrides


def check_overrides(overrides: dict[str, Plain], known: Iterable[HParam]) -> None:
    """Raise `InputError` for a name that is not known or a value of another type than its default.

    An int passes for a float; a bool passes for nothing but a bool.
    """
    table = {h.name: h for h in (*OPTIONAL, *known)}
    for name, value in overrides.items():
        if name not in table:
            raise InputError(f"Unknown hparam {name!r}. {nearest(name, table)}")
        expected = type(table[name].default)
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise InputError(
                f"hparam {name!r} was given {value!r} of type {type(value).__name__}; expected "
                f"{expected.__name__}, such as {json.dumps(table[name].default)}"
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
