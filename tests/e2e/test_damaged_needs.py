"""A launch makes damaged runs anew that its jobs need, whenever the damage is met."""

import pytest

from domainbed import verification
from domainbed.lib import weights
from domainbed.runs import BEST, run_folders
from domainbed.scripts import sweep

pytestmark = pytest.mark.usefixtures("tiny_datasets")


def launch(root, *algorithms, more=()):
    words = ["launch", "--datasets", "TinyStripes", "--n_hparams", "2", "--n_trials", "1"]
    words += ["--single_test_envs", "--steps", "2", "--hparams", '{"batch_size": 2}']
    words += ["--skip_confirmation", "--output_dir", str(root), "--algorithms", *algorithms]
    return sweep.main([*words, "--command_launcher", "in_process", *more])


def members(root, env=0):
    found = (f for f in run_folders(root) if f.description()["args"]["algorithm"] == "FineTuning")
    return sorted(
        (f for f in found if f.description()["args"]["test_envs"] == [env]), key=lambda f: f.path
    )


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def empty(file):
    file.write_bytes(b"")


def lose(file):
    file.unlink()


def garble(file):
    """Of the right size under a right header, but of other numbers that are not finite."""
    state, _ = weights.read(file)
    content = bytearray(file.read_bytes())
    n = sum(x.numel() * x.element_size() for x in state.values())
    content[-n:] = b"\xff" * n
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, lose, garble], ids=lambda f: f.__name__)
def test_what_is_damaged_is_made_anew(tmp_path, in_process, capsys, damage):
    root = tmp_path / "runs"
    assert launch(root, "FineTuning") == 0
    before = {f.path: (f / BEST).read_bytes() for f in members(root)}
    damage(members(root)[0] / BEST)
    capsys.readouterr()
    assert launch(root, "FineTuning", "DiWA_uniform") == 0
    said = capsys.readouterr().out
    assert "is done again" in said and members(root)[0].path.name in said
    assert (root / "damaged" / members(root)[0].path.name).is_dir()
    assert {f.path: (f / BEST).read_bytes() for f in members(root)} == before


def test_what_is_sound_stays(tmp_path, in_process, capsys):
    root = tmp_path / "runs"
    assert launch(root, "FineTuning") == 0
    assert launch(root, "DiWA_uniform") == 0
    assert not (root / "damaged").exists() and "done again" not in capsys.readouterr().out


def test_nothing_is_moved_to_print_commands(tmp_path, in_process):
    root = tmp_path / "runs"
    assert launch(root, "FineTuning") == 0
    cut(members(root)[0] / BEST)
    assert launch(root, "DiWA_uniform", more=["--command_launcher", "dummy"]) == 0
    assert not (root / "damaged").exists()


def test_what_cannot_be_moved_is_told_and_left(tmp_path, in_process, capsys, monkeypatch):
    root = tmp_path / "runs"
    assert launch(root, "FineTuning") == 0
    cut(members(root)[0] / BEST)

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(verification, "set_aside", refused)
    assert launch(root, "DiWA_uniform") == 1
    assert "cannot be set aside: Permission denied" in capsys.readouterr().err
