"""Jobs: train commands that know their folder, and what must be finished before them.

A sweep is a graph of jobs. A job's identity is the md5 of its arguments, so whoever needs the same
run needs the same folder, and a sweep begun by public DomainBed can be finished here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from domainbed import algorithms, datasets, hparams_registry, runs
from domainbed.engine.options import OPTIONS, Target
from domainbed.lib.locks import Locked
from domainbed.lib.seeds import seed_hash
from domainbed.registry import InputError

Args = dict[str, Any]

_OF_ONE_RUN = {"output_dir", "seed", "what_is_trainable", "path_init"}
_OF_SHARED = {"n_hparams", "n_hparams_from", "n_trials"}


@dataclass(frozen=True)
class Need:
    """A run that another one starts from or is made of; `role` says as what."""

    role: str
    job: Job


class Job:
    """A training run, finished or to be: its arguments, its folder, its command.

    how: arguments of the command that change no number, and so are no part of the identity.
    """

    NOT_LAUNCHED = runs.NOT_LAUNCHED
    INCOMPLETE = runs.INCOMPLETE
    DONE = runs.DONE

    def __init__(self, train_args: Args, sweep_output_dir: str, how: Args | None = None) -> None:
        self.root, self.how = str(sweep_output_dir), how or {}
        identity = {key: value for key, value in train_args.items() if key != "output_dir"}
        text = json.dumps(identity, sort_keys=True)
        self.id = hashlib.md5(text.encode("utf-8")).hexdigest()
        self.output_dir = f"{self.root}/{self.id}" if self.root != "." else self.id
        self.train_args = {**train_args, "output_dir": self.output_dir}

    @property
    def folder(self) -> runs.RunFolder:
        """Where the run lives."""
        return runs.RunFolder(self.output_dir)

    @property
    def state(self) -> str:
        """The state of the run folder, read anew."""
        return self.folder.state()

    @property
    def args(self) -> Args:
        """All arguments of the command."""
        return {**self.train_args, **self.how}

    @property
    def command_str(self) -> str:
        """The shell command that does this job, quoted so that no argument can break out."""
        words = ["python", "-m", "domainbed.scripts.train"]
        for key, value in sorted(self.args.items()):
            values = value if isinstance(value, list) else [value]
            words += [f"--{key}", *([] if value is True else map(str, values))]
        return " ".join(map(shlex.quote, words))

    @cached_property
    def needs(self) -> list[Need]:
        """The runs that must be finished before this one starts."""
        return algorithms.get_method(self.train_args["algorithm"]).needs(self)

    def derive(self, root: str | None = None, **changes: Any) -> Job:
        """A job like this one but for `changes`, under `root`.

        It has a seed of its own, and keeps the arguments and hparam overrides that its algorithm
        understands.
        """
        args = {**self.train_args, **changes}
        algorithm, dataset = args["algorithm"], args["dataset"]
        args = {k: v for k, v in args.items() if k in changes or is_taken(algorithm, k)}
        args["hparams"] = known_overrides(args.get("hparams"), algorithm, dataset)
        args = {key: value for key, value in args.items() if value is not None}
        args["seed"] = run_seed(args)
        return Job(args, self.root if root is None else root, self.how)

    def __str__(self) -> str:
        keys = ("dataset", "algorithm", "test_envs", "hparams_seed")
        return f"{self.state}: {self.output_dir} {tuple(self.train_args[key] for key in keys)}"

    @staticmethod
    def launch(jobs: list[Job], launcher_fn: Callable[[list[str]], Any]) -> Any:
        """Hand the commands of the jobs to a launcher."""
        for job in jobs:
            Path(job.output_dir).mkdir(parents=True, exist_ok=True)
        return launcher_fn([job.command_str for job in jobs])

    @staticmethod
    def delete(jobs: list[Job]) -> int:
        """Delete the folders of jobs that are neither done nor running; return how many."""
        n = 0
        for job in jobs:
            with contextlib.suppress(Locked, FileNotFoundError):
                n += job.folder.delete()
        return n


def run_seed(args: Args) -> int:
    """The seed of a run, from what it is, which trial, and the sweep's own seed if it has one."""
    keys = ["dataset", "algorithm", "test_envs", "hparams_seed", "trial_seed"]
    return seed_hash(*(args[key] for key in keys + ["sweep_seed"] * ("sweep_seed" in args)))


