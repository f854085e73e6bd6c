"""What algorithm files written for DomainBed import besides its algorithms."""

import itertools

import pytest
import torch
from torch.utils.data import TensorDataset

from domainbed import networks
from domainbed.algorithms import adrmx, eqrm, helpers
from domainbed.hparams_registry import default_hparams
from domainbed.lib import misc
from domainbed.lib.fast_data_loader import (
    FastDataLoader,
    InfiniteDataLoader,
    InfiniteDataLoaderWithoutReplacement,
)
from domainbed.registry import InputError


def batches(*sizes):
    return [(torch.full((n, 2), float(d)), torch.full((n,), d)) for d, n in enumerate(sizes)]


def test_lib_misc_has_them_all():
    for name in helpers.__all__:
        assert getattr(misc, name) is getattr(helpers, name)


def test_pairs_are_a_circle_of_batches_cut_alike():
    for seed in range(5):
        torch.manual_seed(seed)
        pairs = misc.random_pairs_of_minibatches(batches(4, 6, 5))
        order = [(int(one[1][0]), int(two[1][0])) for one, two in pairs]
        assert sorted(a for a, _ in order) == sorted(b for _, b in order) == [0, 1, 2]
        assert all(a != b for a, b in order)
        for (x1, y1), (x2, y2) in pairs:
            n = min((4, 6, 5)[int(y1[0])], (4, 6, 5)[int(y2[0])])
            assert len(x1) == len(y1) == len(x2) == len(y2) == n


def test_meta_test_domains_are_not_for_training():
    pairs = misc.split_meta_train_test(batches(4, 6, 5), num_meta_test=1)
    assert len(pairs) == 2
    assert {int(test[1][0]) for _, test in pairs}.isdisjoint(int(one[1][0]) for one, _ in pairs)
    for (x1, _), (x2, _) in pairs:
        assert len(x1) == len(x2)


def test_weights_by_name_are_added_and_scaled():
    one = misc.ParamDict(a=torch.tensor(2.0), b=torch.tensor(3.0))
    two = misc.ParamDict(b=torch.tensor(5.0), a=torch.tensor(1.0))
    moved = one + 0.5 * (two - one)
    assert moved == {"a": 1.5, "b": 4.0}
    assert (-one / 2 * two)["b"] == -7.5


def test_a_moving_average_lets_the_newest_weigh_one():
    average = misc.MovingAverage(0.75)
    old, new = torch.ones(2, 2), torch.full((2, 2), 3.0, requires_grad=True)
    assert average.update({"a": old})["a"].tolist() == [[1.0] * 4]
    moved = average.update({"a": new})["a"]
    assert moved.tolist() == [[3.75] * 4]
    moved.sum().backward()
    assert (new.grad == 1).all()
    plain = misc.MovingAverage(0.75, oneminusema_correction=False)
    assert plain.update({"a": old})["a"].tolist() == [[0.25] * 4]


def test_distance_between_dicts_is_a_mean_over_entries():
    one = {"a": torch.zeros(3), "b": torch.zeros(1, 1)}
    two = {"b": torch.full((1, 1), 4.0), "a": torch.ones(3)}
    assert misc.l2_between_dicts(one, two).item() == pytest.approx((3 + 16) / 4)


def test_projection_ends_in_the_ball():
    one, two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert misc.proj(0.1, one, two) is one
    difference = torch.nn.utils.parameters_to_vector(
        one.parameters()
    ) - torch.nn.utils.parameters_to_vector(two.parameters())
    assert difference.norm().item() == pytest.approx(0.1, rel=1e-5)


def test_states_are_averaged_from_the_start_on():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    average = misc.ErmPlusPlusMovingAvg(network)
    average.sma_start_iter = 3
    for step, expected in enumerate([0.0, 1.0, 1.5, 2.0]):  # a copy, then 1, 2, 3 averaged
        network[0].weight.data.fill_(step)
        network[1].running_mean.fill_(step)
        average.update_sma()
        state = average.network_sma.state_dict()
        assert (state["0.weight"].item(), state["1.running_mean"].item()) == (expected, expected)


def test_a_nonparametric_quantile_is_that_of_eqrm():
    risks, distribution = torch.tensor([0.1, 0.5, 1.2]), misc.Nonparametric()
    distribution.estimate_parameters(risks)
    quantile = distribution.icdf(torch.tensor(0.75))
    assert quantile.item() == eqrm.density_quantile(risks, 0.75).item()


def test_contrasts_weigh_domains():
    torch.manual_seed(0)
    z, y, d = torch.randn(6, 4), torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 1, 0])
    plain = adrmx.supervised_contrastive(z, y)
    assert misc.SupConLossLambda()(z, y, d).item() == pytest.approx(plain.item(), rel=1e-5)
    scores = (torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(z).T / 0.07).exp()
    terms = []
    for i in range(5):  # the last one has no positive
        w = {j: (0.9 if d[i] == d[j] else 0.1) * scores[i, j] for j in range(6) if j != i}
        positives = [j for j in w if y[i] == y[j]]
        shares = [w[j] / sum(w.values()) + 1e-5 for j in positives]
        terms.append(torch.stack(shares).log().mean())
    expected = -sum(terms) / 6  # one more than there are, as in DomainBed
    actual = misc.SupConLossLambda(lamda=0.9)(z, y, d)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_whole_network_takes_weights():
    hparams = {**default_hparams("ERM", "Debug28"), "mlp_width": 8}
    one, two = (networks.WholeFish((5,), 3, hparams) for _ in range(2))
    x = torch.randn(4, 5)
    assert not torch.equal(one(x), two(x))
    two.reset_weights(one.state_dict())
    assert torch.equal(one(x), two(x))
    assert torch.equal(one(x), networks.WholeFish((5,), 3, hparams, one.state_dict())(x))


def numbers(loader, n):
    return [x.tolist() for (x,) in itertools.islice(iter(loader), n)]


def test_loaders():
    data = TensorDataset(torch.arange(10))
    fast = FastDataLoader(data, 4, num_workers=0)
    for _ in range(2):
        parts = numbers(fast, 9)
        assert [len(part) for part in parts] == [4, 4, 2] and len(fast) == 3
        assert sorted(itertools.chain(*parts)) == list(range(10))
    endless = InfiniteDataLoader(data, None, 4, num_workers=0)
    assert [len(part) for part in numbers(endless, 20)] == [4] * 20
    weights = torch.zeros(10)
    weights[3] = 1
    assert numbers(InfiniteDataLoader(data, weights, 4, 0), 5) == [[3] * 4] * 5
    once = InfiniteDataLoaderWithoutReplacement(data, None, 5, num_workers=0)
    assert sorted(itertools.chain(*numbers(once, 2))) == list(range(10))


def test_a_loader_of_too_little_data_is_an_error():
    with pytest.raises(InputError, match="10 samples is smaller than batch_size 11"):
        InfiniteDataLoader(TensorDataset(torch.arange(10)), None, 11, num_workers=0)
