"""What a sweep's folder holds: every run under it, finished or not, ours or public DomainBed's.

Nothing that a file says is trusted to be of the expected type: what is not is as if not recorded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainbed import algorithms
from domainbed.lib import reporting
from domainbed.lib.console import escape
from domainbed.lib.reporting import Record
from domainbed.registry import InputError
from domainbed.runs import FAILED, INCOMPLETE, RunFolder, run_folders

RUN, PROBE, AUXILIARY, AVERAGE = "fine-tuning or training", "linear probe", "auxiliary", "average"
_TOLD = {"environments", "provenance", "code_version"}
"""Of what run.json says that which records may not."""

KINDS = (RUN, PROBE, AUXILIARY, AVERAGE)


@dataclass(frozen=True)
class Run:
    """One run folder: its valid records as written, None without any, and what run.json says."""

    path: Path
    recorded: list[Record] | None
    description: dict[str, Any]
    state: str
    failure: str
    problems: list[str]

    @functools.cached_property
    def records(self) -> list[Record]:
        """The records in order of steps, the last of those written twice."""
        return by_step(self.recorded or ())

    @functools.cached_property
    def args(self) -> dict[str, Any]:
        """The arguments, as recorded, else as run.json says."""
        return self.records[-1]["args"] if self.records else table(self.description, "args")

    @property
    def hparams(self) -> dict[str, Any]:
        """The hyper-parameters, in the same way."""
        source = self.records[-1] if self.records else self.description
        return table(source, "hparams")

    @property
    def provenance(self) -> dict[str, Any]:
        """Where its initial weights are from, or its members; {} where not recorded."""
        return table(self.description, "provenance")

    @property
    def algorithm(self) -> str:
        """The algorithm's name."""
        return str(self.args.get("algorithm", "unknown algorithm"))

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return str(self.args.get("dataset", "unknown dataset"))

    @functools.cached_property
    def test_envs(self) -> list[int]:
        """The test domains' numbers, none for an auxiliary run."""
        return [env for env in rows(self.args, "test_envs", int) if env >= 0]

    @functools.cached_property
    def environments(self) -> list[str]:
        """The domains' names, else their numbers."""
        for source in (self.description, *self.records[-1:]):
            if names := rows(source, "environments", str):
                return names
        last = self.records[-1] if self.records else {}
        return [str(i) for i in range(sum(f"env{i}_in_acc" in last for i in range(len(last))))]

    @property
    def test_domains(self) -> str:
        """The names of the test domains."""
        names = dict(enumerate(self.environments))
        return ", ".join(names.get(env, str(env)) for env in self.test_envs)

    @functools.cached_property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.args.get("what_is_trainable") == "classifier":
            return PROBE
        if self.args.get("test_envs") == [-1]:
            return AUXILIARY
        return AVERAGE if is_average(self.algorithm) else RUN

    @functools.cached_property
    def n_steps(self) -> int:
        """The number of updates that were recorded; an average does none of its own."""
        return self.records[-1]["step"] + 1 if self.records and self.kind != AVERAGE else 0

    @functools.cached_property
    def seconds(self) -> float:
        """Time in updates: each record has the mean of those since the last one."""
        total, previous = 0.0, -1
        for record in self.records:
            total += (number(record.get("step_time")) or 0.0) * (record["step"] - previous)
            previous = record["step"]
        return total


def is_average(algorithm: str) -> bool:
    """Whether an algorithm is made from finished runs instead of being trained."""
    return algorithm in algorithms.REGISTRY and not algorithms.get_method(algorithm).trains


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 and math.isfinite(value) else None


def table(source: dict[str, Any], key: str) -> dict[str, Any]:
    """A recorded dictionary, {} for anything else."""
    value = source.get(key)
    return value if isinstance(value, dict) else {}


def rows(source: dict[str, Any], key: str, kind: type) -> list[Any]:
    """Of a recorded list the items of a type."""
    value = source.get(key)
    return [item for item in value if type(item) is kind] if isinstance(value, list) else []


def read(*folders: str | Path) -> list[Run]:
    """All runs in sweeps' folders and in the folders of probes and auxiliary runs below them."""
    found: list[Run] = []
    for folder in folders:
        if not Path(folder).is_dir():
            given = str(folder)
            raise InputError(f"--input_dir was given {given!r}, which is not a folder of runs")
        below = (path for path in sorted(Path(folder).iterdir()) if not path.is_symlink())
        runs = [_read_run(run) for path in below for run in run_folders(path)]
        if not runs:
            raise InputError(f"--input_dir {str(folder)!r} holds no run folders")
        found += runs
    return found


def _read_run(folder: RunFolder) -> Run:
    recorded, fault = reporting.read_run(folder.path)
    problems = [fault] if fault else []
    try:
        description = folder.description()
    except InputError as error:
        description = {}
        problems.append(escape(str(error)))
    try:
        state = folder.state()
    except OSError:  # its lock cannot be opened, so whether it runs cannot be told
        state = FAILED if (folder / "failed").exists() else INCOMPLETE
    if recorded:  # which tell the rest
        description = {key: description[key] for key in _TOLD & description.keys()}
    failure = folder.failure() if state == FAILED else ""
    return Run(folder.path, recorded, description, state, failure, problems)


def by_step(records: Iterable[Record]) -> list[Record]:
    """Records in order of steps, the last of those written twice."""
    found = {record["step"]: record for record in records}
    return [found[step] for step in sorted(found)]
