"""Norms that are frozen, computed by the convolutions before them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class FoldedConv2d(nn.Conv2d):
    """A convolution that applies the norm behind it, too, while the statistics of that are fixed.

    Then a norm is an affine map by channel, so it can be a part of the weights: activations are
    passed through once instead of twice. Gradients reach the weights of both (Jacob et al. 2018,
    arXiv 1712.05877, section 3.2).
    """

    followed_by: tuple[nn.BatchNorm2d]  # as a tuple, so that it is no child of this module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution, or the norm of it."""
        (norm,) = self.followed_by
        if norm.training:
            return super().forward(x)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.weight * scale[:, None, None, None]
        bias = norm.bias - norm.running_mean * scale
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A norm that leaves its work to the convolution before it while its statistics are fixed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of x, unless that is what x is."""
        return super().forward(x) if self.training else x


def fold(convolution: nn.Module, norm: nn.Module) -> None:
    """Let a convolution without bias apply the norm that alone sees what it gives out.

    Names and parameters stay what they are.
    """
    assert type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d
    assert convolution.bias is None and convolution.padding_mode == "zeros"
    convolution.__class__, norm.__class__ = FoldedConv2d, FoldedBatchNorm2d
    convolution.__dict__["followed_by"] = (norm,)
