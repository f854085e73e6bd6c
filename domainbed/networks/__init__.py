"""Networks: a featurizer for any input, a classifier on top of it.

`hparams["backbone"]` names the featurizer; "auto" chooses by the input as DomainBed does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from domainbed.networks import foundations
from domainbed.networks.backbones import ResNet, require_image
from domainbed.networks.mlp import MLP
from domainbed.networks.small import MNIST_CNN, ContextNet
from domainbed.registry import Registry

__all__ = [
    "BACKBONES",
    "MLP",
    "MNIST_CNN",
    "Classifier",
    "ContextNet",
    "Featurizer",
    "Identity",
    "ResNet",
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


def Featurizer(input_shape: Shape, hparams: dict[str, Any]) -> nn.Module:
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


def backbone_name(input_shape: Shape, hparams: dict[str, Any]) -> str:
    """The backbone that `hparams` ask for, "auto" resolved."""
    name = hparams.get("backbone", "auto")
    if name != "auto":
        return name
    if len(input_shape) == 1:
        return "mlp"
    by_size = {(28, 28): "mnist_cnn", (32, 32): "wide_resnet"}
    if tuple(input_shape[1:]) in by_size:
        return by_size[tuple(input_shape[1:])]
    for flag in ("dinov2", "vit", "resnet18"):  # DINOv2 is a ViT: the more special one decides
        if hparams.get(flag):
            return flag
    return "resnet50"


def builder(name: str) -> Builder:
    """The builder of a registered backbone, or of any model of timm by its name there."""
    if name in BACKBONES:
        return BACKBONES[name]
    from domainbed.networks import timm_backbone

    return timm_backbone.builder(name, list(BACKBONES))


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
    return lambda input_shape, hparams: ResNet(input_shape, {**hparams, "resnet18": depth == 18})


BACKBONES["mlp"] = _mlp
BACKBONES["mnist_cnn"] = _needs_image("mnist_cnn", lambda shape, hparams: MNIST_CNN(shape))
BACKBONES["wide_resnet"] = _needs_image("wide_resnet", _wide_resnet)
BACKBONES["resnet18"] = _needs_image("resnet18", _resnet(18))
BACKBONES["resnet50"] = _needs_image("resnet50", _resnet(50))
BACKBONES["vit"] = "domainbed.networks.timm_backbone:vit"
BACKBONES["dinov2"] = "domainbed.networks.timm_backbone:dinov2"
BACKBONES["efficientnet_lite0"] = "domainbed.networks.timm_backbone:efficientnet_lite0"
