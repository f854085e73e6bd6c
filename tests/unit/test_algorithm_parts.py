"""The parts that algorithms are made of, against closed forms and slower ways."""

import pytest
import torch
import torch.nn.functional as F

from domainbed import algorithms, hparams_registry, testing
from domainbed.algorithms import adrmx, cad, dann, mldg, rdm, sagnet, transfer, trm, urm
from domainbed.engine import rng
from domainbed.registry import InputError


def make(name, **own):
    """A small algorithm of vectors of 12, three classes and three domains."""
    rng.seed_all(0)
    values = hparams_registry.resolve(name, "Debug28", None, {"mlp_width": 16, **own})
    return algorithms.get_algorithm_class(name)((12,), 3, 3, values)


def batches(step):
    return testing.minibatches(step, (12,), 3, 3)


def test_fish_with_meta_lr_one_is_adam_over_domains_in_turn():
    fish, erm = make("Fish", meta_lr=1.0), make("ERM")
    for step in range(2):
        fish.update(batches(step))
        for minibatch in batches(step):
            erm.update([minibatch])
    x = batches(9)[0][0]
    torch.testing.assert_close(fish.predict(x), erm.predict(x))


def test_fish_with_meta_lr_zero_stays():
    fish = make("Fish", meta_lr=0.0)
    before = fish.predict(batches(9)[0][0])
    fish.update(batches(0))
    torch.testing.assert_close(fish.predict(batches(9)[0][0]), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("n_domains", "n_meta_test", "n_pairs"), [(3, 1, 2), (3, 2, 1), (2, 2, 1), (5, 2, 3)]
)
def test_mldg_pairs_have_disjoint_domains(n_domains, n_meta_test, n_pairs):
    torch.manual_seed(0)
    for _ in range(20):
        pairs = mldg.split_pairs(list(range(n_domains)), n_meta_test)
        train, test = {p[0] for p in pairs}, {p[1] for p in pairs}
        assert len(pairs) == len(train) == n_pairs
        assert not train & test


def test_mldg_needs_two_domains():
    values = hparams_registry.resolve("MLDG", "Debug28", None, {})
    with pytest.raises(InputError, match="at least 2"):
        algorithms.get_algorithm_class("MLDG")((12,), 3, 1, values)


def test_arm_gives_each_group_its_own_context():
    arm = make("ARM", batch_size=8).eval()
    one, two = batches(0)[0][0], batches(0)[1][0]
    together = arm.predict(torch.cat([one, two]))
    torch.testing.assert_close(together, torch.cat([arm.predict(one), arm.predict(two)]))
    alone = torch.cat([arm.predict(one[:3]), arm.predict(one[3:])])
    assert not torch.allclose(alone, arm.predict(one), atol=1e-6)


def test_cdann_weighs_classes_the_same():
    cdann = make("CDANN", grad_penalty=0.0)
    y = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    z, d = torch.randn(7, cdann.featurizer.n_outputs), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    logits = cdann.discriminator(z + cdann.class_embeddings(y))
    expected = sum(F.cross_entropy(logits[y == c], d[y == c]) for c in range(3)) / 3
    torch.testing.assert_close(cdann._disc_loss(z, y, d), expected)


def test_dann_penalises_the_gradient_of_each_sample():
    z, d = torch.randn(6, 16), torch.arange(6) % 3
    y = torch.zeros(6, dtype=torch.int64)
    plain, penalised = make("DANN", grad_penalty=0.0), make("DANN", grad_penalty=0.5)
    grads = torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda v, i=i: F.cross_entropy(plain.discriminator(v[None]), d[i : i + 1]), z[i]
            )
            for i in range(6)
        ]
    )
    expected = plain._disc_loss(z, y, d) + 0.5 * grads.square().sum(1).mean()
    torch.testing.assert_close(penalised._disc_loss(z.clone(), y, d), expected)


def test_domain_labels_follow_unequal_batches():
    sizes = (2, 1, 3)
    minibatches = [(torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64)) for n in sizes]
    assert dann.domain_labels(minibatches).tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("shape", [(10, 32), (10, 4, 5, 5)])
