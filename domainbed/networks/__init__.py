"""Networks: a featurizer for any input, a classifier on top of it.

`hparams["backbone"]` names the featurizer; "auto" chooses by the input as DomainBed does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from domainbed.networks import foundations, timm_backbone
from domainbed.networks.backbones import Features, ResNet, refuse_attention, require_image
from domainbed.networks.mlp import MLP
from domainbed.networks.small import MNIST_CNN, ContextNet
from domainbed.registry import InputError, Registry

__all__ = [
    "BACKBONES",
    "MLP",
    "MNIST_CNN",
    "Classifier",
    "ContextNet",
    "Featurizer",
    "Identity",
    "ResNet",
    "WholeFish",
]

Shape = tuple[int, ...]
Builder = Callable[[Shape, dict[str, Any]], nn.Module]

BACKBONES: Registry[Builder] = Registry("backbone", home="domainbed.networks")
"""Name -> function of (input_shape, hparams) that returns a module with `n_outputs`."""


class Identity(nn.Module):
    """Returns its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x."""
        return x


def Featurizer(input_shape: Shape, hparams: dict[str, Any]) -> Features:
    """Build the featurizer that `hparams` name, with its initial weights.

    Returns a module that maps (batch, *input_shape) to (batch, n_outputs); its attribute
    `foundation` says what its weights are, "" for a draw from the caller's generator. Raises
    `InputError` for a backbone that is unknown or cannot take such an input, and for weights that
    cannot be had.
    """
    name = backbone_name(input_shape, hparams)
    return foundations.build(name, builder(name), input_shape, hparams)


def Classifier(in_features: int, out_features: int, is_nonlinear: bool = False) -> nn.Module:
    """Build a linear classifier, or one with two hidden layers."""
    if not is_nonlinear:
        return nn.Linear(in_features, out_features)
    return nn.Sequential(
        nn.Linear(in_features, in_features // 2),
        nn.ReLU(),
        nn.Linear(in_features // 2, in_features // 4),
        nn.ReLU(),
        nn.Linear(in_features // 4, out_features),
    )


class WholeFish(nn.Module):
    """A featurizer and a classifier as one network `net`, which takes weights by name."""

    def __init__(
        self,
        input_shape: Shape,
        num_classes: int,
        hparams: dict[str, Any],
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        featurizer = Featurizer(input_shape, hparams)
        nonlinear = hparams["nonlinear_classifier"]
        classifier = Classifier(featurizer.n_outputs, num_classes, nonlinear)
        self.net = nn.Sequential(featurizer, classifier)
        if weights is not None:
            self.reset_weights(weights)

    def reset_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Copy all weights from those of these names."""
        self.load_state_dict(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        return self.net(x)


def backbone_name(input_shape: Shape, hparams: dict[str, Any]) -> str:
    """The backbone that `hparams` ask for, "auto" resolved; `InputError` if they ask for two."""
    name, asked = hparams.get("backbone", "auto"), _asked(hparams)
    if name != "auto":
        if asked not in (None, name):
            raise InputError(
                f"hparams give backbone {name!r} and {asked} true, which are different backbones; "
                "leave one of them out"
            )
        return name if name in BACKBONES else timm_backbone.plain_name(name)
    if len(input_shape) == 1:
        return "mlp"
    by_size: dict[Shape, str] = {(28, 28): "mnist_cnn", (32, 32): "wide_resnet"}
    if tuple(input_shape[1:]) in by_size:
        return by_size[tuple(input_shape[1:])]
    return asked or "resnet50"


def _asked(hparams: dict[str, Any]) -> str | None:
    """The backbone that flags ask for; DINOv2 is a ViT, so `vit` may be true beside it."""
    vit = "dinov2" if hparams.get("dinov2") else "vit" if hparams.get("vit") else None
    if vit and hparams.get("resnet18"):
        raise InputError(
            f"hparams {vit} and resnet18 are both true, which are different backbones; "
            "set one of them to false"
        )
    return "resnet18" if hparams.get("resnet18") else vit


def builder(name: str) -> Builder:
    """The builder of a registered backbone, or of any model of timm by its name there."""
    if name in BACKBONES:
        return BACKBONES[name]
    return timm_backbone.builder(timm_backbone.plain_name(name), list(BACKBONES))


def _needs_image(name: str, build_it: Builder) -> Builder:
    """A builder that refuses an input which is no image."""

    def build(input_shape: Shape, hparams: dict[str, Any]) -> nn.Module:
        require_image(name, input_shape)
        return build_it(input_shape, hparams)

    return build


def _mlp(input_shape: Shape, hparams: dict[str, Any]) -> nn.Module:
    return MLP(torch.Size(input_shape).numel(), hparams.get("mlp_width", 256), hparams)


def _wide_resnet(input_shape: Shape, hparams: dict[str, Any]) -> nn.Module:
    from domainbed.lib.wide_resnet import Wide_ResNet

    return Wide_ResNet(input_shape, 16, 2, 0.0)


def _resnet(depth: int) -> Builder:
    def build(input_shape: Shape, hparams: dict[str, Any]) -> nn.Module:
        refuse_attention(f"resnet{depth}", hparams)
        return ResNet(input_shape, {**hparams, "resnet18": depth == 18})

    return build


BACKBONES["mlp"] = _mlp
BACKBONES["mnist_cnn"] = _needs_image("mnist_cnn", lambda shape, hparams: MNIST_CNN(shape))
BACKBONES["wide_resnet"] = _needs_image("wide_resnet", _wide_resnet)
BACKBONES["resnet18"] = _needs_image("resnet18", _resnet(18))
BACKBONES["resnet50"] = _needs_image("resnet50", _resnet(50))
BACKBONES["vit"] = "domainbed.networks.timm_backbone:vit"
BACKBONES["dinov2"] = "domainbed.networks.timm_backbone:dinov2"
BACKBONES["efficientnet_lite0"] = "domainbed.networks.timm_backbone:efficientnet_lite0"
