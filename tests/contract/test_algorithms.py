"""Promises that every built-in algorithm keeps."""

import json

import pytest
import torch
from conftest import GOLDEN

from domainbed import algorithms, hparams_registry, testing
from domainbed.engine import rng

ROWS = json.loads((GOLDEN / "algorithm_losses.json").read_text())
SHORT = {
    "irm_penalty_anneal_iters",
    "vrex_penalty_anneal_iters",
    "ib_penalty_anneal_iters",
    "rdm_penalty_anneal_iters",
    "penalty_anneal_iters",
    "eqrm_burnin_iters",
    "iters",
    "linear_steps",
}


def hparams_of(name, seed=None, **own):
    """Defaults or a draw, with every annealing over after two steps."""
    space = hparams_registry.space(name, "Debug28")
    own = {**own, **{key: 2 for key in SHORT & set(space)}}
    values = hparams_registry.resolve(name, "Debug28", seed, own)
    return {**values, "data_augmentation": False}


@pytest.mark.parametrize("name", ROWS)
def test_float32_updates_are_near_those_in_float64(name):
    """A smoke test: Adam's first steps magnify rounding, which differs between processors."""
    row = ROWS[name]
    rng.seed_all(0)
    algorithm = algorithms.get_algorithm_class(name)((3, 28, 28), 4, 3, row["hparams"])
    parameters = dict(algorithm.named_parameters())
    for key, expected in row["init"].items():
        assert parameters[key].detach().sum().item() == pytest.approx(expected, abs=1e-2), key
    for step, expected in enumerate(row["losses"]):
        rng.seed_all(step)
        torch.manual_seed(1000 + step)
        values = algorithm.update(testing.minibatches(step, (3, 28, 28), 4, 3))
        assert values == pytest.approx(expected, rel=0.5, abs=0.5), step


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_contract(name):
    testing.check_algorithm(algorithms.get_algorithm_class(name), hparams_of(name))


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_contract_with_vectors_and_two_domains(name):
    cls = algorithms.get_algorithm_class(name)
    testing.check_algorithm(cls, hparams_of(name, seed=1), (12,), num_classes=3, num_domains=2)


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_a_class_may_be_missing_or_have_one_image(name):
    hparams = hparams_of(name)
    algorithm = algorithms.get_algorithm_class(name)((3, 28, 28), 4, 3, hparams)
    rng.seed_all(0)
    one_each = [(torch.randn(4, 3, 28, 28), torch.arange(4)) for _ in range(3)]
    missing = [(torch.randn(6, 3, 28, 28), torch.tensor([d, d, 1, 1, 0, 0])) for d in range(3)]
    one_class = [(torch.randn(4, 3, 28, 28), torch.full((4,), d)) for d in range(3)]
    for step, batches in enumerate([one_each, missing, one_class] * 2):
        testing.update(algorithm, step, batches)


APART = {
    "Fish", "GroupDRO", "Mixup", "MLDG", "CORAL", "MMD", "MTL", "ANDMask", "SANDMask", "IGA",
    "CausIRL_CORAL", "CausIRL_MMD", "EQRM",
}  # fmt: skip


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_domains_pass_the_network_together_or_apart(name):
    """Which batch norms notice; as in public DomainBed."""
    algorithm = algorithms.get_algorithm_class(name)((12,), 4, 3, hparams_of(name))
    sizes = set()
    featurizer = getattr(algorithm, "featurizer", None) or algorithm.featurizer_label
    featurizer.register_forward_hook(lambda module, args, output: sizes.add(len(output)))
    testing.update(algorithm, 0, testing.minibatches(0, (12,), 4, 3))
    assert sizes == ({8} if name in APART else {8, 24} if name == "Transfer" else {24})


@pytest.mark.slow
@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_drawn_hparams_keep_training_finite(name):
    for seed in range(1, 21):
        hparams = hparams_of(name, seed)
        rng.seed_all(seed)
        algorithm = algorithms.get_algorithm_class(name)((3, 28, 28), 4, 3, hparams)
        for step in range(50):
            testing.update(algorithm, step, testing.minibatches(step, (3, 28, 28), 4, 3))
