"""Measures of diversity against values worked out by hand, and what similarity does not see."""

import math

import pytest
import torch

from domainbed.registry import InputError
from ratatouille_algorithms.analysis.diversity import (
    Counts,
    counts,
    disagreement,
    double_fault,
    linear_cka,
    q_statistic,
    ratio_error,
)
from ratatouille_algorithms.predictions import Predictions

# ten samples, two classes' logits; the label is always 1, so a row is right if its second wins
Y = torch.ones(10, dtype=torch.long)
A = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0, 0, 0])  # whom network a predicts
B = torch.tensor([1, 1, 1, 1, 0, 0, 1, 0, 0, 0])


def predictions(classes: torch.Tensor) -> Predictions:
    logits = torch.nn.functional.one_hot(classes, 2).float()
    env = torch.tensor([0] * 8 + [1] * 2)
    return Predictions(logits, Y, env, torch.empty(0))


def test_counts_of_a_table_of_predictions():
    c = counts(predictions(A).right, predictions(B).right)
    assert c == Counts(n11=4, n10=2, n01=1, n00=3)


def test_measures_are_those_worked_out_by_hand():
    c = Counts(n11=4, n10=2, n01=1, n00=3)
    assert ratio_error(c) == 3 / 3
    assert q_statistic(c) == pytest.approx((4 * 3 - 1 * 2) / (4 * 3 + 1 * 2))
    assert disagreement(c) == pytest.approx(0.3)
    assert double_fault(c) == pytest.approx(0.3)
    other = Counts(n11=1, n10=3, n01=4, n00=2)
    assert ratio_error(other) == 3.5
    assert q_statistic(other) == pytest.approx((2 - 12) / (2 + 12))
    assert disagreement(other) == pytest.approx(0.7)
    assert double_fault(other) == pytest.approx(0.2)


def test_the_ratio_without_simultaneous_errors_is_twice_the_share_of_different_ones():
    assert ratio_error(Counts(n11=5, n10=2, n01=1, n00=0)) == pytest.approx(2 * 3 / 8)
    assert ratio_error(Counts(n11=5, n10=0, n01=0, n00=0)) == 0


def test_q_is_undefined_at_a_zero_denominator():
    assert math.isnan(q_statistic(Counts(n11=5, n10=2, n01=0, n00=0)))
    assert q_statistic(Counts(n11=5, n10=0, n01=0, n00=1)) == 1
    assert q_statistic(Counts(n11=0, n10=2, n01=3, n00=0)) == -1


def test_networks_are_compared_on_the_same_samples_only():
    with pytest.raises(InputError, match="as many"):
        counts(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))
    with pytest.raises(InputError, match="at least one"):
        counts(torch.ones(0, dtype=torch.bool), torch.ones(0, dtype=torch.bool))
    with pytest.raises(InputError, match="same samples"):
        linear_cka(torch.ones(3, 2), torch.ones(4, 2))


def test_accuracy_is_the_mean_over_domains():
    assert predictions(A).accuracy == pytest.approx((6 / 8 + 0 / 2) / 2)


def features(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_cka_does_not_see_orthogonal_maps_shifts_and_scaling():
    x, y = features(50, 8, 0), features(50, 8, 1)
    orthogonal = torch.linalg.qr(features(8, 8, 2)).Q
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ orthogonal + 5) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x @ orthogonal, 0.1 * y) == pytest.approx(linear_cka(x, y), abs=1e-6)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x))


def test_cka_sees_other_linear_maps():
    x = features(50, 8, 0)
    stretched = x * torch.tensor([30.0, *[1.0] * 7])
    assert linear_cka(x, stretched) < 0.6


@pytest.mark.parametrize("shape", [(40, 5, 5), (10, 30, 20)])
def test_cka_equals_its_formula_on_features(shape):
    n, d, e = shape
    x, y = features(n, d, 0).double(), features(n, e, 1).double()
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(x, y) == pytest.approx(expected.item())


def test_cka_of_features_that_do_not_vary_is_undefined():
    assert math.isnan(linear_cka(torch.ones(4, 2), features(4, 2, 0)))
