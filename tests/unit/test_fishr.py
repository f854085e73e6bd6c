"""Fishr against gradients taken one sample at a time and averages in a plain loop."""

import pytest
import torch
import torch.nn.functional as F

from domainbed import algorithms, hparams_registry, testing
from domainbed.algorithms import fishr
from domainbed.engine import rng


def make(**own):
    """Fishr on vectors of 12, three classes and three domains."""
    rng.seed_all(0)
    own = {"mlp_width": 16, "ema": 0.9, "penalty_anneal_iters": 2, **own}
    values = hparams_registry.resolve("Fishr", "Debug28", None, own)
    return algorithms.get_algorithm_class("Fishr")((12,), 3, 3, values)


def batches(step):
    return testing.minibatches(step, (12,), 3, 3)


def one_at_a_time(classifier, z, y):
    """Gradients (batch, weights) by one backward pass for each sample."""
    rows = []
    for one, label in zip(z.split(1), y.split(1)):
        risk = F.cross_entropy(classifier(one), label)
        grads = torch.autograd.grad(risk, list(classifier.parameters()), create_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


@pytest.mark.parametrize("is_nonlinear", [False, True])
def test_sample_gradients(is_nonlinear):
    method = make(nonlinear_classifier=is_nonlinear)
    (x, y), *_ = batches(0)
    z = method.featurizer(x)
    actual = fishr.sample_gradients(method.classifier, z, y)
    torch.testing.assert_close(actual, one_at_a_time(method.classifier, z, y))


def test_the_penalty_reaches_features_and_weights():
    method = make()
    (x, y), *_ = batches(0)
    for function in (fishr.sample_gradients, one_at_a_time):
        z = method.featurizer(x)
        method.zero_grad()
        function(method.classifier, z, y).var(0).square().sum().backward()
        grads = [p.grad.clone() for p in method.network.parameters()]
        if function is fishr.sample_gradients:
            expected = grads
    assert all(g.abs().sum() > 0 for g in grads)
    torch.testing.assert_close(grads, expected)


def test_moving_averages_and_penalty_of_a_plain_loop():
    method, ema = make(), 0.9
    averages = [0.0, 0.0, 0.0]
    for step in range(4):
        penalised = []
        for d, (x, y) in enumerate(batches(step)):
            z = method.featurizer(x)
            grads = one_at_a_time(method.classifier, z, y).detach()
            variance = ((grads - grads.mean(0)) ** 2).mean(0)
            averages[d] = ema * averages[d] + (1 - ema) * variance
            penalised.append(averages[d] / (1 - ema))
        mean = sum(penalised) / 3
        expected = sum(((v - mean) ** 2).mean() for v in penalised) / 3
        row = method.update(batches(step))
        assert row["penalty"] == pytest.approx(expected.item(), rel=1e-3)
        torch.testing.assert_close(
            method.state_dict()["moving_variances"], torch.stack(averages), rtol=1e-3, atol=1e-6
        )


def test_the_first_step_is_on_the_newest_variances_alone():
    rows = [make(ema=ema).update(batches(0)) for ema in (0.0, 0.5, 0.9)]
    assert rows[1] == pytest.approx(rows[0], rel=1e-4)
    assert rows[2] == pytest.approx(rows[0], rel=1e-4)


def test_the_penalty_sets_in_after_its_updates():
    method = make(**{"lambda": 10.0})
    for step, weight in enumerate([0, 0, 10, 10]):
        row = method.update(batches(step))
        assert row["loss"] == pytest.approx(row["nll"] + weight * row["penalty"], rel=1e-5)


def test_equal_domains_have_no_penalty():
    assert make().update([batches(0)[0]] * 3)["penalty"] == pytest.approx(0, abs=1e-12)
