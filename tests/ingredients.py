"""Pools of ingredients for tests: what fills them, spoils them, and asks them."""

import json
import re

import torch

from domainbed.lib import weights
from domainbed.networks import foundations
from domainbed.runs import LAST
from ratatouille_algorithms.pool import CARD
from ratatouille_algorithms.pool import pool as folders
from ratatouille_algorithms.scripts import pool

DIGITS = ["--backbone", "mnist_cnn", "--input_shape", "1", "28", "28", "--foundation", "letters"]


def letters(scale=1.0):
    """The tensors of the letters' network, scaled."""
    return {name: t * scale for name, t in weights.read(foundations.LETTERS)[0].items()}


def run(*arguments):
    return pool.main([str(argument) for argument in arguments])


def refusal(capsys, *arguments):
    """The one line that a refused command tells."""
    capsys.readouterr()
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def edit(path, **values):
    """Change top-level values of a card by hand."""
    text = path.read_text()
    for key, value in values.items():
        line = f"{key} = {json.dumps(value)}"
        text, n = re.subn(rf"^{key} = .*$", line, text, count=1, flags=re.M)
        assert n
    path.write_text(text)


def rewrite(folder, state=None, **header):
    """Give an ingredient other tensors or another header, and a card that fits them."""
    own, own_header = weights.read(folder / LAST)
    weights.save(folder / LAST, {**own, **(state or {})}, {**own_header, **header})
    digest = folders.sha256_of(folder / LAST)
    edit(folder / CARD, sha256=digest, size=(folder / LAST).stat().st_size)


def public_run(folder, test_envs, state):
    """An auxiliary folder as the public code leaves it: pickles and records."""
    folder.mkdir()
    torch.save(state, folder / "featurizer_last.pkl")
    args = {"dataset": "RotatedDigits", "algorithm": "ERM", "test_envs": test_envs}
    args |= {"trial_seed": 0, "hparams_seed": 1, "output_dir": "/home/someone/out"}
    record = {"step": 300, "env0_out_acc": 0.5, "env1_out_acc": 0.75, "env0_in_acc": 1.0}
    record |= {"hparams": {"lr": 5e-5, "resnet18": False}, "args": args}
    (folder / "results.jsonl").write_text(json.dumps(record) + "\n")
    return folder
