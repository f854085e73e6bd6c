"""Promises that every dataset and launcher keeps, and what the checks say of those that do not."""

import subprocess

import pytest
import torch
from conftest import DOMAINS
from torch.utils.data import TensorDataset

from domainbed import command_launchers, datasets, testing
from domainbed.command_launchers import multi_gpu
from domainbed.datasets import MultipleDomainDataset

PLAIN = [name for name in datasets.REGISTRY if not datasets.REGISTRY[name].NEEDS_FILES]


@pytest.mark.parametrize("name", PLAIN)
def test_datasets_without_files(name):
    testing.check_dataset(datasets.get_dataset_class(name))


@pytest.mark.parametrize("name", DOMAINS)
def test_datasets_of_photos(name, photos):
    for augmented in (True, False):
        hparams = {"data_augmentation": augmented}
        testing.check_dataset(datasets.get_dataset_class(name), photos, hparams, n_samples=3)


def test_a_folder_of_images(photos):
    testing.check_dataset(datasets.find("terra_incognita", photos), photos, n_samples=2)


class Fine(MultipleDomainDataset):
    ENVIRONMENTS = ("one", "two")

    def __init__(self, root, test_envs, hparams):
        self.input_shape, self.num_classes = (2,), 3
        self.datasets = [self.environment() for _ in range(2)]

    def environment(self):
        return TensorDataset(torch.randn(5, 2), torch.arange(5) % 3)


class Nameless(Fine):
    ENVIRONMENTS = None


class Twins(Fine):
    ENVIRONMENTS = ("one", "one")


class Missing(Fine):
    ENVIRONMENTS = ("one", "two", "three")


class Doubles(Fine):
    def environment(self):
        return TensorDataset(torch.randn(5, 2).double(), torch.arange(5) % 3)


class Infinite(Fine):
    def environment(self):
        return TensorDataset(torch.full((5, 2), torch.inf), torch.arange(5) % 3)


class OutOfRange(Fine):
    def environment(self):
        return TensorDataset(torch.randn(5, 2), torch.arange(5))


class Chance(Fine):
    """Noise from a generator that no seed reaches."""

    generator = torch.Generator()

    def environment(self):
        x = torch.randn(5, 2, generator=self.generator)
        return TensorDataset(x, torch.arange(5) % 3)


class Unstable(torch.utils.data.Dataset):
    """Samples whose view for evaluation is augmented, too."""

    targets = (0, 1, 2, 0, 1)

    def __len__(self):
        return 5

    def __getitem__(self, key):
        return torch.randn(2), self.targets[key]

    def evaluation(self):
        return self


class AugmentedEvaluation(Fine):
    def environment(self):
        return Unstable()


class WrongTargets(Fine):
    def environment(self):
        environment = super().environment()
        environment.targets = [0] * 5
        return environment


class Local(Fine):
    def environment(self):
        environment = super().environment()
        environment.transform = lambda x: x
        return environment


def test_a_small_dataset_passes():
    testing.check_dataset(Fine)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Nameless, "expected names"),
        (Twins, "all different"),
        (Missing, "2 environments, but 3 names"),
        (Doubles, "is torch.float64"),
        (Infinite, "not finite"),
        (OutOfRange, "expected an int from 0 to 2"),
        (Chance, "built again from its seed yields other samples"),
        (AugmentedEvaluation, "evaluation view of 'one' yields other samples"),
        (WrongTargets, "targets of evaluation view of 'one' are not the labels"),
    ],
)
def test_a_broken_promise_is_named(cls, words):
    with pytest.raises(AssertionError, match=words):
        testing.check_dataset(cls)


def test_a_dataset_that_no_worker_could_get():
    with pytest.raises(Exception, match="pickle"):
        testing.check_dataset(Local)


ON_THIS_MACHINE = [name for name in command_launchers.REGISTRY if name not in ("slurm", "ray")]


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_launchers(name, monkeypatch):
    monkeypatch.setattr(
        multi_gpu, "visible_gpus", lambda: ["0", "1"] if name == "multi_gpu" else []
    )
    testing.check_launcher(command_launchers.REGISTRY[name])


def stops_at_a_failure(commands):
    for command in commands:
        if subprocess.call(command, shell=True):
            return


left = []


def does_not_wait(commands):
    for command in commands:
        left.append(subprocess.Popen(command, shell=True, stderr=subprocess.DEVNULL))


def does_not_quote(commands):
    for command in commands:
        subprocess.call(command.split())


def takes_away(commands):
    while commands:
        subprocess.call(commands.pop(), shell=True)


def prints_some(commands):
    print(*commands[1:])


prints_some.only_prints = True


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        (stops_at_a_failure, "only 0, 1 had run"),
        (does_not_wait, "only none had run"),
        (does_not_quote, "only none had run"),
        (takes_away, "changed the list"),
        (prints_some, "did not print 'python -c"),
    ],
)
def test_a_launcher_that_breaks_its_promise(launcher, words):
    with pytest.raises(AssertionError, match=words):
        testing.check_launcher(launcher)
    while left:
        left.pop().wait()
