"""Datasets of plug-ins that contradict themselves are told by one line, before work is spent."""

import re

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from domainbed import datasets, testing
from domainbed.datasets import MultipleDomainDataset, checking
from domainbed.scripts import sweep, train


def part(x=(1, 28, 28), y=None, n=12):
    return TensorDataset(torch.randn(n, *x), torch.arange(n) % 3 if y is None else y)


class Sound(MultipleDomainDataset):
    ENVIRONMENTS = ("a", "b", "c")

    def __init__(self, root, test_envs, hparams):
        self.input_shape, self.num_classes = (1, 28, 28), 3
        self.datasets = [self.part(env) for env in range(3)]

    def part(self, env):
        return part()


class Rows:
    """Samples as they are given, without tensors or targets."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, key):
        return self.samples[key]


X = torch.zeros(1, 28, 28)


def with_part(make):
    """A dataset whose last environment is what `make` returns."""

    class Odd(Sound):
        def part(self, env):
            return make() if env == 2 else part()

    return Odd


def with_fields(**fields):
    class Odd(Sound):
        def __init__(self, root, test_envs, hparams):
            super().__init__(root, test_envs, hparams)
            for name, value in fields.items():
                setattr(self, name, value)

    return Odd


def without(field):
    class Odd(Sound):
        def __init__(self, root, test_envs, hparams):
            super().__init__(root, test_envs, hparams)
            delattr(self, field)

    return Odd


class FourNames(Sound):
    ENVIRONMENTS = ("a", "b", "c", "d")


class TwoNames(Sound):
    ENVIRONMENTS = ("a", "b")


ODD = {
    "more names": (FourNames, "3 environments, but 4 names are in ENVIRONMENTS"),
    "fewer names": (TwoNames, "3 environments, but 2 names are in ENVIRONMENTS"),
    "label above": (with_part(lambda: part(y=torch.arange(12))), "num_classes is 3"),
    "label below": (with_part(lambda: part(y=torch.arange(12) % 3 - 1)), "y is -1"),
    "target above": (with_part(lambda: targets([0] * 11 + [3])), "y is 3"),
    "targets too few": (with_part(lambda: targets([0, 1])), "targets has 2 labels for 12"),
    "float labels": (with_part(lambda: part(y=torch.zeros(12))), "y is 0.0 of float32"),
    "half of the labels": (
        with_part(lambda: part(y=torch.zeros(12, 1).long())),
        "y is of shape .1,. and int64",
    ),
    "32-bit labels": (with_part(lambda: part(y=torch.zeros(12).int())), "y is 0 of int32"),
    "text labels": (with_part(lambda: Rows((X, "cat"))), "y is 'cat'"),
    "bytes": (with_part(lambda: Rows((X.byte(), 0))), "x is torch.uint8; expected torch.float32"),
    "doubles": (with_part(lambda: Rows((X.double(), 0))), "x is torch.float64"),
    "array of bytes": (with_part(lambda: Rows((X.byte().numpy(), 0))), "x is torch.uint8"),
    "pictures": (with_part(lambda: Rows((object(), 0))), "x is a object; expected a tensor"),
    "three items": (with_part(lambda: Rows((X, 0, 1))), "a sample of datasets is 3 items"),
    "one item": (with_part(lambda: Rows(X)), "a sample of datasets is Tensor"),
    "another shape": (with_part(lambda: part((3, 28, 28))), "input_shape, which is .1, 28, 28"),
    "empty": (with_part(lambda: part(n=0)), "'c', datasets has no sample"),
    "no num_classes": (without("num_classes"), "it has no num_classes"),
    "no input_shape": (without("input_shape"), "it has no input_shape"),
    "no datasets": (without("datasets"), "it has no datasets"),
    "real num_classes": (with_fields(num_classes=3.0), "num_classes is 3.0"),
    "no classes": (with_fields(num_classes=0), "num_classes is 0"),
    "input_shape a number": (with_fields(input_shape=784), "input_shape is 784"),
}


def targets(values):
    odd = Rows(*[(X, 0)] * 12)
    odd.targets = values
    return odd


@pytest.fixture
def register(monkeypatch):
    def register(cls):
        monkeypatch.setitem(datasets.REGISTRY._items, "Odd", cls)

    return register


TRAIN = ["--dataset", "Odd", "--steps", "1", "--hparams", '{"batch_size": 2}']


@pytest.mark.parametrize("kind", ODD)
def test_training_names_the_field(kind, register, tmp_path, capsys):
    cls, told = ODD[kind]
    register(cls)
    assert train.main([*TRAIN, "--output_dir", str(tmp_path)]) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "contradicts" in each]
    assert re.search(told, line), line
    assert not (tmp_path / "results.jsonl").exists()
    with pytest.raises(AssertionError, match=told):
        testing.check_dataset(cls)


@pytest.mark.parametrize("kind", ["more names", "fewer names", "label above", "bytes"])
def test_a_sweep_launches_nothing(kind, register, tmp_path, capsys):
    cls, _ = ODD[kind]
    register(cls)
    arguments = ["launch", "--datasets", "Odd", "--algorithms", "ERM", "--n_hparams", "1"]
    arguments += ["--n_trials", "1", "--steps", "1", "--output_dir", str(tmp_path / "s")]
    arguments += ["--skip_confirmation", "--single_test_envs", "--hparams", '{"batch_size": 2}']
    assert sweep.main(arguments) == 2
    err = capsys.readouterr().err
    assert "contradicts itself" in err and "Traceback" not in err
    assert not list((tmp_path / "s").glob("*/results.jsonl"))


def test_what_trained_until_now_goes_on(register, tmp_path):
    for cls in (
        Sound,
        with_part(lambda: Rows(*[(X.numpy(), np.int64(i % 3)) for i in range(12)])),
        with_part(lambda: Rows(*[(X, torch.tensor(i % 3)) for i in range(12)])),
        with_fields(input_shape=torch.Size([1, 28, 28])),
    ):
        made = cls(None, [], {})
        assert checking.contradiction(made, cls.ENVIRONMENTS) is None
    register(Sound)
    assert train.main([*TRAIN, "--output_dir", str(tmp_path)]) == 0


def test_looking_draws_nothing(register, tmp_path):
    """Samples that are read before training leave all later draws as they are."""
    drawn = []

    class Random(Rows):
        def __getitem__(self, key):
            drawn.append(torch.rand(()).item())
            return super().__getitem__(key)

    from domainbed.engine import run

    register(with_part(lambda: Random(*[(X, 0)] * 12)))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run._dataset("Odd", None, (0,), "{}", 1)
    run._dataset.cache_clear()
    assert len(drawn) == 1 and torch.equal(before, torch.get_rng_state())
