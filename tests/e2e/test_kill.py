"""Sweeps that are killed, or launched twice, end as if they had been left alone."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import chaos
import tiny_sweep

SWEEP = [*tiny_sweep.ARGUMENTS, "--checkpoint_seconds", "0.2"]


@pytest.fixture
def plugin(monkeypatch):
    for name, value in tiny_sweep.environment().items():
        monkeypatch.setenv(name, value)


def test_hit_at_random_moments(tmp_path, plugin):
    assert chaos.compare(tmp_path, SWEEP, n_hits=3, seed=1).endswith("all equal")


@pytest.mark.slow
def test_hit_often(tmp_path):
    said = chaos.compare(tmp_path, chaos.SWEEP, n_hits=20, seed=2)
    assert said.endswith("all equal")


def test_two_launches_do_each_job_once(tmp_path, plugin):
    launchers = ("workers", "local")
    both = [chaos.start(tmp_path, [*SWEEP, "--command_launcher", name]) for name in launchers]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert (tmp_path / "log.txt").read_text().count("8 jobs: 8 done") == 2
    ends = chaos.ends(tmp_path)
    assert len(ends) == 8 and set(ends.values()) == {1}
    for path in (tmp_path / "runs").rglob("out.txt"):
        assert not re.search("starting anew|going on|took this run over", path.read_text())
    assert not list((tmp_path / "runs").rglob(".lock*"))
