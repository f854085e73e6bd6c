"""The launcher for Slurm on a real cluster of one node."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domainbed import testing
from domainbed.command_launchers import slurm
from domainbed.command_launchers.node import Work
from domainbed.command_launchers.tasks import Task

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))
import cluster
import tiny_sweep


@pytest.fixture(scope="module")
def loopback():
    """A cluster for the tests of this file."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install submitit")
    if absent := cluster.missing():
        pytest.skip(f"no {', '.join(absent)}: apt-get install slurm-wlm munge")
    with cluster.cluster() as variables, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", variables["SLURM_CONF"])
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def test_the_launcher_keeps_its_promises(loopback, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    testing.check_launcher(slurm.slurm_launcher)


TWICE = """
import os, signal, sys, time
state = sys.argv[1]
def save(*_):
    open(state, "w").write(os.environ["SLURM_RESTART_COUNT"] if again else "0")
    sys.exit(0)
again = os.path.exists(state)
signal.signal(signal.SIGUSR1, save)
open(state + ".started", "w").close()
if again:
    save()
time.sleep(100)
"""


def test_a_task_near_its_end_goes_back_into_the_queue(loopback, tmp_path):
    queue = slurm._Queue(tmp_path, slurm.SlurmOptions())
    state, after = tmp_path / "state", tmp_path / "after"
    task = Task(f"python -c '{TWICE}' {state}")
    (first,) = queue.submit_array([Work([task])], [])
    ids = queue.submit_array([Work([Task(f'python -c \'open("{after}", "w")\'')])], [first])
    tiny_sweep.until((tmp_path / "state.started").exists)
    subprocess.run(["scancel", "--signal=USR2", first], check=True)  # as before a time-out
    tiny_sweep.until(state.exists)
    assert state.read_text() == "0" and not after.exists()
    tiny_sweep.until(lambda: not slurm.in_queue() & {first, *ids})
    assert state.read_text() == "1" and after.exists()


def launch(root: Path, *more: str) -> str:
    words = tiny_sweep.command(root, "slurm", "--launcher_options", "time=10", *more)
    answer = subprocess.run(
        words, env=tiny_sweep.environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    return answer.stdout


def disturb(root: Path) -> None:
    """Signal one run in the middle, and put another one back into the queue."""
    hit: set[Path] = set()

    def interrupt(*command: str) -> bool:
        for folder in set(tiny_sweep.halfway(root)) - hit:
            ledger = json.loads((root / "slurm" / slurm.LEDGER).read_text())
            if subprocess.run([*command, ledger[folder.name]], check=False).returncode:
                continue  # its task has just ended
            tiny_sweep.until(lambda folder=folder: not tiny_sweep.is_alive(folder))
            if not (folder / "done").exists():
                hit.add(folder)
                return True
        return False

    tiny_sweep.until(lambda: interrupt("scancel", "--signal=USR1"))
    tiny_sweep.until(lambda: interrupt("scontrol", "requeue"))


@pytest.mark.slow
def test_a_sweep_with_signals_and_requeues_equals_a_local_one(loopback, tmp_path):
    root, local = tmp_path / "slurm", tmp_path / "local"
    assert "wave 3: 2 jobs in 1 tasks" in launch(root, "jobs_per_task=2")
    n_pickles = len(list((root / "slurm").glob("*_submitted.pkl")))
    again = launch(root, "jobs_per_task=2")  # one or two may be done by now
    assert re.search("[5-8] jobs are in the queue already", again), again
    assert len(list((root / "slurm").glob("*_submitted.pkl"))) == n_pickles
    disturb(root)
    tiny_sweep.until(lambda: not slurm.in_queue(), 240)
    words = tiny_sweep.command(local, "workers")
    subprocess.run(words, env=tiny_sweep.environment(), stdout=subprocess.DEVNULL, check=True)
    assert len(tiny_sweep.results(local)) == 8
    assert tiny_sweep.results(root) == tiny_sweep.results(local)
    assert "SIGUSR1" in "".join(log.read_text() for log in (root / "slurm").glob("*.out"))


def hits_any(*command: str) -> bool:
    """Do it to a task that runs, which may end meanwhile; whether that worked."""
    running = subprocess.check_output(["squeue", "-h", "-r", "-t", "R", "-o", "%i"], text=True)
    return any(subprocess.run([*command, task]).returncode == 0 for task in running.split())


@pytest.mark.slow
def test_the_digits_recipe_runs_through_it(loopback, tmp_path):
    root, local = tmp_path / "slurm", tmp_path / "local"
    recipe = Path(__file__).parents[2] / "sweeps/digits.toml"
    words = [sys.executable, "-m", "domainbed.scripts.sweep", "launch", "--config", str(recipe)]
    options = ["--command_launcher", "slurm", "--launcher_options", "time=10", "jobs_per_task=4"]
    subprocess.run([*words, *options, "--output_dir", str(root)], check=True)
    for command in (["scancel", "--signal=USR1"], ["scontrol", "requeue"]) * 2:
        tiny_sweep.until(lambda command=command: hits_any(*command), 300)
        time.sleep(5)
    tiny_sweep.until(lambda: not slurm.in_queue(), 900)
    subprocess.run([*words, "--output_dir", str(local)], check=True, stdout=subprocess.DEVNULL)
    assert tiny_sweep.results(root) == tiny_sweep.results(local)
    tables = [
        subprocess.check_output(
            [sys.executable, "-m", "domainbed.scripts.collect_results", "--input_dir", str(place)]
        )
        for place in (root, local)
    ]
    assert tables[0] == tables[1] and tables[0].count(b"\nRatatouille_greedy ") == 9
