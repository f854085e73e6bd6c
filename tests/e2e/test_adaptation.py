"""Domain adaptation: unlabelled samples of test domains, from the command line to the update."""

import json

import pytest
import torch

from domainbed import algorithms
from domainbed.algorithms import ERM
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.engine.splits import Subset
from domainbed.hparams_registry import SPACES
from domainbed.scripts import collect_results, sweep, train

SEEN: list[list[torch.Tensor]] = []


class Adapting(ERM):
    """Minimises the entropy of what it predicts for unlabelled samples, too."""

    def update(self, minibatches, unlabeled=None):
        SEEN.append(unlabeled)
        values = super().update(minibatches)
        p = torch.cat([self.predict(x) for x in unlabeled]).softmax(1)
        entropy = -(p * p.log()).sum(1).mean()
        self.optimizer.zero_grad()
        entropy.backward()
        self.optimizer.step()
        return {**values, "entropy": entropy.item()}


@pytest.fixture
def adapting():
    SEEN.clear()
    algorithms.add("Adapting", Adapting)
    yield SEEN
    del algorithms.REGISTRY["Adapting"], SPACES["Adapting"]


ADAPT = ("--task", "domain_adaptation", "--uda_holdout_fraction", "0.4")


def options(dataset="Debug28", fraction=0.4, test_envs=(0, 1), **more):
    hparams = '{"batch_size": 4, "class_balanced": true}'
    return Options(
        dataset=dataset, task="domain_adaptation", uda_holdout_fraction=fraction,
        test_envs=test_envs, trial_seed=1, **{"hparams": hparams, **more},
    )  # fmt: skip


def test_the_samples_to_adapt_to_are_public_domainbeds():
    splits = Run(options(), {}).splits
    assert [list(split.uda) for split in splits] == [[1, 4, 2, 0, 12], [5, 7, 0, 11, 3], []]
    assert list(splits[0].out) == [15, 10, 13] and list(splits[2].out) == [8, 1, 13]
    assert list(splits[0].in_) == [6, 3, 8, 14, 7, 5, 11, 9]
    assert list(splits[1].in_) == [8, 9, 12, 4, 13, 15, 14, 1]


def test_one_batch_for_each_test_domain_drawn_from_its_samples_to_adapt_to():
    run = Run(options(), {})
    images = [Subset(run.environments[env], run.splits[env].uda) for env in (0, 1)]
    for minibatches in run.stream().steps(0, 3, 0):
        assert len(minibatches) == 3  # domain 2 to train on, then 0 and 1
        for (x, _), allowed in zip(minibatches[1:], images):
            assert all(any(torch.equal(row, image) for image, _ in allowed) for row in x)


def test_balancing_classes_uses_no_label_of_a_test_domain():
    first, *others = Run(options(), {}).stream().sources
    assert first.weights is not None and [source.weights for source in others] == [None, None]


def test_train_adapts_and_records_it(tmp_path, adapting):
    words = [*ADAPT, "--dataset", "RotatedDigits", "--algorithm", "Adapting", "--steps", "2"]
    words += ["--test_envs", "0", "2", "--hparams", '{"batch_size": 3}']
    assert train.main([*words, "--output_dir", str(tmp_path / "run")]) == 0
    assert [[x.shape for x in unlabeled] for unlabeled in adapting] == [[(3, 1, 28, 28)] * 2] * 2
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        assert [env for env in range(4) if f"env{env}_uda_acc" in record] == [0, 2]
        assert record["args"]["uda_holdout_fraction"] == 0.4 and record["entropy"] > 0


def test_without_the_task_the_samples_are_only_set_aside(tmp_path, adapting):
    words = ["--dataset", "Debug28", "--steps", "1", "--hparams", '{"batch_size": 3}']
    words += ["--uda_holdout_fraction", "0.4", "--output_dir", str(tmp_path / "run")]
    assert train.main(words) == 0 and adapting == []
    record = json.loads((tmp_path / "run" / "results.jsonl").read_text())
    assert "env0_uda_acc" in record and "env1_uda_acc" not in record


@pytest.mark.parametrize(
    "given, what",
    [
        ({"fraction": 0.0}, "--uda_holdout_fraction is 0.0"),
        ({"test_envs": (-1,)}, r"--test_envs is \[-1\]"),
        ({"fraction": 1.0}, "expected 0 <= x < 1"),
        ({"fraction": 0.1}, "leaves 1 samples of domain '0' of Debug28.*batch_size=4"),
        ({"test_envs": (1, 1)}, "names a domain twice"),
    ],
)
def test_what_cannot_be_adapted_to_is_told(given, what):
    with pytest.raises(ValueError, match=what) as error:
        Run(options(**given), {})
    assert "\n" not in str(error.value)


def test_sweeps_adapt_too(tmp_path, capsys):
    words = ["launch", "--output_dir", str(tmp_path), "--datasets", "Debug28", "--algorithms"]
    words += ["ERM", "--n_hparams", "1", "--n_trials", "1", "--steps", "1", "--single_test_envs"]
    words += ["--skip_confirmation", "--command_launcher", "local"]
    words += ["--hparams", '{"batch_size": 2}', "--task", "domain_adaptation"]
    assert sweep.main(words) == 2
    assert "give --uda_holdout_fraction" in capsys.readouterr().err
    assert sweep.main([*words, "--uda_holdout_fraction", "0.4"]) == 0
    files = list(tmp_path.glob("*/results.jsonl"))
    assert len(files) == 3 and all("_uda_acc" in file.read_text() for file in files)
    assert collect_results.main(["--input_dir", str(tmp_path)]) == 0
