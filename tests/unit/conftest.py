"""Pools that several files test."""

import shutil

import pytest
import torch
from ingredients import DIGITS, letters, run

from domainbed.lib import weights
from domainbed.scripts import train


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A pool: `ink`, `noisy`, and `old` with an unknown past."""
    root = tmp_path_factory.mktemp("pools")
    for name, seen, scale in (("ink", ["InkDigits"], 1.01), ("old", [], 1.02)):
        torch.save(letters(scale), root / f"{name}.pkl")
        past = ["--datasets_seen", *seen] if seen else []
        source = root / f"{name}.pkl"
        assert run("add", source, "--pool", root / "pool", "--name", name, *DIGITS, *past) == 0
    weights.save(root / "noisy.safetensors", letters(1.5), {})
    more = ["--datasets_seen", "noisy_digits", "--licence", "MIT", "--id_acc", "0.5"]
    assert run("add", root / "noisy.safetensors", "--pool", root / "pool", "--name", "noisy",
               *DIGITS, *more) == 0  # fmt: skip
    return root / "pool"


@pytest.fixture
def mine(template, tmp_path):
    return shutil.copytree(template, tmp_path / "mine")


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory):
    """A finished run on all domains, as auxiliary runs are."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    arguments = ["--dataset", "InkDigits", "--test_envs", "-1", "--steps", "2"]
    arguments += ["--foundation", "letters", "--hparams", '{"batch_size": 2}']
    assert train.main([*arguments, "--output_dir", str(folder), "--hparams_seed", "3"]) == 0
    return folder
