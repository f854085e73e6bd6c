"""bfloat16 where the work is: within featurizers. All the rest stays in float32."""

from __future__ import annotations

from typing import Any

import torch

from domainbed.networks.backbones import ResNet
from domainbed.networks.folded import fold
from domainbed.networks.mlp import MLP
from domainbed.registry import InputError

NARROW = 8
"""Channels of a group up to which a norm is faster on tensors that are not channels last."""


def compute_in_bf16(algorithm: torch.nn.Module, device: torch.device) -> None:
    """Let every featurizer of an algorithm compute in bfloat16, and give out float32.

    Weights, their gradients, heads, losses and penalties stay in float32. Raises `InputError` for a
    GPU that has no bfloat16, and for an algorithm without a featurizer of images.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(
            f"--precision bf16 was given, which {torch.cuda.get_device_name(device)} lacks; "
            "leave it out"
        )
    for featurizer in image_featurizers(algorithm, "--precision bf16"):
        autocast = _Autocast(device.type)
        featurizer.register_forward_pre_hook(autocast.begin)
        featurizer.register_forward_hook(autocast.end, always_call=True)
        _fold_frozen_norms(featurizer)
        if device.type == "cpu":
            _speed_up_group_norms(featurizer)
            _keep_inputs_of_relus(featurizer)


def image_featurizers(algorithm: torch.nn.Module, option: str) -> list[torch.nn.Module]:
    """The modules with `n_outputs`, as `domainbed.networks.Featurizer` makes them, but for MLPs.

    Those are cheap. Raises `InputError`, naming the option that needs one, if there are none.
    """
    featurizers = [
        module
        for module in algorithm.modules()
        if hasattr(module, "n_outputs") and not isinstance(module, MLP)
    ]
    if not featurizers:
        raise InputError(
            f"{option} was given, but {type(algorithm).__name__} has no featurizer of images; "
            "leave it out"
        )
    return featurizers


class _Autocast:
    """Hooks around a forward pass, which a deep copy keeps to itself, unlike a new `forward`."""

    def __init__(self, device_type: str) -> None:
        self.device_type = device_type
        self.entered: list[torch.autocast] = []

    def begin(self, module: torch.nn.Module, args: Any) -> None:
        self.entered.append(torch.autocast(self.device_type, dtype=torch.bfloat16))
        self.entered[-1].__enter__()

    def end(self, module: torch.nn.Module, args: Any, output: torch.Tensor | None) -> Any:
        self.entered.pop().__exit__(None, None, None)
        return None if output is None else output.float()


def _fold_frozen_norms(featurizer: torch.nn.Module) -> None:
    """Save passes through activations, which take longest where convolutions are fast."""
    for module in featurizer.modules():
        if isinstance(module, ResNet):
            for convolution, norm in module.normed_convolutions():
                fold(convolution, norm)


def _keep_inputs_of_relus(featurizer: torch.nn.Module) -> None:
    """Of large bfloat16 tensors torch's in-place ReLU takes up to three times as long here."""
    for module in featurizer.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False


def _speed_up_group_norms(featurizer: torch.nn.Module) -> None:
    """Let norms of narrow groups see their input channel by channel.

    For tensors that are channels last, torch's kernels take several times as long there.
    """
    for module in featurizer.modules():
        if isinstance(module, torch.nn.GroupNorm):
            if module.num_channels // module.num_groups <= NARROW:
                module.register_forward_pre_hook(_channels_first)
                module.register_forward_hook(_channels_last)


def _channels_first(module: torch.nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
    return _formatted(args[0], torch.contiguous_format, torch.channels_last)


def _channels_last(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return _formatted(output, torch.channels_last, torch.contiguous_format)


def _formatted(x: torch.Tensor, *formats: torch.memory_format) -> torch.Tensor:
    return _Format.apply(x, *formats) if x.dim() == 4 else x


class _Format(torch.autograd.Function):
    """A tensor in one memory format, its gradient in another."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, of_x: torch.memory_format, of_gradient: torch.memory_format
    ) -> torch.Tensor:
        ctx.formats = of_gradient, of_x
        return x.contiguous(memory_format=of_x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Format.apply(grad, *ctx.formats), None, None
