"""A sweep that is hit at random moments and launched again ends like one that nobody disturbs.

    python benchmarks/chaos.py [--hits 50] [--seed 0] [--folder DIR]

Each hit is a SIGKILL or SIGTERM at the launcher or at one of its processes; files take a while to
get their names, so that hits meet them half-way. At the end every table, record (but for times) and
weight file must be that of an undisturbed sweep, to the byte. No run that was done may have been
touched again, and none may have come to its end twice.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

SWEEP = [
    *("--datasets", "RotatedDigits", "--aux_datasets", "InkDigits", "--aux_hparams", "1"),
    *("--algorithms", "ERM", "DiWA_greedy", "Ratatouille_uniform", "--foundation", "letters"),
    *("--n_hparams", "2", "--n_trials", "1", "--single_test_envs", "--skip_confirmation"),
    *("--steps", "21", "--checkpoint_freq", "10", "--steps_lp", "20"),
    *("--hparams", '{"batch_size": 2, "lp_steps": 5}', "--checkpoint_seconds", "0.3"),
]
TIMES = ("step_time", "update_time", "mem_gb")

PLUGIN = """
import os, time
from domainbed.runs import RunFolder

finish, replace = RunFolder.finish, os.replace

def slow(*paths):
    time.sleep(0.02)
    replace(*paths)
    time.sleep(0.02)

def counted(self):
    finish(self)
    with open(os.path.join(os.path.dirname(__file__), "ends.txt"), "a") as file:
        file.write(os.path.abspath(self.path) + os.linesep)

os.replace, RunFolder.finish = slow, counted
"""
"""Widens the moments in which a file has no name yet, and notes each run that comes to its end."""


def start(root: Path, sweep: list[str]) -> subprocess.Popen:
    """Launch the sweep in a session of its own."""
    command = [sys.executable, "-m", "domainbed.scripts.sweep", "launch", "--output_dir", "runs"]
    (root / "slow_files.py").write_text(PLUGIN)
    named = filter(None, [os.environ.get("DOMAINBED_PLUGINS"), "slow_files"])
    env = {**os.environ, "DOMAINBED_PLUGINS": ",".join(named), "OMP_NUM_THREADS": "1"}
    with open(root / "log.txt", "a") as log:
        return subprocess.Popen(
            [*command, *sweep], cwd=root, env=env, stdout=log, stderr=log, start_new_session=True
        )


def session(leader: int) -> list[int]:
    """The processes of a session that can be hit."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def outcome(root: Path) -> dict[str, object]:
    """Records but for times, and sha256 of weights, by path."""
    found: dict[str, object] = {}
    for path in sorted((root / "runs").rglob("*.safetensors")):
        found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted((root / "runs").rglob("results.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{k: v for k, v in record.items() if k not in TIMES} for record in records]
        found[str(path.relative_to(root))] = kept
    return found


def tables(root: Path) -> str:
    """What collect_results prints."""
    command = [sys.executable, "-m", "domainbed.scripts.collect_results", "--input_dir", "runs"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def ends(root: Path) -> Counter[str]:
    """How often each run came to its end."""
    return Counter((root / "ends.txt").read_text().splitlines())


def done(root: Path) -> dict[str, int]:
    """When each run that is done got done."""
    return {str(path): path.stat().st_mtime_ns for path in (root / "runs").rglob("done")}


def disturb(root: Path, sweep: list[str], n_hits: int, rng: random.Random, gap: float) -> int:
    """Hit and relaunch; return how many hits there was time for. Ends with the sweep done."""
    process, n, finished = start(root, sweep), 0, {}
    while n < n_hits:
        time.sleep(rng.uniform(0.1, gap))
        if process.poll() == 0:
            break
        there = session(process.pid)
        if process.poll() is None and there:
            victim = process.pid if rng.random() < 0.4 else rng.choice(there)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, rng.choice([signal.SIGKILL, signal.SIGTERM]))
            n += 1
            time.sleep(rng.uniform(0, 0.5))
        now = done(root)
        touched = [run for run in finished if now.get(run) != finished[run]]
        if touched:
            raise AssertionError(f"done, and touched again: {touched}")
        finished = now
        if process.poll() is not None:
            process = start(root, sweep)
    while process.wait() != 0:  # a worker that was killed left its job to the next launch
        process = start(root, sweep)
    return n


def compare(root: Path, sweep: list[str], n_hits: int, seed: int, gap: float = 4.0) -> str:
    """Run both sweeps; raises AssertionError with the first difference."""
    if start(root, sweep).wait() != 0:
        raise AssertionError(f"the undisturbed sweep failed; see {root / 'log.txt'}")
    expected, shown = outcome(root), tables(root)
    shutil.rmtree(root / "runs")
    (root / "ends.txt").unlink()
    n = disturb(root, sweep, n_hits, random.Random(seed), gap)
    found = outcome(root)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise AssertionError(f"{name} differs")
    if tables(root) != shown:
        raise AssertionError("tables differ")
    if twice := [run for run, times in ends(root).items() if times > 1]:
        raise AssertionError(f"came to their end twice: {twice}")
    n_runs = sum(name.endswith("results.jsonl") for name in expected)
    return f"{n} hits, {n_runs} runs, {len(expected)} files: all equal"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        root = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.mkdir(parents=True, exist_ok=True)
        print(compare(root, SWEEP, args.hits, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
