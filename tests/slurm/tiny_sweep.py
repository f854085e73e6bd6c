"""A sweep in three waves of eight jobs, seconds each, for tests of clusters."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from domainbed.runs import RunFolder

HERE = Path(__file__).parent

ARGUMENTS = [
    "--plugins", "two_stripes",
    "--datasets", "TwoStripes",
    "--algorithms", "DiWA_uniform",
    "--n_hparams", "2",
    "--n_trials", "1",
    "--single_test_envs",
    "--skip_confirmation",
    "--steps", "120",
    "--checkpoint_freq", "20",
    "--hparams", '{"batch_size": 4}',
]  # fmt: skip


def command(root: Path, launcher: str, *more: str) -> list[str]:
    """The command that launches the sweep."""
    words = [sys.executable, "-m", "domainbed.scripts.sweep", "launch", *ARGUMENTS]
    return [*words, "--output_dir", str(root), "--command_launcher", launcher, *more]


def environment(**more: str) -> dict[str, str]:
    """The environment in which every node finds the dataset."""
    path = os.pathsep.join(
        filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")])
    )
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def results(root: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of every run folder, without what depends on time and place."""
    return {
        str(path.parent.relative_to(root)): list(map(_comparable, RunFolder(path.parent).records()))
        for path in sorted(root.rglob("results.jsonl"))
    }


def halfway(root: Path) -> list[Path]:
    """Folders of runs that have begun and are not done, some records in."""
    begun = (path.parent for path in root.glob("*/results.jsonl") if path.read_text().count("\n"))
    return [folder for folder in begun if not (folder / "done").exists()]


def is_alive(folder: Path) -> bool:
    """Whether a process on this machine trains in a folder, found without touching its lock."""
    for words in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder.name.encode() in words.read_bytes():
                return True
    return False


def _comparable(record: dict[str, Any]) -> dict[str, Any]:
    kept = {
        key: value
        for key, value in record.items()
        if key not in ("step_time", "update_time", "mem_gb")
    }
    kept["args"] = {key: value for key, value in kept["args"].items() if key != "output_dir"}
    return json.loads(json.dumps(kept))


def until(is_so: Callable[[], object], seconds: float = 90) -> None:
    """Wait for something; raises TimeoutError if it does not come."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain")
        time.sleep(0.1)
