"""Parameters and gradients of plug-ins are contiguous, as gradient surgery takes them to be."""

import json

import pytest
import torch

from domainbed import algorithms, hparams_registry
from domainbed.engine import checkpoint
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.engine.trainer import Trainer
from domainbed.scripts import train

pytestmark = pytest.mark.usefixtures("tiny_datasets")


@pytest.fixture
def surgery(monkeypatch):
    """An algorithm that looks at parameters and gradients as flat vectors, by both ways to them."""
    erm = algorithms.get_algorithm_class("ERM")

    class Surgery(erm):
        def update(self, minibatches, unlabeled=None):
            total = torch.cat([p.view(1, -1) for p in self.parameters()], 1)
            for x, y in minibatches:
                loss = torch.nn.functional.cross_entropy(self.predict(x), y)
                grads = torch.autograd.grad(loss, list(self.network.parameters()))
                total = total + 0 * torch.cat([g.view(1, -1) for g in grads], 1)
            values = super().update(minibatches)
            for p in self.network.parameters():
                p.grad.view(-1)
            return values

    for registry, value in (
        (algorithms.REGISTRY, algorithms.Method(Surgery)),
        (hparams_registry.SPACES, ()),
    ):
        items = getattr(registry, "_items", registry)
        monkeypatch.setitem(items, "Surgery", value)
    return "Surgery"


def words(folder, *more):
    return [
        *("--dataset", "TinyStripes", "--algorithm", "Surgery", "--steps", "4"),
        *("--hparams", json.dumps({"batch_size": 3}), "--output_dir", str(folder), *more),
    ]


def test_flat_views_work_in_a_plugin(surgery, tmp_path):
    assert train.main(words(tmp_path / "run")) == 0


def test_flat_views_work_after_an_interruption(surgery, tmp_path, monkeypatch):
    update = Trainer._update

    def last(self, *args):
        update(self, *args)
        checkpoint.STOP.ask()

    argv = words(tmp_path / "run", "--checkpoint_freq", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", last)
        assert train.main(argv) == checkpoint.EXIT_CODE
    assert train.main(argv) == 0


@pytest.mark.parametrize("name, is_last", [("ERM", True), ("Surgery", False)])
def test_only_classes_that_say_so_lie_channels_last(surgery, tmp_path, name, is_last):
    options = Options(dataset="TinyStripes", algorithm=name, hparams='{"batch_size": 3}')
    weight = Run(options, {}).build().featurizer.conv2.weight
    assert weight.is_contiguous() != is_last
