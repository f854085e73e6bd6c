"""Penalties and the methods around them, against closed forms and invariances."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from domainbed import algorithms, hparams_registry, testing
from domainbed.algorithms import and_mask, eqrm, penalties
from domainbed.engine import rng
from domainbed.registry import InputError

DISTANCES = [penalties.mmd, penalties.coral]


def make(name, n_domains=3, **own):
    """A small algorithm of vectors of 12 and three classes."""
    rng.seed_all(0)
    values = hparams_registry.resolve(name, "Debug28", None, {"mlp_width": 16, **own})
    return algorithms.get_algorithm_class(name)((12,), 3, n_domains, values)


def batches(step, n_domains=3):
    return testing.minibatches(step, (12,), 3, n_domains)


def sample(seed, n=7, features=5):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


def test_domain_risks_follow_batches_of_any_size():
    y = torch.tensor([0, 1, 2, 0, 1])
    minibatches = [(torch.empty(2), y[:2]), (torch.empty(3), y[2:])]
    logits = sample(0, 5, 3)
    expected = [F.cross_entropy(logits[:2], y[:2]), F.cross_entropy(logits[2:], y[2:])]
    assert penalties.domain_risks(logits, minibatches).tolist() == [e.item() for e in expected]


def test_domain_gradients_are_those_of_each_risk_alone():
    used, unused = sample(0).requires_grad_(), sample(1).requires_grad_()
    first, second = penalties.domain_gradients(
        torch.stack([used.sum(), used.square().sum()]), [used, unused]
    )
    torch.testing.assert_close(first, torch.stack([torch.ones(7, 5), 2 * used.detach()]))
    assert not second.any()


def test_irm_and_its_gradient_are_those_of_the_closed_form():
    logits, y = sample(0, 7, 3).requires_grad_(), torch.tensor([0, 1, 2, 0, 1, 2, 1])
    gradients = ((logits.softmax(1) - F.one_hot(y, 3)) * logits).sum(1)
    expected, actual = gradients[::2].mean() * gradients[1::2].mean(), penalties.irm(logits, y)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, logits), torch.autograd.grad(expected, logits)
    )


def test_irm_is_zero_where_a_scale_of_logits_does_not_matter():
    assert penalties.irm(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])).item() == 0.0


def test_mean_variance_is_that_of_numpy():
    z = sample(0)
    expected = np.var(z.numpy(), axis=0, ddof=1).mean()
    assert penalties.mean_variance(z).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_ignore_order_and_a_common_shift(distance):
    a, b = sample(0).double(), sample(1, n=4).double()  # by inner products, which cancel
    expected = distance(a, b)
    assert expected > 0
    torch.testing.assert_close(distance(b, a), expected)
    torch.testing.assert_close(distance(a.flip(0), b.flip(0)), expected)
    torch.testing.assert_close(distance(a + 1, b + 1), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_of_a_sample_to_itself_is_zero(distance):
    z = sample(0).double()
    assert distance(z, z.flip(0)).item() == pytest.approx(0, abs=1e-12)


def test_mmd_is_the_sum_over_all_pairs_and_kernels():
    a, b = sample(0).double(), sample(1, n=4).double()

    def mean_kernel(a, b):
        pairs = [((x - y) ** 2).sum().item() for x in a for y in b]
        return sum(math.exp(-g * d) for g in penalties.GAMMAS for d in pairs) / len(pairs)

    expected = mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)
    assert penalties.mmd(a, b).item() == pytest.approx(expected, rel=1e-9)


def test_coral_has_a_part_for_means_and_one_for_covariances():
    z = sample(0).double()
    shift = torch.arange(5.0).double()
    assert penalties.coral(z, z + shift).item() == pytest.approx(6.0)  # (0+1+4+9+16) / 5
    centred = z - z.mean(0)
    expected = (3 * torch.cov(z.T)).square().mean().item()
    assert penalties.coral(centred, 2 * centred).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "of_one",
    [
        lambda z: penalties.irm(z, torch.tensor([0])),
        penalties.mean_variance,
        lambda z: penalties.coral(z, sample(0)),
        lambda z: penalties.coral(sample(0), z),
    ],
)
def test_one_sample_has_no_spread(of_one):
    with pytest.raises(InputError, match="at least 2"):
        of_one(sample(1, n=1))


@pytest.mark.parametrize("q", [0.05, 0.5, 0.75, 0.99])
def test_density_quantile_has_its_share_of_the_density_below(q):
    values = sample(0, 6, 1)[:, 0].double()
    kernels = torch.distributions.Normal(values, 1.06 * values.std() * 6**-0.2)
    quantile = eqrm.density_quantile(values, q)
    assert kernels.cdf(quantile).mean().item() == pytest.approx(q, abs=1e-7)


def test_density_quantile_moves_and_grows_with_its_values():
    values = sample(0, 6, 1)[:, 0].double().requires_grad_()
    quantile = eqrm.density_quantile(values, 0.75)
    moved = eqrm.density_quantile(2 * values + 3, 0.75)
    assert moved.item() == pytest.approx(2 * quantile.item() + 3)
    gradient = torch.autograd.grad(quantile, values)[0]
    assert gradient.sum().item() == pytest.approx(1)
    assert (gradient @ values).item() == pytest.approx(quantile.item())


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5]])
def test_density_quantile_of_equal_values_is_their_mean(values):
    values = torch.tensor(values, requires_grad=True)
    quantile = eqrm.density_quantile(values, 0.9)
    quantile.backward()
    assert quantile.item() == 0.5
    assert values.grad.tolist() == pytest.approx([1 / len(values)] * len(values))


ERM_AT = {
    "IRM": {"irm_lambda": 0.0, "irm_penalty_anneal_iters": 0},
    "VREx": {"vrex_lambda": 0.0, "vrex_penalty_anneal_iters": 0},
    "IB_ERM": {"ib_penalty_anneal_iters": 9},
    "IB_IRM": {"irm_lambda": 0.0, "irm_penalty_anneal_iters": 0, "ib_penalty_anneal_iters": 9},
    "EQRM": {"eqrm_burnin_iters": 9},
    "Fishr": {"penalty_anneal_iters": 9},
    "SD": {"sd_reg": 0.0},
    "GroupDRO": {"groupdro_eta": 0.0},
    "MMD": {"mmd_gamma": 0.0},
    "CORAL": {"mmd_gamma": 0.0},
    "CausIRL_MMD": {"mmd_gamma": 0.0},
    "CausIRL_CORAL": {"mmd_gamma": 0.0},
    "IGA": {"penalty": 0.0},
    "ANDMask": {"tau": 0.0},
    "SANDMask": {"tau": -1.0, "k": 1e9},
}


@pytest.mark.parametrize("name", ERM_AT)
def test_without_its_penalty_a_method_is_erm(name):
    method, erm = make(name, **ERM_AT[name]), make("ERM")
    for step in range(3):
        method.update(batches(step))
        erm.update(batches(step))
    x = batches(9)[0][0]
    torch.testing.assert_close(method.predict(x), erm.predict(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*ERM_AT, "Mixup", "RSC"])
def test_one_domain_is_enough(name):
    method = make(name, n_domains=1, **ERM_AT.get(name, {}))
    for step in range(2):
        testing.update(method, step, batches(step, n_domains=1))


def test_a_new_adam_starts_at_the_first_update_past_a_start_that_is_no_whole_number():
    method, optimizers = make("EQRM", eqrm_lr=1e-9), []
    method.hparams["eqrm_burnin_iters"] = 1.5  # as draws are
    for step in range(4):
        method.update(batches(step))
        optimizers.append(method.optimizer)
    assert optimizers[0] is optimizers[1] and optimizers[2] is optimizers[3]
    assert optimizers[1] is not optimizers[2]
    assert [o.param_groups[0]["lr"] for o in optimizers] == [1e-3, 1e-3, 1e-9, 1e-9]


def test_either_penalty_that_sets_in_starts_a_new_adam():
    method = make("IB_IRM", irm_penalty_anneal_iters=1, ib_penalty_anneal_iters=2)
    optimizers = []
    for step in range(4):
        method.update(batches(step))
        optimizers.append(method.optimizer)
    assert [a is b for a, b in pairwise(optimizers)] == [False, False, True]


def test_penalties_weigh_what_they_should_before_and_after_they_set_in():
    irm = make("IRM", irm_lambda=50.0, irm_penalty_anneal_iters=1)
    for step, weight in enumerate([1, 50]):
        row = irm.update(batches(step))
        assert row["loss"] == pytest.approx(row["nll"] + weight * row["penalty"], rel=1e-5)


def risks_of(method):
    """The risks (domains,) of the first minibatches."""
    return torch.stack([F.cross_entropy(method.predict(x), y) for x, y in batches(0)])


def test_vrex_penalises_the_variance_of_risks():
    vrex = make("VREx")
    expected = np.var(risks_of(vrex).tolist())
    assert vrex.update(batches(0))["penalty"] == pytest.approx(expected, rel=1e-4)


def test_iga_penalises_the_distances_of_gradients_to_their_mean():
    iga = make("IGA")
    rows = []
    for risk in risks_of(iga):
        grads = torch.autograd.grad(risk, list(iga.network.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in grads]).numpy())
    expected = 3 * np.var(rows, axis=0).sum()
    assert iga.update(batches(0))["penalty"] == pytest.approx(expected, rel=1e-4)


def test_group_dro_weighs_domains_by_their_risks():
    dro = make("GroupDRO", groupdro_eta=0.5)
    risks = risks_of(dro).detach()
    q = (0.5 * risks).softmax(0)
    assert dro.update(batches(0))["loss"] == pytest.approx((q @ risks).item())
    torch.testing.assert_close(dro.q, q)


def test_and_mask_moves_where_signs_agree():
    gradients = torch.tensor([[1.0, 2.0, -1.0], [1.0, -2.0, -2.0], [1.0, 2.0, -3.0]])
    torch.testing.assert_close(and_mask.agreement(gradients), torch.tensor([1, 1 / 3, 1]))
    assert make("ANDMask", tau=1.0)._mask(gradients).tolist() == [1, 0, 1]


def test_and_mask_divides_by_the_share_that_moves():
    method = make("ANDMask", tau=1.0)
    parameters = list(method.network.parameters())
    gradients = penalties.domain_gradients(risks_of(method), parameters)
    method.update(batches(0))
    for p, g in zip(parameters, gradients):
        is_moved = (g.sign() == g.sign()[0]).all(0) & (g[0] != 0)
        expected = torch.where(is_moved, g.mean(0), 0.0)
        if is_moved.any():
            expected = expected / is_moved.float().mean()
        torch.testing.assert_close(p.grad, expected)


def test_sand_mask_is_smaller_where_sizes_differ():
    gradients = torch.tensor([[1.0, 2.0, -1.0], [1.0, -2.0, -3.0], [1.0, 2.0, -5.0]])
    mask = make("SANDMask", tau=0.5, k=2.0)._mask(gradients).tolist()
    assert mask == pytest.approx([1.0, 0.0, math.tanh(2 * 0.5 / 4)])  # variances 0, 16/3, 4


def test_sand_mask_moves_nothing_at_a_tau_of_one():
    sand, x = make("SANDMask"), batches(9)[0][0]
    before = sand.predict(x)
    sand.update(batches(0))
    torch.testing.assert_close(sand.predict(x), before, rtol=0, atol=0)


def test_rsc_mutes_a_share_of_features_where_that_lowers_the_probability_most():
    every = make("RSC", rsc_f_drop_factor=0.25, rsc_b_drop_factor=1.0)
    half = make("RSC", rsc_f_drop_factor=0.25, rsc_b_drop_factor=0.5)
    z, y = sample(0, 8, 16), torch.arange(8) % 3
    muted = every._mask(z.clone(), y)
    assert muted.sum(1).tolist() == [12] * 8
    with torch.no_grad():
        before, after = (every.classifier(f).softmax(1)[range(8), y] for f in (z, z * muted))
    is_muted = ~half._mask(z.clone(), y).all(1)
    falls = before - after
    assert is_muted.sum() == 4
    assert falls[is_muted].min() > falls[~is_muted].max()


def test_mixup_of_equal_domains_is_erm_on_one():
    mixup, erm = make("Mixup"), make("ERM")
    for step in range(2):
        one = batches(step)[0]
        assert mixup.update([one] * 3)["loss"] == pytest.approx(erm.update([one])["loss"], rel=1e-5)


def test_mixup_takes_batches_of_different_sizes():
    (x1, y1), (x2, y2), _ = batches(0)
    assert math.isfinite(make("Mixup").update([(x1[:3], y1[:3]), (x2, y2)])["loss"])


def test_causirl_compares_what_is_before_cuts_with_what_is_after():
    method, features = make("CausIRL_CORAL"), [sample(0), sample(1)]
    np.random.seed(0)
    first, second = np.random.randint(7), np.random.randint(7)
    np.random.seed(0)
    expected = penalties.coral(
        torch.cat([features[0][:first], features[1][:second]]),
        torch.cat([features[0][first:], features[1][second:]]),
    )
    assert method._penalty(features).item() == expected.item()


def test_causirl_has_no_penalty_for_a_mixture_of_less_than_two():
    assert make("CausIRL_MMD")._penalty([sample(0, n=1)] * 3).item() == 0.0
