"""An interrupted run goes on and ends as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from tiny import outcome

from domainbed import algorithms, hparams_registry
from domainbed.engine import checkpoint
from domainbed.engine.options import Options
from domainbed.engine.trainer import Trainer
from domainbed.runs import BEST, STATE, RunFolder, run_folders
from domainbed.scripts import train, train_autolr

pytestmark = pytest.mark.usefixtures("tiny_datasets")

STEPS = 8
TRAINED = [*algorithms.ALGORITHMS, "FineTuning", "InterTraining", "Fusing"]
EARLY = ("anneal_iters", "burnin_iters", "linear_steps", "lp_steps", "ma_start")


def words(folder, algorithm, *more):
    early = [n for n in hparams_registry.names(algorithm, "TinyStripes") if n.endswith(EARLY)]
    hparams = {"batch_size": 3, **dict.fromkeys(early, 3)}
    return [
        *("--dataset", "TinyStripes", "--algorithm", algorithm, "--steps", str(STEPS)),
        *("--checkpoint_freq", "3", "--hparams", json.dumps(hparams), "--seed", "5"),
        *("--output_dir", str(folder), *more),
    ]


def undisturbed(folder, main, argv):
    """What a run that nobody interrupts ends with; its folder is free again after that."""
    assert main(argv) == 0
    expected = outcome(folder)
    shutil.rmtree(folder)
    return expected


def interrupt(monkeypatch, at, main, argv, how="ask"):
    """Run a command and ask it to stop after its update number `at`, counted over all training."""
    update, n = Trainer._update, 0

    def counted(self, *args):
        nonlocal n
        update(self, *args)
        n += 1
        if n == at:
            getattr(checkpoint.STOP, how)()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", counted)
        return main(argv)


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_datasets):
    """Weights that every algorithm of the recipe can start from, without its other needs."""
    folder = tmp_path_factory.mktemp("start") / "erm"
    assert train.main(words(folder, "ERM")) == 0
    return folder


@pytest.mark.parametrize("algorithm", TRAINED)
def test_every_algorithm_goes_on_bit_for_bit(tmp_path, monkeypatch, start, algorithm):
    more = ["--path_init", str(start)] if algorithm in TRAINED[-3:] else []
    cut = tmp_path / "run"
    argv = words(cut, algorithm, *more)
    expected = undisturbed(cut, train.main, argv)
    at = random.Random(algorithm).randrange(1, STEPS)
    assert interrupt(monkeypatch, at, train.main, argv) == checkpoint.EXIT_CODE
    assert not (cut / "done").exists() and not (cut / "failed").exists()
    assert train.main(argv) == 0
    assert f"going on after step {at - 1}" in (cut / "out.txt").read_text()
    assert outcome(cut) == expected and not list(cut.glob("state*"))


def test_a_probe_goes_on_bit_for_bit(tmp_path, monkeypatch, start):
    cut = tmp_path / "run"
    argv = words(cut, "FineTuning", "--path_init", str(start), "--what_is_trainable", "classifier")
    expected = undisturbed(cut, train.main, argv)
    assert interrupt(monkeypatch, 5, train.main, argv) == checkpoint.EXIT_CODE
    assert train.main(argv) == 0 and outcome(cut) == expected


def test_a_compiled_run_goes_on_bit_for_bit(tmp_path, monkeypatch):
    cut = tmp_path / "run"
    argv = ["--dataset", "Debug28", "--steps", "6", "--checkpoint_freq", "3", "--compile"]
    argv += ["--hparams", '{"batch_size": 3}', "--output_dir", str(cut)]
    expected = undisturbed(cut, train.main, argv)
    assert interrupt(monkeypatch, 3, train.main, argv) == checkpoint.EXIT_CODE
    assert train.main(argv) == 0 and outcome(cut) == expected


def test_workers_and_many_interruptions_change_nothing(tmp_path, monkeypatch):
    cut = tmp_path / "run"
    expected = undisturbed(cut, train.main, words(cut, "Mixup"))
    for _ in range(3):
        argv = words(cut, "Mixup", "--num_workers", "1")
        assert interrupt(monkeypatch, 2, train.main, argv) == checkpoint.EXIT_CODE
    assert train.main(words(cut, "Mixup")) == 0
    assert outcome(cut) == expected


@pytest.mark.parametrize("at", [2, 11])
def test_training_twice_goes_on_in_either_half(tmp_path, monkeypatch, at):
    cut = tmp_path / "run"
    argv = words(cut, "ERM")
    expected = undisturbed(cut, train_autolr.main, argv)
    assert interrupt(monkeypatch, at, train_autolr.main, argv) == checkpoint.EXIT_CODE
    assert train_autolr.main(argv) == 0
    assert outcome(cut) == expected


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """The folder of a run that was interrupted after step 4, its command line, how it ends."""
    folder, argv = tmp_path / "run", words(tmp_path / "run", "VREx")
    expected = undisturbed(folder, train.main, argv)
    assert interrupt(monkeypatch, 5, train.main, argv) == checkpoint.EXIT_CODE
    return folder, argv, expected


def cut_state(folder):
    (path,) = folder.glob("state-*.pt")
    path.write_bytes(path.read_bytes()[:-100])


def flip_state(folder):
    (path,) = folder.glob("state-*.pt")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def lose_state(folder):
    next(folder.glob("state-*.pt")).unlink()


def cut_description(folder):
    (folder / STATE).write_text((folder / STATE).read_text()[:40])


def lose_records(folder):
    (folder / "results.jsonl").write_text("")


def other_version(folder):
    about = json.loads((folder / STATE).read_text())
    (folder / STATE).write_text(json.dumps({**about, "code_version": "0.0"}))


@pytest.mark.parametrize(
    "damage",
    [cut_state, flip_state, lose_state, cut_description, lose_records, other_version],
    ids=lambda f: f.__name__,
)
def test_a_damaged_state_is_not_used(interrupted, damage, caplog):
    folder, argv, expected = interrupted
    damage(folder)
    assert train.main(argv) == 0
    assert "starting anew" in caplog.text
    assert outcome(folder) == expected


def test_records_after_the_state_are_written_again(interrupted):
    folder, argv, expected = interrupted
    with open(folder / "results.jsonl", "a") as file:
        file.write('{"step": 6, "half a rec')
    assert train.main(argv) == 0
    assert outcome(folder) == expected


def test_other_arguments_start_anew(interrupted):
    folder, argv, _ = interrupted
    assert train.main([*argv, "--seed", "6"]) == 0
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["args"]["seed"] for line in lines} == {6}


def test_a_state_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, monkeypatch, caplog):
    cut = tmp_path / "run"
    argv = words(cut, "ERM", "--checkpoint_seconds", "0")
    expected = undisturbed(cut, train.main, argv)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    assert train.main(argv) == 0 and outcome(cut) == expected
    assert "could not be saved after step 1 ([Errno 28]" in caplog.text
    assert not list(cut.glob(".state*"))


def test_a_run_that_was_taken_over_writes_nothing_more(tmp_path, monkeypatch):
    argv = words(tmp_path / "run", "ERM")
    assert interrupt(monkeypatch, 5, train.main, argv, "lose") == checkpoint.EXIT_CODE
    assert not list((tmp_path / "run").glob("state*"))


def test_states_are_as_far_apart_as_they_are_expensive(tmp_path):
    keeper = checkpoint.Keeper(RunFolder(tmp_path), Options(), torch.nn.Identity())
    for cost, gap in ((0.01, checkpoint.LEAST_SECONDS), (1.0, 1.0 / checkpoint.SHARE)):
        keeper.cost = cost
        keeper.saved_at = time.monotonic() - gap + 1
        assert not keeper.is_due(at_checkpoint=True)
        keeper.saved_at -= 2
        assert keeper.is_due(at_checkpoint=True) and not keeper.is_due(at_checkpoint=False)


def test_a_state_runs_no_code(interrupted, tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    folder, argv, _ = interrupted
    (path,) = folder.glob("state-*.pt")
    path.write_bytes(pickle.dumps(Bomb()))
    about = json.loads((folder / STATE).read_text())
    about["sha256"] = checkpoint.sha256_of(path)
    (folder / STATE).write_text(json.dumps(about))
    assert train.main(argv) == 0 and not (tmp_path / "exploded").exists()


def test_signals_save_the_state(tmp_path):
    folder = tmp_path / "run"
    argv = ["--dataset", "RotatedDigits", "--steps", "300", "--checkpoint_freq", "299"]
    argv += ["--hparams", '{"batch_size": 2, "backbone": "mlp"}', "--output_dir", str(folder)]
    command = [sys.executable, "-m", "domainbed.scripts.train", *argv]

    def begun():
        text = (folder / "out.txt").read_text() if (folder / "out.txt").exists() else ""
        return text.count("going on after step") + (folder / "results.jsonl").exists()

    for n, name in enumerate(["SIGTERM", "SIGUSR1", "SIGINT"]):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while begun() == n and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=60)
        assert process.returncode == checkpoint.EXIT_CODE and b"run it again to go on" in err
        assert (folder / STATE).exists() and not (folder / "done").exists()
        assert not RunFolder(folder).is_locked()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert begun() == 4


def lose_best(folder):
    for path in [folder / BEST, *folder.glob("state-*.model_best")]:
        path.unlink()


def cut_best(folder):
    for path in {p.stat().st_ino: p for p in folder.glob("*model_best*")}.values():
        path.write_bytes(path.read_bytes()[:-40])


def flip_best(folder):
    for path in {p.stat().st_ino: p for p in folder.glob("*model_best*")}.values():
        data = bytearray(path.read_bytes())
        data[-9] ^= 255
        path.write_bytes(data)


@pytest.mark.parametrize("damage", [lose_best, cut_best, flip_best])
def test_a_state_whose_weights_are_lost_or_damaged_is_not_used(interrupted, caplog, damage):
    folder, argv, expected = interrupted
    damage(folder)
    assert train.main(argv) == 0 and outcome(folder) == expected
    assert "model_best.safetensors that were kept with it are lost or damaged" in caplog.text


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_weights_are_taken_back_from_the_state(interrupted, damage):
    folder, argv, expected = interrupted
    (kept,) = folder.glob("state-*.model_best")
    content = kept.read_bytes()
    (folder / BEST).unlink()  # as when later ones took its place
    (folder / BEST).write_bytes(b"later")
    damage(folder / BEST)
    assert kept.read_bytes() == content
    assert train.main(argv) == 0 and outcome(folder) == expected


@pytest.mark.parametrize("other", [["--trial_seed", "1"], ["--seed", "9"], ["--steps", "3"]])
def test_an_interrupted_run_of_other_arguments_is_moved_aside(interrupted, caplog, other):
    folder, argv, expected = interrupted
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert train.main([*argv, *other]) == 0
    aside = folder.with_name(f"{folder.name}.1")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert f"held a run of other arguments, which is in {aside} now" in caplog.text
    folder.rename(folder.with_name("other"))
    aside.rename(folder)
    assert train.main(argv) == 0 and outcome(folder) == expected  # it goes on from there


def test_an_interrupted_run_of_another_version_is_moved_aside(interrupted, monkeypatch, caplog):
    folder, argv, expected = interrupted
    description = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**description, "code_version": "0.0.1"}))
    assert train.main(argv) == 0 and outcome(folder) == expected
    assert "held a run of another version, which is in" in caplog.text


def test_a_job_of_a_sweep_is_moved_where_no_table_looks(tmp_path):
    folder = RunFolder(tmp_path / ("0a" * 16))
    folder.create()
    (folder / "results.jsonl").write_text("{}\n")
    assert folder.holds_work()
    assert folder.move_aside() == tmp_path / "aside" / f"{folder.path.name}.1"
    assert not folder.holds_work() and list(run_folders(tmp_path)) == []


def test_records_of_a_run_without_a_state_are_kept(interrupted):
    folder, argv, expected = interrupted
    records = (folder / "results.jsonl").read_text()
    (folder / STATE).unlink()
    assert train.main(argv) == 0 and outcome(folder) == expected
    assert (folder / "results.before.jsonl").read_text() == records
