"""A sweep: its jobs, checked before work is spent; how they run; where they stand."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from domainbed import algorithms, datasets, hparams_registry, jobs, planning, protocols, runs
from domainbed.engine.options import HOW, OPTIONS, PRECISIONS
from domainbed.hparams_registry import HParam
from domainbed.jobs import Job
from domainbed.lib import arguments
from domainbed.lib.console import escape
from domainbed.model_selection import SELECTIONS
from domainbed.registry import InputError, UnknownNameError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


RECENT = 50
"""Jobs by which the pace is told."""

NAMED = 20
"""Waiting jobs that a report names."""


def read_config(path: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Read a TOML file of the parser's arguments; a table under [hparams] becomes its JSON.

    Raises `InputError` for a missing or damaged file, an unknown key or a value of another type.
    """
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--config {path!r} cannot be read: {error}; expected TOML") from error
    actions = {action.dest: action for action in parser._actions}
    for key, value in values.items():
        if key not in actions or key in ("help", "command", "config"):
            known = sorted(actions.keys() - {"help", "command", "config"})
            raise InputError(f"Unknown key {key!r} in {path}. {nearest(key, known)}")
        values[key] = _checked(path, actions[key], value)
    return values


def _checked(path: str, action: argparse.Action, value: Any) -> Any:
    if action.dest == "hparams" and isinstance(value, dict):
        return hparams_registry.json.dumps(value)
    if action.dest == "launcher_options" and isinstance(value, dict):
        return [f"{name}={text}" for name, text in value.items()]
    if isinstance(value, list) != (action.nargs == "+"):
        shape = "a list of values" if action.nargs == "+" else "one value"
        raise InputError(f"{path} gives {action.dest} = {value!r}; expected {shape}")
    try:
        if isinstance(value, list):
            value = [arguments.check_value(action, item) for item in value]
        else:
            value = arguments.check_value(action, value)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{path}: {action.dest} {error}") from None
    if action.choices and value not in action.choices:
        unknown = UnknownNameError(action.dest, value, map(str, action.choices))
        raise InputError(f"{path}: {unknown}")
    return value


def plan(args: argparse.Namespace) -> tuple[list[Job], list[Job]]:
    """The jobs that a sweep asks for, and these with all that they need in order.

    Checks names, hparams, data and folders first, and raises `InputError` for what is wrong.
    """
    check(args)
    single_test_envs = args.single_test_envs
    if args.for_selection:
        single_test_envs = not SELECTIONS[args.for_selection].needs_pairs
    as_given = ("checkpoint_freq", "foundation", "image_cache_size")
    further = {key: getattr(args, key) for key in as_given}
    further["precision"] = None if args.precision == PRECISIONS[0] else args.precision
    further["compile"] = args.compile or None
    further["protocol"] = protocols.set_name(args.protocol)
    further.update({key: getattr(args, key) for key in OPTIONS}, sweep_seed=args.seed or None)
    further["uda_holdout_fraction"] = args.uda_holdout_fraction or None
    args_list = jobs.make_args_list(
        args.n_trials,
        args.datasets,
        args.algorithms,
        args.n_hparams_from,
        args.n_hparams,
        args.steps,
        args.data_dir,
        args.task,
        args.holdout_fraction,
        single_test_envs,
        args.hparams,
        **further,
    )
    if args.image_cache:
        args.image_cache = os.path.abspath(args.image_cache)
    given = {key: getattr(args, key) for key in HOW}
    how = {k: v for k, v in given.items() if v is not None and v is not False}  # 0 is a value
    asked = [Job(train_args, args.output_dir, how) for train_args in args_list]
    return asked, jobs.with_needs(asked)


def check(args: argparse.Namespace) -> None:
    """Raise `InputError` for the first wrong argument of a sweep."""
    if not args.output_dir:
        raise InputError("No --output_dir was given; say where the run folders go")
    if args.task == "domain_adaptation" and not args.uda_holdout_fraction:
        raise InputError(
            "--task domain_adaptation was given, but nothing to adapt to; "
            "give --uda_holdout_fraction above 0, such as 0.3"
        )
    _check_selection(args)
    for name in args.algorithms:
        algorithms.get_method(name)
    for name in args.datasets:
        datasets.check(name, args.data_dir)
    check_domains(args)
    _check_hparams(args)
    runs.RunFolder(args.output_dir).create()


def _check_selection(args: argparse.Namespace) -> None:
    if not args.for_selection:
        return
    method = SELECTIONS[args.for_selection]
    if method.command != "train":
        raise InputError(
            f"--for_selection {args.for_selection} selects from runs of "
            f"domainbed.scripts.{method.command}, which a sweep does not launch; run each by itself"
        )
    if method.needs_pairs and args.single_test_envs:
        raise InputError(
            f"--for_selection {args.for_selection} needs runs with two test domains, which "
            "--single_test_envs leaves out; leave out one of the two"
        )


def _check_hparams(args: argparse.Namespace) -> None:
    """Each override must be known to an algorithm of the sweep, and one that all of these take."""
    overrides = hparams_registry.parse_overrides(args.hparams)
    known: dict[str, HParam] = {}
    for dataset in args.datasets:
        for algorithm in args.algorithms:
            own = hparams_registry.space(algorithm, dataset)
            known.update(own)
            theirs = {name: value for name, value in overrides.items() if name in own}
            hparams_registry.check_overrides(theirs, own.values())
    hparams_registry.check_overrides(overrides, known.values())


