"""What is promised on a GPU: the same GPU writes the same bytes again, interrupted or not.

Not promised are equal bytes between kinds of GPU, or between runs with --compile.
"""

import json
import shutil

import pytest
import torch
from tiny import outcome

from domainbed import algorithms, hparams_registry, testing
from domainbed.algorithms.base import Algorithm
from domainbed.engine import checkpoint, restoring, rng, state
from domainbed.engine.trainer import Trainer
from domainbed.runs import run_folders
from domainbed.scripts import collect_results, sweep, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("tiny_datasets"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here"),
]
DEVICE = torch.device("cuda")
EARLY = ("anneal_iters", "burnin_iters", "linear_steps", "lp_steps", "ma_start")


def hparams_of(name, dataset="Debug28"):
    early = [key for key in hparams_registry.names(name, dataset) if key.endswith(EARLY)]
    return {"batch_size": 3, **dict.fromkeys(early, 3)}


def build(name, seed=0) -> Algorithm:
    rng.seed_all(seed)
    hparams = hparams_registry.resolve(name, "Debug28", None, hparams_of(name))
    return algorithms.get_algorithm_class(name)((3, 28, 28), 4, 3, hparams).to(DEVICE)


def updates(algorithm, steps):
    found = []
    for step in steps:
        batches = testing.minibatches(step, (3, 28, 28), 4, 3)
        on_device = [(x.to(DEVICE), y.to(DEVICE)) for x, y in batches]
        found.append(testing.update(algorithm, step, on_device))
    return found


@pytest.fixture(autouse=True)
def deterministic():
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_every_algorithm_updates_and_goes_on(name):
    algorithm, twin = build(name), build(name)
    made = state.Made(algorithm)
    assert updates(algorithm, range(4)) == updates(twin, range(4))
    resumed = build(name, seed=1)
    restoring.load(resumed, state.saved(algorithm, made))
    assert updates(algorithm, range(4, 7)) == updates(resumed, range(4, 7))
    theirs = resumed.state_dict()
    for key, value in algorithm.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert value.device.type == DEVICE.type and torch.equal(value, theirs[key]), key


def words(folder, name, *more):
    return [
        *("--dataset", "TinyStripes", "--algorithm", name, "--steps", "8", "--seed", "5"),
        *("--checkpoint_freq", "3", "--hparams", json.dumps(hparams_of(name, "TinyStripes"))),
        *("--output_dir", str(folder), *more),
    ]


@pytest.mark.parametrize("more", [(), ("--precision", "bf16")], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", ["ERM", "Fish", "DANN", "MLDG"])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, monkeypatch, name, more):
    argv = words(tmp_path / "run", name, *more)
    assert train.main(argv) == 0
    expected = outcome(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    update = Trainer._update

    def interrupted(self, step, *rest):
        update(self, step, *rest)
        if step == 4:
            checkpoint.STOP.ask()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", interrupted)
        assert train.main(argv) == checkpoint.EXIT_CODE
    assert train.main(argv) == 0
    assert outcome(tmp_path / "run") == expected


def test_a_compiled_run_ends(tmp_path):
    assert train.main(words(tmp_path / "run", "ERM", "--compile")) == 0


@pytest.mark.parametrize("launcher", ["workers", "multi_gpu"])
def test_a_sweep_with_probes_and_averages(tmp_path, launcher, capsys):
    argv = ["launch", "--datasets", "RotatedDigits", "--single_test_envs", "--n_trials", "1"]
    argv += ["--algorithms", "ERM", "DiWA_uniform", "DiWA_greedy", "--n_hparams", "2"]
    argv += ["--steps", "3", "--hparams", '{"batch_size": 4}', "--skip_confirmation"]
    argv += ["--output_dir", str(tmp_path / "runs"), "--command_launcher", launcher]
    assert sweep.main(argv) == 0
    assert all(folder.is_done for folder in run_folders(tmp_path / "runs"))
    assert collect_results.main(["--input_dir", str(tmp_path / "runs")]) == 0
    assert "DiWA_greedy" in capsys.readouterr().out