def is_taken(algorithm: str, argument: str) -> bool:
    """Whether an argument of a sweep is one of every run's, or of this algorithm's."""
    if argument in _OF_ONE_RUN:
        return False
    if argument in _OF_SHARED or argument in OPTIONS:
        return algorithm in algorithms.REGISTRY and (
            argument in algorithms.get_method(algorithm).takes
        )
    return True


def known_overrides(text: str | None, algorithm: str, dataset: str) -> str | None:
    """Of a JSON object of hparams those that an algorithm knows; the text itself if it is all."""
    overrides = hparams_registry.parse_overrides(text)
    known = hparams_registry.names(algorithm, dataset)
    kept = {name: value for name, value in overrides.items() if name in known}
    if len(kept) == len(overrides):
        return text
    return json.dumps(kept) if kept else None


def test_env_combinations(n_envs: int) -> Iterator[list[int]]:
    """Each test env by itself, then its pairs with later ones if that leaves one to train on."""
    for i in range(n_envs):
        yield [i]
        for j in range(i + 1, n_envs if n_envs > 2 else 0):
            yield [i, j]


def make_args_list(
    n_trials: int,
    dataset_names: list[str],
    algorithms: list[str],
    n_hparams_from: int,
    n_hparams: int,
    steps: int | None,
    data_dir: str | None,
    task: str,
    holdout_fraction: float,
    single_test_envs: bool,
    hparams: str | None,
    **further: Any,
) -> list[Args]:
    """The arguments of every run of a sweep, in DomainBed's order.

    `further` arguments enter only when they are set, so that the identity of a job that DomainBed
    could express never changes. An algorithm made of all hparams seeds at once is one run, with
    hparams_seed 0 and the range of seeds among its arguments; one made of all trials likewise.
    """
    common: Args = {
        "task": task,
        "holdout_fraction": holdout_fraction,
        "data_dir": data_dir,
        "steps": steps,
    }
    common = {key: value for key, value in {**common, **further}.items() if value is not None}
    seeds = range(n_hparams_from, n_hparams_from + n_hparams)
    args_list = []
    for trial_seed in range(n_trials):
        for dataset in dataset_names:
            n_envs = len(datasets.environments(dataset, data_dir))
            singles = [[i] for i in range(n_envs)]
            env_lists = singles if single_test_envs else list(test_env_combinations(n_envs))
            for algorithm in algorithms:
                if trial_seed and is_taken(algorithm, "n_trials"):
                    continue
                shared = is_taken(algorithm, "n_hparams")
                args = _arguments(common, algorithm, dataset, dataset_names, hparams, seeds)
                if is_taken(algorithm, "n_trials"):
                    args["n_trials"] = n_trials
                for test_envs in env_lists:
                    for hparams_seed in [0] if shared else seeds:
                        run = {
                            **args,
                            "dataset": dataset,
                            "algorithm": algorithm,
                            "test_envs": test_envs,
                            "hparams_seed": hparams_seed,
                            "trial_seed": trial_seed,
                        }
                        run["seed"] = run_seed(run)
                        args_list.append(run)
    return args_list


def _arguments(
    common: Args,
    algorithm: str,
    dataset: str,
    dataset_names: list[str],
    hparams: str | None,
    seeds: range,
) -> Args:
    """The arguments that all runs of an algorithm on a dataset share."""
    args = {key: value for key, value in common.items() if is_taken(algorithm, key)}
    target = Target(dataset, dataset_names, args)
    planned = {
        key: option.plan(args.get(key), target)
        for key, option in OPTIONS.items()
        if is_taken(algorithm, key)
    }
    args = {**args, **planned}
    args = {key: value for key, value in args.items() if value is not None}
    if is_taken(algorithm, "n_hparams"):
        args["n_hparams"] = len(seeds)
    if is_taken(algorithm, "n_hparams_from") and seeds.start:
        args["n_hparams_from"] = seeds.start
    overrides = known_overrides(hparams, algorithm, dataset)
    return args if overrides is None else {**args, "hparams": overrides}


def with_needs(jobs: Iterable[Job]) -> list[Job]:
    """The jobs and all that they need, each once, every job after its needs.

    Raises `InputError` when jobs need each other in a circle.
    """
    ordered: dict[str, Job] = {}
    open_: set[str] = set()

    def visit(job: Job) -> None:
        if job.output_dir in ordered:
            return
        if job.output_dir in open_:
            raise InputError(f"{job.output_dir} needs itself: {job.command_str}")
        open_.add(job.output_dir)
        for need in job.needs:
            visit(need.job)
        ordered[job.output_dir] = job

    for job in jobs:
        visit(job)
    return list(ordered.values())
