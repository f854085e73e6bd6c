"""The network that an ingredient's weights are of, and the foundation that they descend from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from domainbed import hparams_registry, networks
from domainbed.lib import weights
from domainbed.networks import foundations
from domainbed.registry import InputError
from ratatouille_algorithms.pool.cards import Card

PREFIX = "featurizer."
_SIZES = ("mlp_width", "mlp_depth")
_MAX_SIZE = 2**16


@dataclass(frozen=True)
class Architecture:
    """What decides the names and shapes of a featurizer's tensors; hashable."""

    backbone: str
    input_shape: tuple[int, ...]
    further: tuple[tuple[str, Any], ...] = ()

    @staticmethod
    def of(backbone: str, input_shape: tuple[int, ...], hparams: Mapping[str, Any]) -> Architecture:
        """Keep of a run's hparams what matters; raises `InputError` for values that cannot be."""
        names = (*_SIZES, "resnet50_augmix")
        further = {name: hparams[name] for name in names if name in hparams}
        hparams_registry.check_overrides(further, hparams_registry.space("ERM", "").values())
        for name in _SIZES:
            if not 1 <= further.get(name, 1) <= _MAX_SIZE:
                raise InputError(f"{name} is {further[name]}; expected 1 to {_MAX_SIZE}")
        return Architecture(backbone, input_shape, tuple(sorted(further.items())))

    @staticmethod
    def of_card(card: Card) -> Architecture:
        """That of an ingredient."""
        return Architecture.of(card.backbone, card.input_shape, card.hparams)

    @property
    def hparams(self) -> dict[str, Any]:
        """What a featurizer is built from."""
        overrides = {**dict(self.further), "backbone": self.backbone}
        return hparams_registry.resolve("FineTuning", "", None, overrides)

    def layout(self) -> dict[str, str]:
        """The dtype and shape of each tensor by name, without taking memory for them."""
        with torch.device("meta"):
            featurizer = networks.builder(self.backbone)(self.input_shape, self.hparams)
        return {name: describe(t) for name, t in weights.tensors(featurizer).items()}

    def build(self, foundation: str | None) -> torch.nn.Module:
        """A featurizer with a foundation's weights: a name, a file, None for the backbone's own."""
        if foundation is None:
            foundation = foundations.default_shared(self.input_shape, self.hparams)
        return networks.Featurizer(self.input_shape, {**self.hparams, "foundation": foundation})


def describe(tensor: torch.Tensor) -> str:
    """A tensor's dtype and shape."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def named(card: Card, given: str | None) -> str | None:
    """What to build a card's foundation from; raises `InputError` where only a file can tell."""
    name = card.foundation.name
    if given is not None:
        return given
    if name.startswith("file:") or not name:
        raise InputError(f"foundation {name!r} is a file that is not here; give --foundation FILE")
    return name if name in ("letters", "random") else None


@lru_cache(maxsize=1)
def _built(architecture: Architecture, foundation: str | None) -> tuple[torch.nn.Module, str]:
    featurizer = architecture.build(foundation)
    return featurizer, weights.content_hash(weights.tensors(featurizer))


def foundation_of(card: Card, given: str | None) -> torch.nn.Module:
    """A featurizer with the foundation's weights; raises `InputError` if they are others."""
    featurizer, sha256 = _built(Architecture.of_card(card), named(card, given))
    if sha256 != card.foundation.sha256:
        raise OtherFoundation(
            f"{card.name} descends from foundation {card.foundation.name!r} with sha256 "
            f"{card.foundation.sha256[:12]}..., but {featurizer.foundation!r} here has "
            f"{sha256[:12]}...; its weights cannot be averaged with those that start from it"
        )
    return featurizer


class OtherFoundation(InputError):
    """The foundation is not the one that a card names."""
