"""What a sweep is going to cost: its jobs by kind, in waves, with disk and time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from domainbed import algorithms, runs
from domainbed.jobs import Job


class Kind(NamedTuple):
    """Jobs that cost alike; `place` is their folder within the sweep's, "." or such as aux."""

    place: str
    algorithm: str
    dataset: str
    is_probe: bool

    @property
    def trains(self) -> bool:
        """Whether they train; others are made from finished runs."""
        return algorithms.get_method(self.algorithm).trains


@dataclass(frozen=True)
class Cost:
    """Updates and evaluations of a job with the seconds of each, and bytes of weights it leaves."""

    n_steps: int
    step_seconds: float
    n_evaluations: int
    evaluation_seconds: float
    n_bytes: int

    def seconds(self, job: Job) -> float:
        """What a job takes on one worker; an average evaluates at most once for each member."""
        if algorithms.get_method(job.train_args["algorithm"]).trains:
            evaluating = self.n_evaluations * self.evaluation_seconds
            return self.n_steps * self.step_seconds + evaluating
        return max(1, len(job.needs)) * self.evaluation_seconds


def kind_of(job: Job, root: str) -> Kind:
    """Which jobs of a sweep under `root` this one is like."""
    args = job.train_args
    place = "." if job.root == root else os.path.relpath(job.root, root)
    is_probe = args.get("what_is_trainable") == "classifier"
    return Kind(place, args["algorithm"], args["dataset"], is_probe)


def waves(graph: Sequence[Job]) -> dict[str, int]:
    """For each job that is not done, by its folder, the wave that it can run in, from 1."""
    numbers: dict[str, int] = {}
    for job in graph:
        if not job.folder.is_done:
            before = (numbers.get(need.job.output_dir, 0) for need in job.needs)
            numbers[job.output_dir] = 1 + max(before, default=0)
    return numbers


def table(graph: Sequence[Job], root: str) -> list[str]:
    """A line for each kind of job: how many there are, are done, are left, and in which waves."""
    numbers = waves(graph)
    groups: dict[Kind, list[Job]] = defaultdict(list)
    for job in graph:
        groups[kind_of(job, root)].append(job)
    rows: list[tuple[str, ...]] = [
        ("algorithm", "dataset", "folder", "jobs", "done", "to do", "waves", "")
    ]
    for kind, jobs in groups.items():
        left = [numbers[job.output_dir] for job in jobs if job.output_dir in numbers]
        span = f"{min(left)}-{max(left)}" if len(set(left)) > 1 else str(left[0]) if left else ""
        what = "probe" if kind.is_probe else "" if kind.trains else "made from runs"
        counts = (len(jobs), len(jobs) - len(left), len(left))
        rows.append((kind.algorithm, kind.dataset, kind.place, *map(str, counts), span, what))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 3 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def summary(graph: Sequence[Job]) -> str:
    """How many jobs are left, how many of them train, in how many waves."""
    numbers = waves(graph)
    left = [job for job in graph if job.output_dir in numbers]
    n_train = sum(algorithms.get_method(job.train_args["algorithm"]).trains for job in left)
    return (
        f"{len(graph)} jobs: {len(graph) - len(left)} done, {n_train} to train, "
        f"{len(left) - n_train} to make from finished runs, "
        f"in {max(numbers.values(), default=0)} waves"
    )


def sweep_seconds(graph: Sequence[Job], seconds: Mapping[str, float], n_workers: int) -> float:
    """How long the jobs left take with so many workers: wave by wave, none sooner than its longest.

    seconds: by output_dir, what each job takes on one worker.
    """
    by_wave: dict[int, list[float]] = defaultdict(list)
    for name, wave in waves(graph).items():
        by_wave[wave].append(seconds[name])
    return sum(max(sum(some) / n_workers, max(some)) for some in by_wave.values())


def disk_bytes(graph: Sequence[Job]) -> int:
    """What the run folders of a sweep hold now."""
    return sum(runs.RunFolder(job.output_dir).size() for job in graph)


def readable_time(seconds: float) -> str:
    """Such as 40 s, 12 min, 3 h 20 min, 5 d 2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def readable_size(n_bytes: float) -> str:
    """Such as 13 MB or 1.2 TB."""
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if n_bytes < 999.5:
            return f"{n_bytes:.1f} {unit}" if n_bytes < 9.95 else f"{n_bytes:.0f} {unit}"
    return f"{n_bytes / 1000:.1f} TB"
