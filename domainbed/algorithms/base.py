"""The protocol that every algorithm keeps."""

from __future__ import annotations

from typing import Any

import torch

Minibatch = tuple[torch.Tensor, torch.Tensor]


class Algorithm(torch.nn.Module):
    """A way to learn from several domains.

    A subclass is built from the shape of an input, the number of classes, the number of training
    domains and its hyper-parameters. `update` takes one minibatch (x, y) for each training domain,
    x of shape (batch, *input_shape) and y of shape (batch,) int64, with `unlabeled` one x for each
    domain to adapt to, and returns floats to record. `predict` maps x to logits (batch,
    num_classes). Whatever `update` reads later is in the state dict, or a resumed run differs.

    Two more are called where they are defined: `start(initial)`, with a
    `domainbed.engine.initial_weights.InitialWeights`, before the first update, and
    `at_checkpoint(run, step, losses)`, with the cross-entropies of all splits, after an evaluation.
    """

    n_weight_files = 2
    """Files of weights that a run leaves, for estimates of disk space."""

    differentiates_twice = False
    """Whether an update differentiates a gradient that has passed back through a featurizer."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        num_domains: int,
        hparams: dict[str, Any],
    ) -> None:
        super().__init__()
        self.hparams = hparams

    def get_extra_state(self) -> dict[str, Any]:
        """State that is not a tensor of this module: that of its optimisers."""
        return {
            name: value.state_dict()
            for name, value in vars(self).items()
            if isinstance(value, torch.optim.Optimizer)
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Let plain weights, such as public DomainBed's, load into a fresh algorithm."""
        state.setdefault(f"{prefix}_extra_state", {})
        super()._load_from_state_dict(state, prefix, *rest)

    def update(
        self, minibatches: list[Minibatch], unlabeled: list[torch.Tensor] | None = None
    ) -> dict[str, float]:
        """Do one step of training; return what to record, by name."""
        raise NotImplementedError(f"{type(self).__name__} must define update")

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, num_classes)."""
        raise NotImplementedError(f"{type(self).__name__} must define predict")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict."""
        return self.predict(x)
