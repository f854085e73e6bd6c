"""Sweeps that are killed, or launched twice, end as if they had been left alone."""

import os
import re
import subprocess
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
    root = tmp_path / "runs"
    commands = [tiny_sweep.command(root, launcher) for launcher in ("workers", "local")]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for command in commands
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("8 jobs: 8 done" in text for text in said)
    outs = [path.read_text() for path in root.rglob("out.txt")]
    assert len(outs) == 8
    for text in outs:
        assert len(re.findall("^Environment:", text, re.MULTILINE)) == 1
        assert "starting anew" not in text and "going on" not in text
