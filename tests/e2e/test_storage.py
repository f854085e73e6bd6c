"""Disks that are full or read-only, and files that were cut: nothing finished is lost, or wrong."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from domainbed.engine import checkpoint
from domainbed.engine.options import Options
from domainbed.lib import reporting, stored, weights
from domainbed.registry import InputError
from domainbed.runs import BEST, STATE, RunFolder, run_folders
from domainbed.scripts import collect_results, sweep, train
from ratatouille_algorithms import inventory

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))
import tiny_sweep

MEGABYTE = 2**20
SHORT = ["--steps", "9", "--checkpoint_freq", "4"]


def launch(root, **how):
    """Launch the tiny sweep as a user does; return the exit code and all that was said."""
    done = subprocess.run(
        tiny_sweep.command(root, "workers", *SHORT),
        env=tiny_sweep.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        **how,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed") / "runs"
    assert launch(root)[0] == 0
    return root


def mount(place, options):
    """Mount a disk of memory, or change its options; skip the test where that is not allowed."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    mount(place, "size=6m")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def check_what_is_done(root, undisturbed):
    """What is done is whole; return how many runs are."""
    n_done = 0
    for folder in run_folders(root):
        if folder.is_done:
            theirs = undisturbed / folder.path.relative_to(root)
            for path in theirs.glob("*.safetensors"):
                ours, expected = (weights.read(p)[0] for p in (folder / path.name, path))
                assert weights.content_hash(ours) == weights.content_hash(expected)
            n_done += 1
    return n_done


@pytest.mark.slow
def test_a_full_disk(disk, undisturbed):
    root = disk / "runs"
    code, said = launch(root)
    assert code == 1 and "No space left" in said and "Traceback" not in said
    n_done = check_what_is_done(root, undisturbed)
    assert 0 < n_done < 8 and f"8 jobs: {n_done} done" in said
    mount(disk, "remount,size=200m")
    assert launch(root)[0] == 0
    assert check_what_is_done(root, undisturbed) == 8
    assert tiny_sweep.results(root) == tiny_sweep.results(undisturbed)


def test_files_that_may_not_grow(tmp_path, undisturbed):
    root, limit = tmp_path / "runs", MEGABYTE // 2
    assert max(path.stat().st_size for path in undisturbed.rglob(BEST)) > limit
    code, said = launch(
        root, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert code == 1 and "File too large" in said and "Traceback" not in said
    assert launch(root)[0] == 0
    assert tiny_sweep.results(root) == tiny_sweep.results(undisturbed)
    assert check_what_is_done(root, undisturbed) == 8


def test_a_read_only_folder(disk, undisturbed, capsys):
    mount(disk, "remount,size=200m")
    root = disk / "runs"
    shutil.copytree(undisturbed, root)
    shutil.rmtree(next(folder.path for folder in run_folders(root)))
    mount(disk, "remount,ro")
    code, said = launch(root)
    assert code == 2 and len(said.splitlines()) == 1 and "cannot be written" in said
    assert collect_results.main(["--input_dir", str(root)]) == 0
    assert "DiWA_uniform" in capsys.readouterr().out
    assert sweep.main(["verify", "--output_dir", str(root)]) == 0


def cuts(path):
    """The file's content cut at every hundredth of its length."""
    content = path.read_bytes()
    return [content[: len(content) * percent // 100] for percent in range(100)]


def test_cut_records(undisturbed, tmp_path, capsys):
    source = next(undisturbed.rglob("results.jsonl"))
    whole, _ = reporting.read_records(source.parents[1])
    run = tmp_path / source.parent.name
    shutil.copytree(source.parent, run)
    whole = RunFolder(run).records()
    for content in cuts(source):
        (run / source.name).write_bytes(content)
        records, problems = reporting.read_records(tmp_path)
        assert records == whole[: len(records)]
        n_lines = content.count(b"\n")
        assert n_lines <= len(records) <= n_lines + 1
        is_cut = len(content.splitlines()) > len(records)
        assert any("damaged" in problem for problem in problems) == is_cut
        if is_cut:
            assert collect_results.main(["--input_dir", str(tmp_path), "--strict"]) != 0
            assert inventory.read(tmp_path)[0].problems
    assert sweep.main(["verify", "--output_dir", str(tmp_path)]) == 1
    assert "is no whole record" in capsys.readouterr().err


def test_cut_weights(undisturbed, tmp_path):
    source = next(undisturbed.rglob(BEST))
    path = tmp_path / BEST
    for content in cuts(source):
        path.write_bytes(content)
        for read in (weights.read, stored.read_header):
            with pytest.raises(InputError, match=str(path)):
                read(path)


@pytest.mark.usefixtures("tiny_datasets")
def test_cut_states(tmp_path, monkeypatch, caplog):
    folder = RunFolder(tmp_path / "run")
    argv = ["--dataset", "TinyStripes", "--steps", "6", "--checkpoint_freq", "3"]
    argv += ["--hparams", '{"batch_size": 3}', "--output_dir", str(folder.path)]
    assert train.main(argv) == 0
    expected, _ = weights.read(folder / BEST)
    recorded = folder.description()["args"]
    shutil.rmtree(folder.path)
    measure = checkpoint.Keeper.is_due
    monkeypatch.setattr(checkpoint.Keeper, "is_due", lambda self, _: checkpoint.STOP.ask() or True)
    assert train.main(argv) == checkpoint.EXIT_CODE
    monkeypatch.setattr(checkpoint.Keeper, "is_due", measure)

    options = Options.of_args(recorded)
    assert checkpoint.find(folder, options, "cpu") is not None
    (state,) = folder.path.glob("state-*.pt")
    for path in (state, folder / STATE):
        content = path.read_bytes()
        for cut in cuts(path):
            path.write_bytes(cut)
            caplog.clear()
            assert checkpoint.find(folder, options, "cpu") is None
            assert "starting anew" in caplog.text
        path.write_bytes(content)
    assert checkpoint.find(folder, options, "cpu") is not None
    state.write_bytes(cuts(state)[50])
    assert train.main(argv) == 0
    assert weights.content_hash(weights.read(folder / BEST)[0]) == weights.content_hash(expected)
