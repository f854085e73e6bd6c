"""`sweep verify`: what was damaged after it was written is found, named and set aside."""

import json
import shutil

import pytest
import torch

from domainbed.lib import weights
from domainbed.runs import LAST, RunFolder
from domainbed.scripts import sweep

pytestmark = pytest.mark.usefixtures("tiny_datasets")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_datasets, in_process):
    folder = tmp_path_factory.mktemp("finished")
    words = ["launch", "--datasets", "TinyStripes", "--algorithms", "ERM", "--n_hparams", "1"]
    words += ["--n_trials", "1", "--single_test_envs", "--steps", "3", "--checkpoint_freq", "1"]
    words += ["--hparams", '{"batch_size": 2}', "--skip_confirmation", "--output_dir", str(folder)]
    assert sweep.main([*words, "--command_launcher", "in_process"]) == 0
    return folder


@pytest.fixture
def runs(finished, tmp_path):
    """A copy of a finished sweep of three runs, and its run folders."""
    root = shutil.copytree(finished, tmp_path / "runs")
    return root, sorted(path.parent for path in root.glob("*/run.json"))


def verify(root, *more):
    return sweep.main(["verify", "--output_dir", str(root), *more])


def test_what_was_written_is_sound(runs, capsys):
    root, folders = runs
    assert verify(root) == 0
    assert capsys.readouterr().out == "3 runs: 3 sound, 0 damaged\n"
    files = RunFolder(folders[0]).description()["files"]
    assert set(files) == {"model.safetensors", "model_best.safetensors"}


def cut(folder):
    file = folder / LAST
    file.write_bytes(file.read_bytes()[:-7])
    return "cannot be read"


def flip(folder):
    data = bytearray((folder / LAST).read_bytes())
    data[-1] ^= 1
    (folder / LAST).write_bytes(data)
    return "sha256 differs"


def poison(folder):
    state, header = weights.read(folder / LAST)
    name = next(name for name in state if state[name].ndim)
    state[name].view(-1)[0] = torch.nan
    weights.save(folder / LAST, state, header)
    return "not finite"


def lose(folder):
    (folder / LAST).unlink()
    return LAST


def half_a_record(folder):
    text = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(text[:-20])
    return "line 3 is no whole record"


def back_in_time(folder):
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join([*lines, lines[0]]))
    return "line 4 is of step 0, after step 2"


def no_records(folder):
    (folder / "results.jsonl").unlink()
    return "results.jsonl cannot be read"


def other_args(folder):
    run = json.loads((folder / "run.json").read_text())
    run["args"]["holdout_fraction"] = 0.3
    (folder / "run.json").write_text(json.dumps(run))
    return "belong in folder"


def half_a_description(folder):
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text[: len(text) // 2])
    return "run.json is damaged"


DAMAGES = [cut, flip, poison, lose, half_a_record, back_in_time, no_records, other_args]


@pytest.mark.parametrize("damage", [*DAMAGES, half_a_description], ids=lambda f: f.__name__)
def test_damage_is_found_and_set_aside(runs, capsys, damage):
    root, folders = runs
    told = damage(folders[1])
    assert verify(root) == 1
    out, err = capsys.readouterr()
    assert told in err and str(folders[1]) in err
    assert all(str(folder) not in err for folder in (folders[0], folders[2]))
    assert "3 runs: 2 sound, 1 damaged" in out
    assert verify(root, "--set_aside") == 1
    assert not folders[1].exists() and (root / "damaged" / folders[1].name).is_dir()
    capsys.readouterr()
    assert verify(root) == 0 and "2 runs: 2 sound" in capsys.readouterr().out


def test_a_folder_must_be_there(tmp_path, capsys):
    assert verify(tmp_path / "none") == 2
    assert "not a folder" in capsys.readouterr().err