def test_sagnet_swaps_style_or_content(shape):
    torch.manual_seed(0)
    z = torch.randn(*shape) * torch.linspace(1, 3, 10).view(-1, *[1] * (len(shape) - 1))

    def parts(z):
        flat = z.flatten(2) if z.dim() > 2 else z
        mean, var = flat.mean(-1, keepdim=True), flat.var(-1, keepdim=True)
        return (flat - mean) / (var + 1e-5).sqrt(), mean

    content, mean = parts(z)
    styled, swapped = parts(sagnet.randomise(z, "style")), parts(sagnet.randomise(z, "content"))
    torch.testing.assert_close(styled[0], content, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(styled[1], mean, atol=1e-3)
    torch.testing.assert_close(swapped[1], mean, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(swapped[0], content, atol=1e-3)


def test_trm_inverse_hessian_is_the_neumann_series():
    torch.manual_seed(0)
    weight, z, y = torch.randn(3, 4) * 0.3, torch.randn(9, 4), torch.arange(9) % 3
    v = 0.1 * torch.randn(3, 4)
    hessian = torch.autograd.functional.hessian(lambda w: F.cross_entropy(z @ w.T, y), weight)
    hessian = hessian.reshape(12, 12)
    terms = [v.flatten()]
    for _ in range(trm.N_NEUMANN_TERMS):
        terms.append(terms[-1] - hessian @ terms[-1])
    expected = sum(terms) + terms[1] - terms[0]  # as in DomainBed
    assert expected.abs().max() < trm.LARGEST  # or the series would be cut
    actual = trm.inverse_hessian_product(v, z, (z @ weight.T).softmax(1))
    torch.testing.assert_close(actual.flatten(), expected, rtol=1e-4, atol=1e-5)
    long = trm.inverse_hessian_product(100 * v, z, (z @ weight.T).softmax(1))
    assert long.abs().max() < 100 * expected.abs().max()


@pytest.mark.parametrize("radius", [0.5, 100.0])
def test_transfer_projects_on_the_ball(radius):
    torch.manual_seed(0)
    module, centre = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

    def offset():
        pairs = zip(module.parameters(), centre.parameters())
        return torch.cat([(w - c).detach().flatten() for w, c in pairs])

    before = offset()
    transfer.project(module, centre, radius)
    expected = before * min(1.0, radius / before.norm().item())
    torch.testing.assert_close(offset(), expected, rtol=1e-4, atol=1e-6)
    transfer.project(centre, centre, radius)
    assert all(p.isfinite().all() for p in centre.parameters())


def test_transfer_trains_the_network_with_gda():
    algorithm = make("Transfer", gda=True)
    before = [p.clone() for p in algorithm.featurizer.parameters()]
    algorithm.update(batches(0))
    assert any((p != b).any() for p, b in zip(algorithm.featurizer.parameters(), before))


def test_rdm_discrepancy_is_that_of_means_of_kernels():
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([3.0])

    def kernel(distance):
        return sum(torch.exp(torch.tensor(-g * distance**2)) for g in rdm.GAMMAS)

    expected = (2 * kernel(0) + 2 * kernel(1)) / 4 + kernel(0) - (kernel(3) + kernel(2))
    torch.testing.assert_close(rdm.mmd(a, b), expected)
    torch.testing.assert_close(rdm.mmd(a, a), torch.tensor(0.0))


def test_adrmx_contrast_of_two_pairs():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    y = torch.tensor([0, 1, 1])
    other = torch.tensor([0.0, 1.0]).softmax(0)[1]  # the positive's share at temperature 1
    expected = -2 * (other + 1e-5).log() / 3
    torch.testing.assert_close(adrmx.supervised_contrastive(z, y, 1.0), expected)
    assert adrmx.supervised_contrastive(z, torch.arange(3)) == 0


def test_cad_shares_of_a_table():
    scores = torch.arange(9.0).view(3, 3)
    whole = ~torch.eye(3, dtype=torch.bool)
    part = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 0, 0]], dtype=torch.bool)
    expected = torch.tensor([-torch.tensor(1.0).exp().log1p(), 0.0])
    torch.testing.assert_close(cad.log_shares(scores, part, whole), expected)
    assert cad.mean_or_zero(cad.log_shares(scores, part & False, whole)) == 0


@pytest.mark.parametrize("name", ["CAD", "CondCAD"])
@pytest.mark.parametrize("is_flipped", [True, False])
def test_cad_options_train(name, is_flipped):
    algorithm = make(name, is_flipped=is_flipped, is_project=True, is_normalized=True)
    head = algorithm.project[0].weight.clone()
    assert algorithm.update(batches(0))["bn_loss"] * (1 if is_flipped else -1) > 0
    assert (algorithm.project[0].weight != head).any()


@pytest.mark.parametrize("name", ["urm", "urm_generator_output", "urm_discriminator_optimizer"])
def test_urm_names_what_it_knows(name):
    with pytest.raises(InputError, match=f"'{name}' was given 'none'"):
        make("URM", **{name: "none"})


def test_urm_features_are_bounded_where_they_are_classified():
    algorithm = make("URM")
    x = batches(0)[0][0] * 1e4
    expected = algorithm.classifier(algorithm.featurizer(x).tanh())
    torch.testing.assert_close(algorithm.predict(x), expected)
    assert len(list(urm.Discriminator(4, 3).children())) == 5


def test_erm_plus_plus_predicts_with_the_mean_of_the_weights(monkeypatch):
    monkeypatch.setattr("domainbed.algorithms.erm_plus_plus.AVERAGE_FROM", 3)
    algorithm = make("ERMPlusPlus", linear_steps=1)
    weights = []
    for step in range(6):
        before = algorithm.featurizer.input.weight.clone()
        algorithm.update(batches(step))
        is_moved = not torch.equal(algorithm.featurizer.input.weight, before)
        assert is_moved == (step > 1)
        weights.append(algorithm.classifier.weight.detach().clone())
        expected = torch.stack(weights[min(step, 1) :]).mean(0)  # from the last before the third
        torch.testing.assert_close(algorithm.network_sma[1].weight.data, expected)


def test_erm_plus_plus_with_lars_resumes():
    pytest.importorskip("timm")
    values = hparams_registry.resolve("ERMPlusPlus", "Debug28", None, {"linear_steps": 1})
    values["lars"] = True
    testing.check_algorithm(algorithms.get_algorithm_class("ERMPlusPlus"), values)
