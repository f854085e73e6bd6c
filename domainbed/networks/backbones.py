"""Networks of other libraries as featurizers: `network` inside a common wrapper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from domainbed.registry import InputError


class Features(nn.Module):
    """What a featurizer has: how wide its features are, and what its weights are."""

    n_outputs: int
    foundation: str


class Backbone(Features):
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


def require_image(name: str, input_shape: tuple[int, ...]) -> None:
    """Raise `InputError` if inputs are no images of (channels, height, width)."""
    if len(input_shape) != 3:
        raise InputError(
            f"backbone {name!r} takes images, but inputs have shape {tuple(input_shape)}; "
            "choose backbone 'mlp'"
        )


def refuse_attention(name: str, hparams: dict[str, Any]) -> None:
    """Raise `InputError` if only attention is to be trained in a backbone that has none."""
    if hparams.get("vit_attn_tune"):
        raise InputError(
            f"hparam vit_attn_tune trains the attention of a ViT, but the backbone is {name!r}; "
            "set vit or dinov2 to true, or vit_attn_tune to false"
        )


def adapt_filters(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Filters (n_out, n_in, h, w) of a first convolution for another number of channels.

    Each channel gets the filters' mean over channels, scaled by n_in / channels, so that an input
    whose channels are alike gives the responses that n_in such channels gave.
    """
    n_in = weight.shape[1]
    return (weight.mean(1, keepdim=True) * n_in / channels).repeat(1, channels, 1, 1)


class ResNet(Backbone):
    """torchvision's ResNet-18 (512 outputs) or ResNet-50 (2048), without its last layer.

    Its weights are those of chance; `Featurizer` loads pretrained ones. For images of other than
    three channels the first convolution is averaged over channels and scaled.
    """

    def __init__(self, input_shape: tuple[int, ...], hparams: dict[str, Any]) -> None:
        from torchvision.models import resnet18, resnet50

        if hparams["resnet18"]:
            network, n_outputs = resnet18(weights=None), 512
        else:
            network, n_outputs = resnet50(weights=None), 2048
        network.fc = nn.Identity()
        if input_shape[0] != 3:
            filters = adapt_filters(network.conv1.weight.detach(), input_shape[0])
            network.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
            network.conv1.weight = nn.Parameter(filters)
        super().__init__(network, n_outputs, hparams["resnet_dropout"], hparams["freeze_bn"])

    def normed_convolutions(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Each convolution with the norm behind it."""
        for module in self.network.modules():
            children = dict(module.named_children())
            for i in "123":
                if f"conv{i}" in children:
                    yield children[f"conv{i}"], children[f"bn{i}"]
            if "downsample" in children:
                convolution, norm = children["downsample"].children()
                yield convolution, norm
