"""Small convolutional networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class MNIST_CNN(nn.Module):
    """Four convolutions for images of 28 x 28: (batch, channels, 28, 28) to (batch, 128)."""

    n_outputs = 128

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], 64, 3, 1, padding=1)
        self.conv2 = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(128, 128, 3, 1, padding=1)
        self.conv4 = nn.Conv2d(128, 128, 3, 1, padding=1)
        self.bn0 = nn.GroupNorm(8, 64)
        self.bn1 = nn.GroupNorm(8, 128)
        self.bn2 = nn.GroupNorm(8, 128)
        self.bn3 = nn.GroupNorm(8, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of shape (batch, 128)."""
        x = self.bn0(F.relu(self.conv1(x)))
        x = self.bn1(F.relu(self.conv2(x)))
        x = self.bn2(F.relu(self.conv3(x)))
        x = self.bn3(F.relu(self.conv4(x)))
        if self.conv4.weight.is_contiguous():
            return x.mean((2, 3))
        return x.permute(0, 2, 3, 1).mean((1, 2))  # so that the gradient is channels last, as x is


class ContextNet(nn.Module):
    """Adaptive risk minimisation's context network (Zhang et al. 2021, arXiv 2007.02931).

    Maps (batch, channels, h, w) to one map (batch, 1, h, w) that keeps the image's size.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.context_net = nn.Sequential(
            nn.Conv2d(input_shape[0], 64, 5, padding=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 5, padding=2),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 1, 5, padding=2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Context of shape (batch, 1, h, w)."""
        return self.context_net(x)
