"""`domainbed.scripts.inference`: averages of anybody's finished runs."""

import json
import os
import shutil

import pytest
import torch

from domainbed import protocols
from domainbed.lib import weights
from domainbed.runs import BEST, LAST, RunFolder
from domainbed.scripts import inference, sweep

pytestmark = pytest.mark.usefixtures("tiny_datasets", "in_process")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_datasets, in_process):
    """A finished sweep with DiWA's averages."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["launch", "--datasets", "TinyStripes", "--algorithms", "ERM", "DiWA_uniform"]
    words += ["DiWA_greedy", "--n_hparams", "3", "--n_trials", "2", "--single_test_envs"]
    words += ["--steps", "5", "--checkpoint_freq", "2", "--hparams", '{"batch_size": 4}']
    words += ["--foundation", "letters", "--skip_confirmation", "--output_dir", str(folder)]
    assert sweep.main([*words, "--command_launcher", "in_process"]) == 0
    return folder


def average(folder, *more, test_env=1):
    words = ["--input_dir", str(folder), "--dataset", "TinyStripes", "--test_env", str(test_env)]
    return inference.main([*words, *more])


def found(root, algorithm, test_env=1, trial=0):
    """The folders of an algorithm's runs, by hparams seed."""
    folders = {}
    for path in root.glob("*/run.json"):
        args = json.loads(path.read_text())["args"]
        if (args["algorithm"], args["test_envs"], args["trial_seed"]) == (
            algorithm, [test_env], trial,
        ):  # fmt: skip
            folders[args["hparams_seed"]] = path.parent
    return folders


@pytest.mark.parametrize("rule", ["uniform", "greedy"])
def test_it_is_diwa_over_the_same_runs(runs, tmp_path, capsys, rule):
    out = tmp_path / "average"
    more = ("--algorithm", "FineTuning", "--weight_selection", rule, "--output_dir", str(out))
    assert average(runs, *more) == 0
    (expected,) = RunFolder(found(runs, f"DiWA_{rule}")[0]).records()
    (record,) = RunFolder(out).records()
    accs = {key: value for key, value in expected.items() if key.endswith("_acc")}
    assert {key: record[key] for key in accs} == accs
    assert record["n_members"] == expected["n_members"] and (out / "done").exists()
    one, two = (weights.read(f / LAST)[0] for f in (out, found(runs, f"DiWA_{rule}")[0]))
    assert all(torch.equal(one[name], two[name]) for name in one)
    said = capsys.readouterr().out
    assert f"{record['env1_all_acc']:.6f}" in said and "noisy (test)" in said


def test_trials_are_averaged_together_on_request(runs, capsys):
    assert average(runs, "--algorithm", "FineTuning", "--trial_seed", "-1") == 0
    assert "The average of 6:" in capsys.readouterr().out


@pytest.fixture
def foreign(runs, tmp_path):
    """The same ERM runs as public code would have left them: pickles, a record, done."""
    folder = tmp_path / "public"
    for seed, path in found(runs, "ERM").items():
        new = folder / f"run{seed}"
        new.mkdir(parents=True)
        lines = (path / "results.jsonl").read_text().splitlines()
        (new / "results.jsonl").write_text("".join(public(line) + "\n" for line in lines))
        state, header = weights.read(path / BEST)
        content = {"args": {"seed": 0}, "model_hparams": header["hparams"], "model_dict": state}
        torch.save(content, new / "model_best.pkl")
        (new / "done").write_text("done")
    return folder


def public(line):
    record = json.loads(line)
    del record["args"]["protocol"]
    return json.dumps(record)


def test_public_pickles_are_averaged_like_our_own(runs, foreign, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert average(runs, "--algorithm", "ERM", "--output_dir", str(ours)) == 2  # other heads
    assert average(foreign, "--output_dir", str(theirs)) == 0
    states = [weights.read(path / BEST)[0] for path in found(runs, "ERM").values()]
    mean, header = weights.read(theirs / LAST)
    assert not protocols.get_protocol(header["protocol"]).val_augment  # as their own script does
    for name, tensor in mean.items():
        expected = torch.stack([state[name].double() for state in states]).mean(0)
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-8)
    assert average(foreign, "--weight_selection", "greedy") == 0


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_a_pickle_runs_no_code(foreign, tmp_path, capsys):
    bomb = Bomb(str(tmp_path / "exploded"))
    torch.save({"model_dict": bomb}, foreign / "run1" / "model_best.pkl")
    assert average(foreign, "--strict") == 3
    out, err = capsys.readouterr()
    assert not (tmp_path / "exploded").exists()
    assert "left out" in err and "run1" in err and "The average of 2:" in out


def test_what_is_damaged_or_unfinished_is_named(foreign, capsys):
    (foreign / "run0" / "done").unlink()
    with open(foreign / "run2" / "results.jsonl", "a") as file:
        file.write('{"half')
    assert average(foreign, "--strict") == 3 and average(foreign) == 0
    err = capsys.readouterr().err
    assert "run0 is not finished" in err and "run2" in err


def other_shape(foreign):
    path = foreign / "run1" / "model_best.pkl"
    content = torch.load(path, weights_only=True)
    name = next(n for n in content["model_dict"] if n.startswith("classifier"))
    content["model_dict"][name] = torch.zeros(7, 7)
    torch.save(content, path)
    return "run1.safetensors", "classifier"


def no_head(foreign):
    path = foreign / "run1" / "model_best.pkl"
    content = torch.load(path, weights_only=True)
    names = [n for n in content["model_dict"] if "classifier" in n or n.startswith("network.1")]
    for name in names:
        del content["model_dict"][name]
    torch.save(content, path)
    return "run1.safetensors", "classifier"


def unfinished(foreign):
    for path in foreign.glob("*/done"):
        path.unlink()
    return "no finished run", "TinyStripes"


def nothing(foreign):
    shutil.rmtree(foreign)
    foreign.mkdir()
    return "nothing to average", str(foreign)


@pytest.mark.parametrize("damage", [other_shape, no_head, unfinished, nothing])
def test_what_cannot_be_averaged_is_told(foreign, capsys, damage):
    words = damage(foreign)
    assert average(foreign) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert all(word in line for word in words)


def test_wrong_arguments_are_told(runs, tmp_path, capsys):
    assert average(runs) == 2
    err = capsys.readouterr().err
    assert "ERM" in err and "FineTuning" in err and "--algorithm" in err
    assert average(tmp_path / "none") == 2 and "not a folder" in capsys.readouterr().err
    out = tmp_path / "out"
    more = ("--algorithm", "FineTuning", "--output_dir", str(out))
    assert average(runs, *more) == 0 and average(runs, *more) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert average(runs, "--algorithm", "FineTuning", "--hparams", '{"no": 1}') == 2
    assert average(runs, "--dataset", "TinyStripe") == 2
    assert "Did you mean 'TinyStripes'?" in capsys.readouterr().err