def check_domains(args: argparse.Namespace) -> None:
    """Say which pairs of test domains are left out since none would be left to train on.

    Raises `InputError` for a dataset of one domain, and where pairs are asked for that are not.
    """
    for name in args.datasets:
        n = len(datasets.environments(name, args.data_dir))
        if n < 2:
            raise InputError(
                f"{name} has one domain, so that none is left to train on when it is the test "
                "domain; train on all it has with `train --test_envs -1`, or give it more domains"
            )
        if n == 2 and not args.single_test_envs:
            needs_pairs = args.for_selection and SELECTIONS[args.for_selection].needs_pairs
            if needs_pairs:
                raise InputError(
                    f"--for_selection {args.for_selection} needs runs with two test domains, but "
                    f"{name} has two, and would have none to train on; choose another selection"
                )
            print(f"note: {name} has two domains, so none are held out in pairs", file=sys.stderr)


def check_launcher_options(launcher: Callable[..., Any], options: Mapping[str, str]) -> None:
    """Raise `InputError` for options that a launcher does not take."""
    if hasattr(launcher, "check_options"):
        launcher.check_options(options)
    elif options:
        raise InputError(
            f"--launcher_options was given {', '.join(options)}, but this --command_launcher takes "
            "none; leave them out, or name one that does, such as slurm"
        )


def launch_at_once(
    graph: list[Job], launcher: Callable[..., Any], options: Mapping[str, str], root: str
) -> int:
    """Hand all jobs of a graph that are not done to a launcher that takes waves; an exit code."""
    waves: dict[int, list[Job]] = {}
    numbers = planning.waves(graph)
    for job in graph:
        if job.output_dir in numbers:
            waves.setdefault(numbers[job.output_dir], []).append(job)
    in_order = [waves[number] for number in sorted(waves)]
    if not launcher.launch_graph(in_order, options, root):  # type: ignore[attr-defined]
        print("The jobs were handed on; `sweep status` with the same arguments tells how it goes.")
        return 0
    return report(graph, {job.output_dir for job in graph if job.folder.is_done})


def report(graph: list[Job], done: set[str]) -> int:
    """Say where the jobs of a graph stand, and what waits for what; 1 if any is not done."""
    left = [job for job in graph if job.output_dir not in done]
    failed, interrupted, waiting = [], [], []
    for job in left:
        needed = [need.job for need in job.needs if need.job.output_dir not in done]
        if needed:
            waiting.append(f"{job} waits for {needed[0]}")
        elif job.state == runs.FAILED:
            failed.append(job)
        else:
            interrupted.append(f"{job} did not end; launch again to go on")
    counts = {"done": done, "failed": failed, "interrupted": interrupted, "waiting": waiting}
    said = ", ".join(f"{len(some)} {name}" for name, some in counts.items())
    print(f"{len(graph)} jobs: {said}")
    for some in (failures(failed), interrupted, waiting):
        for line in some[:NAMED]:
            print(line, file=sys.stderr)
        if len(some) > NAMED:
            print(f"and {len(some) - NAMED} more", file=sys.stderr)
    return 1 if left else 0


def failures(failed: list[Job]) -> list[str]:
    """For each reason why jobs failed a line, the last of err.txt below it."""
    reasons: dict[str, list[Job]] = {}
    for job in failed:
        reasons.setdefault(job.folder.failure(), []).append(job)
    lines = []
    for reason, some in reasons.items():
        folder = some[0].folder
        n_tries, exit_code = folder.tries()
        how = f"exit code {exit_code}, tried {n_tries} times; " if n_tries else ""
        text = escape(f"{len(some)} failed: {reason} ({how}see {folder / 'err.txt'})")
        said = [f"    {escape(line)}" for line in folder.last_errors() if line != reason]
        lines.append("\n".join([text, *said]))
    return lines


def status(graph: list[Job]) -> str:
    """How many jobs are in which state, how fast it goes, and why those failed that did."""
    states = [job.state for job in graph]
    counts = Counter(states)
    order = (runs.DONE, runs.RUNNING, runs.INCOMPLETE, runs.FAILED, runs.NOT_LAUNCHED)
    summary = f"{len(graph)} jobs: " + ", ".join(f"{counts[s]} {s.lower()}" for s in order)
    lines = [summary, *pace(graph, counts)]
    failed = [job for job, state in zip(graph, states) if state == runs.FAILED]
    return "\n".join([*lines, *failures(failed)])


def pace(graph: list[Job], counts: Mapping[str, int]) -> list[str]:
    """Jobs per hour by the last ones that got done, and how long the others take at that."""
    ended = sorted(t for t in (job.folder.ended() for job in graph) if t is not None)[-RECENT:]
    left = len(graph) - counts[runs.DONE]
    if not counts[runs.RUNNING] or len(ended) < 2 or ended[-1] <= ended[0]:
        return []
    rate = (len(ended) - 1) / (ended[-1] - ended[0])
    return [f"{rate * 3600:.0f} jobs an hour; {planning.readable_time(left / rate)} left at that"]
