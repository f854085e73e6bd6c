"""Networks of other libraries as featurizers: `network` inside a common wrapper."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Backbone(nn.Module):
    """A network without its head, dropout behind it, its BatchNorm statistics frozen on request.

    The parameters of the wrapped network are named `network.*`, as DomainBed's ResNet names them.
    """

    def __init__(
        self, network: nn.Module, n_outputs: int, dropout: float, is_bn_frozen: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.n_outputs = n_outputs
        self.dropout = nn.Dropout(dropout)
        self.is_bn_frozen = is_bn_frozen
        self.train()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of shape (batch, n_outputs)."""
        return self.dropout(self.network(x))

    def train(self, mode: bool = True) -> Backbone:
        """Switch modes, but leave frozen BatchNorm in evaluation mode."""
        super().train(mode)
        if self.is_bn_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def adapt_channels(first: nn.Conv2d, channels: int) -> nn.Conv2d:
    """A copy of a first convolution for another number of channels.

    Filters are repeated over the channels and scaled, so that an input whose channels are alike
    gives the responses that three such channels gave.
    """
    old = first.in_channels
    new = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        for i in range(channels):
            new.weight[:, i] = first.weight[:, i % old] * old / channels
        if first.bias is not None and new.bias is not None:
            new.bias.copy_(first.bias)
    return new


class ResNet(Backbone):
    """torchvision's ResNet-18 (512 outputs) or ResNet-50 (2048), without its last layer."""

    def __init__(self, input_shape: tuple[int, ...], hparams: dict[str, Any]) -> None:
        from torchvision.models import resnet18, resnet50

        if hparams["resnet18"]:
            network, n_outputs = resnet18(weights=None), 512
        else:
            network, n_outputs = resnet50(weights=None), 2048
        network.fc = nn.Identity()
        if input_shape[0] != 3:
            network.conv1 = adapt_channels(network.conv1, input_shape[0])
        super().__init__(network, n_outputs, hparams["resnet_dropout"], hparams["freeze_bn"])
