"""Multi-layer perceptron."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    """Fully connected layers with ReLU and dropout: (batch, n_inputs) to (batch, n_outputs)."""

    def __init__(self, n_inputs: int, n_outputs: int, hparams: dict[str, Any]) -> None:
        super().__init__()
        width, depth = hparams.get("mlp_width", 256), hparams.get("mlp_depth", 3)
        self.input = nn.Linear(n_inputs, width)
        self.dropout = nn.Dropout(hparams.get("mlp_dropout", 0.0))
        self.hiddens = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 2))
        self.output = nn.Linear(width, n_outputs)
        self.n_outputs = n_outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (batch, n_outputs); an x of more dimensions is flattened first."""
        x = F.relu(self.dropout(self.input(x.flatten(1))))
        for hidden in self.hiddens:
            x = F.relu(self.dropout(hidden(x)))
        return self.output(x)
