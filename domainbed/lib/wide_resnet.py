"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class _Block(nn.Module):
    """BatchNorm, ReLU and convolution, twice, around a shortcut."""

    def __init__(self, n_in: int, n_out: int, dropout: float, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, stride, padding=1)
        same = stride == 1 and n_in == n_out
        self.shortcut = nn.Sequential(*([] if same else [nn.Conv2d(n_in, n_out, 1, stride)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.dropout(self.conv1(F.relu(self.bn1(x))))
        return self.conv2(F.relu(self.bn2(out))) + self.shortcut(x)


class Wide_ResNet(nn.Module):
    """Three groups of (depth - 4) / 6 blocks: (batch, channels, h, w) to (batch, 64 * width)."""

    def __init__(
        self, input_shape: tuple[int, ...], depth: int, widen_factor: int, dropout_rate: float
    ) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"depth was given {depth}; expected 6 n + 4, such as 16")
        widths = [16, *(base * widen_factor for base in (16, 32, 64))]
        self.conv1 = nn.Conv2d(input_shape[0], widths[0], 3, padding=1)
        groups = []
        for group, stride in enumerate((1, 2, 2)):
            n_in, n_out = widths[group], widths[group + 1]
            blocks = [_Block(n_in, n_out, dropout_rate, stride)]
            blocks += [_Block(n_out, n_out, dropout_rate, 1) for _ in range((depth - 4) // 6 - 1)]
            groups.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = groups
        self.bn1 = nn.BatchNorm2d(widths[3], momentum=0.9)
        self.n_outputs = widths[3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of shape (batch, n_outputs)."""
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return F.relu(self.bn1(out)).mean((2, 3))
