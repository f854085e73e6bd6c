"""What algorithm files written for DomainBed import from its lib.misc, where it is, too."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from domainbed.algorithms import adrmx, eqrm, mldg, transfer
from domainbed.algorithms.base import Minibatch
from domainbed.algorithms.erm_plus_plus import AVERAGE_FROM
from domainbed.algorithms.erm_plus_plus import lars as LARS

__all__ = [
    "LARS",
    "ErmPlusPlusMovingAvg",
    "MovingAverage",
    "Nonparametric",
    "ParamDict",
    "SupConLossLambda",
    "l2_between_dicts",
    "proj",
    "random_pairs_of_minibatches",
    "split_meta_train_test",
]

Pair = tuple[Minibatch, Minibatch]


def random_pairs_of_minibatches(minibatches: list[Minibatch]) -> list[Pair]:
    """Each domain's minibatch with the next one's in a random circle, cut to the same size."""
    order = torch.randperm(len(minibatches)).tolist()
    pairs = zip(order, order[1:] + order[:1])
    return [_cut_alike(minibatches[i], minibatches[j]) for i, j in pairs]


def split_meta_train_test(minibatches: list[Minibatch], num_meta_test: int = 1) -> list[Pair]:
    """Each of the domains for meta-train with one for meta-test, cut to the same size."""
    return [_cut_alike(*pair) for pair in mldg.split_pairs(minibatches, num_meta_test)]


def _cut_alike(one: Minibatch, two: Minibatch) -> Pair:
    n = min(len(one[1]), len(two[1]))
    return (one[0][:n], one[1][:n]), (two[0][:n], two[1][:n])


def l2_between_dicts(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> Any:
    """Mean squared difference of all entries of tensors by name."""
    differences = [(value - two[name]).flatten() for name, value in one.items()]
    return torch.cat(differences).square().mean()


def proj(delta: float, adv_h: nn.Module, h: nn.Module) -> nn.Module:
    """Move the weights of `adv_h` into the Euclidean ball of radius `delta` around those of `h`."""
    transfer.project(adv_h, h, delta)
    return adv_h


class ParamDict(OrderedDict):
    """Tensors by name that can be added, subtracted, multiplied and divided, also by numbers."""

    def _each(self, operation: Callable[[Any, Any], Any], other: Any) -> ParamDict:
        is_one = not isinstance(other, Mapping)
        return ParamDict(
            (name, operation(value, other if is_one else other[name]))
            for name, value in self.items()
        )

    def __add__(self, other: Any) -> ParamDict:
        return self._each(operator.add, other)

    def __sub__(self, other: Any) -> ParamDict:
        return self._each(operator.sub, other)

    def __mul__(self, other: Any) -> ParamDict:
        return self._each(operator.mul, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> ParamDict:
        return self._each(operator.truediv, other)

    def __neg__(self) -> ParamDict:
        return self * -1


class MovingAverage:
    """Exponential moving averages of tensors by name, starting at 0.

    With the correction they are divided by 1 - ema, so that the newest value weighs 1.
    """

    def __init__(self, ema: float, oneminusema_correction: bool = True) -> None:
        self.ema, self.scale = ema, 1 - ema if oneminusema_correction else 1.0
        self.ema_data: dict[str, torch.Tensor] = {}

    def update(self, dict_data: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Take new values in; return averages (1, entries) that keep the gradient of the new."""
        moved = {
            name: self.ema * self.ema_data.get(name, 0.0) + (1 - self.ema) * value.reshape(1, -1)
            for name, value in dict_data.items()
        }
        self.ema_data = {name: value.detach() for name, value in moved.items()}
        return {name: value / self.scale for name, value in moved.items()}


class ErmPlusPlusMovingAvg:
    """Keeps in `network_sma` the mean of a network's states since update 600; before, its copy."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.network_sma = copy.deepcopy(network).eval()
        self.sma_start_iter = AVERAGE_FROM
        self.global_iter = self.sma_count = 0

    @torch.no_grad()
    def update_sma(self) -> None:
        """Take the network's present state in."""
        self.global_iter += 1
        self.sma_count += self.global_iter >= self.sma_start_iter
        states = self.network_sma.state_dict(), self.network.state_dict()
        for mean, value in zip(*(state.values() for state in states)):
            if mean.is_floating_point():
                mean.lerp_(value, 1 / (self.sma_count + 1))


class Nonparametric:
    """A distribution known by samples (n,): their Gaussian kernel density."""

    def estimate_parameters(self, x: torch.Tensor) -> None:
        """Take the samples."""
        self.data = x

    def icdf(self, q: Any) -> torch.Tensor:
        """The quantile q in (0, 1)."""
        return eqrm.density_quantile(self.data, float(q))


class SupConLossLambda(nn.Module):
    """Supervised contrastive loss; samples of the own domain weigh `lamda`, others 1 - lamda."""

    def __init__(self, lamda: float = 0.5, temperature: float = 0.07) -> None:
        super().__init__()
        self.lamda, self.temperature = lamda, temperature

    def forward(
        self, features: torch.Tensor, labels: torch.Tensor, domain_labels: torch.Tensor
    ) -> torch.Tensor:
        """The loss of features (batch, features) with labels and domains (batch,)."""
        is_own = domain_labels == domain_labels[:, None]
        weights = torch.where(is_own, self.lamda, 1 - self.lamda)
        return adrmx.supervised_contrastive(features, labels, self.temperature, weights)
