"""Any image model of timm as a featurizer; timm is imported when one is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from torch import nn

from domainbed.networks.backbones import Backbone
from domainbed.registry import InputError, UnknownNameError

VIT = "vit_base_patch16_224"
DINOV2 = "vit_base_patch14_dinov2.lvd142m"
LITE = "tf_efficientnet_lite0"


def import_timm() -> Any:
    """Import timm, or raise `InputError` that says how to install it."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"This backbone needs timm, which cannot be imported ({error}); "
            'install it with pip install "domainbed-ratatouille[timm]"'
        ) from error
    return timm


def builder(name: str, others: Iterable[str]) -> Any:
    """A builder of timm's model `name`; `UnknownNameError` offers names near to it."""
    timm = import_timm()
    if name.split(".")[0] not in timm.list_models():
        raise UnknownNameError("backbone", name, [*others, *timm.list_models()])
    return lambda input_shape, hparams: create(name, input_shape, hparams)


def create(name: str, input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """timm's model without its head and with weights of chance."""
    timm = import_timm()
    is_vit = "vit" in name
    sized = {"img_size": input_shape[-1]} if is_vit else {}
    try:
        network = timm.create_model(name, num_classes=0, in_chans=input_shape[0], **sized)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"backbone {name!r} cannot be built for inputs of shape {tuple(input_shape)}: "
            f"{error}; choose another backbone or image_size"
        ) from error
    dropout = hparams["vit_dropout" if is_vit else "resnet_dropout"]
    backbone = Backbone(network, network.num_features, dropout, hparams["freeze_bn"])
    if is_vit and hparams.get("vit_attn_tune"):
        for parameter_name, parameter in network.named_parameters():
            parameter.requires_grad_(".attn." in parameter_name)
    return backbone


def vit(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """DomainBed's `vit`."""
    return create(VIT, input_shape, hparams)


def dinov2(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """DomainBed's `dinov2`."""
    return create(DINOV2, input_shape, hparams)


def efficientnet_lite0(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """EfficientNet-Lite0 (arXiv 1905.11946 without squeeze-and-excitation and swish)."""
    return create(LITE, input_shape, hparams)


def pretrained_state(name: str, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """The pretrained weights of timm's model `name`, resampled to the input by timm itself."""
    sized = {"img_size": input_shape[-1]} if "vit" in name else {}
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # it tells of every try; the caller tells of the failure once
    try:
        model = import_timm().create_model(
            name, pretrained=True, num_classes=0, in_chans=input_shape[0], **sized
        )
    finally:
        hub.setLevel(level)
    return model.state_dict()
