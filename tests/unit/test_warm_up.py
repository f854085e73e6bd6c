"""The warm-up of the head, and what follows, are those of public ModelRatatouille."""

import json

import pytest
import torch
from conftest import GOLDEN
from public_updates import difference, double, seed_all
from public_warm_up import HPARAMS, LP_STEPS, N_CLASSES, SHAPE, minibatches, trained

from domainbed import algorithms, hparams_registry, protocols

ROW = json.loads((GOLDEN / "warm_up.json").read_text())


def recycled(n_head_updates):
    """A run that starts from the head of one network and the featurizer of another."""
    hparams = {**hparams_registry.default_hparams("InterTraining", "RotatedMNIST"), **HPARAMS}
    parts = []
    for seed in (0, 7):
        seed_all(seed)
        parts.append(algorithms.get_algorithm_class("ERM")(SHAPE, N_CLASSES, 3, hparams))
    algorithm = algorithms.get_algorithm_class("InterTraining")(SHAPE, N_CLASSES, 3, hparams)
    algorithm.double()
    algorithm.classifier.load_state_dict(parts[0].classifier.state_dict())
    algorithm.featurizer.load_state_dict(parts[1].featurizer.state_dict())
    algorithm.n_head_updates = n_head_updates
    return algorithm


def test_40_updates_across_its_end_are_those_of_the_public_code():
    with double():
        assert difference(trained(recycled(LP_STEPS + 1)), ROW) < 1e-6


def test_its_length_matters():
    with double():
        assert difference(trained(recycled(LP_STEPS)), ROW) > 1e-6


def test_the_ratatouille_protocol_has_an_update_more():
    default = hparams_registry.default_hparams("InterTraining", "PACS")["lp_steps"]
    assert protocols.get_protocol("ratatouille").hparams["lp_steps"] == default + 1 == 201


@pytest.mark.parametrize("n", [1, 3])
def test_the_featurizer_stays_and_then_adam_starts_anew(n):
    algorithm = recycled(n).float()
    algorithm.optimizer = first = algorithm.new_optimizer()
    before = {k: v.clone() for k, v in algorithm.featurizer.state_dict().items() if "bn" not in k}
    for step in range(n):
        algorithm.update([(x.float(), y) for x, y in minibatches(step)])
    state = algorithm.featurizer.state_dict()
    assert all(torch.equal(state[k], v) for k, v in before.items())
    algorithm.update([(x.float(), y) for x, y in minibatches(n)])
    assert algorithm.optimizer is not first
    assert {float(s["step"]) for s in algorithm.optimizer.state.values()} == {1.0}
    state = algorithm.featurizer.state_dict()
    assert not all(torch.equal(state[k], v) for k, v in before.items())
