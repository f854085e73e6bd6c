"""Plan, run, watch or clean up a sweep: algorithms x datasets x test domains x hparams x trials."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from domainbed import algorithms, command_launchers, datasets, launching, planning, pruning, sweep
from domainbed.command_launchers.options import parse_options
from domainbed.engine.options import add_common_arguments
from domainbed.jobs import Job, make_args_list
from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.lib.console import escape
from domainbed.model_selection import SELECTIONS
from domainbed.registry import InputError, Registry
from domainbed.runs import INCOMPLETE, run_folders
from domainbed.scripts import ask, lasting_objects, load_named_plugins, one_line

__all__ = ["Job", "build_parser", "main", "make_args_list"]


IDLE_SECONDS = 10.0
"""Without a running job, after which --watch ends; between two waves there may be none."""

COMMANDS = ("plan", "launch", "status", "verify", "delete_incomplete")


def _there(names: list[str], registry: Registry) -> list[str]:
    """DomainBed's names, in its order, of what this version has."""
    return [name for name in names if name in registry]


def build_parser() -> Parser:
    """The command line of DomainBed's sweep, and more."""
    parser = Parser(prog="domainbed.scripts.sweep", description=__doc__)
    add = parser.add_argument
    add("command", choices=COMMANDS)
    add(
        "--datasets",
        nargs="+",
        default=_there(datasets.DATASETS, datasets.REGISTRY),
        metavar="DATASET",
    )
    add(
        "--algorithms",
        nargs="+",
        default=_there(algorithms.ALGORITHMS, algorithms.REGISTRY),
        metavar="ALGORITHM",
    )
    add("--n_hparams_from", type=arguments.seed, default=0)
    add(
        "--n_hparams",
        type=arguments.some_runs,
        default=20,
        help="the defaults, and draws beside them",
    )
    add("--n_trials", type=arguments.some_runs, default=3)
    add(
        "--seed",
        type=arguments.seed,
        default=0,
        help="0 gives runs DomainBed's seeds, others new ones",
    )
    add("--output_dir", type=arguments.path, help="where the run folders are")
    add("--hparams", metavar="JSON", help="values that override defaults and draws")
    add("--command_launcher", default="workers", help=", ".join(command_launchers.REGISTRY))
    add(
        "--launcher_options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="such as partition=gpu time=240 of slurm; see docs/clusters.md",
    )
    add("--single_test_envs", action="store_true", help="no pairs of test domains")
    add(
        "--for_selection",
        choices=list(SELECTIONS),
        help="only the runs that one selection method needs; default: those of all",
    )
    add("--skip_confirmation", action="store_true")
    add(
        "--keep",
        choices=pruning.KEEP,
        default="all",
        help="; ".join(map(": ".join, pruning.KEEP.items())),
    )
    add(
        "--retries",
        type=arguments.count,
        default=0,
        metavar="N",
        help="try a job that fails N times more",
    )
    add("--watch", action="store_true", help="of status: go on until nothing runs any more")
    add("--set_aside", action="store_true", help="of verify: move damaged runs out of the way")
    add("--count_only", action="store_true", help="of plan: measure nothing, estimate nothing")
    add(
        "--config",
        type=arguments.path,
        metavar="FILE.toml",
        help="arguments by name; those given here win",
    )
    add_common_arguments(parser)
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments, taking those that are not given from the file of --config."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.config:
        parser.set_defaults(**sweep.read_config(args.config, parser))
        args = parser.parse_args(argv)
    return args


def is_confirmed(args: argparse.Namespace) -> bool:
    """Ask, unless told not to."""
    return args.skip_confirmation or ask("Are you sure?", "--skip_confirmation")


def show_plan(graph: list[Job], args: argparse.Namespace) -> int:
    """Print what a sweep is made of and, unless told not to, what it costs."""
    print("\n".join(planning.table(graph, args.output_dir)))
    print(planning.summary(graph))
    if not args.count_only and not all(job.folder.is_done for job in graph):
        from domainbed import costs  # torch, once there is something to measure

        print(costs.estimate(graph, args.output_dir))
    return 0


def verify(args: argparse.Namespace) -> int:
    """Check every run folder of the sweep's; 1 if one is damaged, set aside or not."""
    from domainbed import verification  # torch, to look into weights

    if not args.output_dir or not Path(args.output_dir).is_dir():
        given = args.output_dir
        raise InputError(f"--output_dir was given {given!r}, which is not a folder of runs")
    n_runs = n_damaged = 0
    for folder in run_folders(args.output_dir):
        found = [] if folder.is_locked() else verification.problems(folder)
        n_runs, n_damaged = n_runs + 1, n_damaged + bool(found)
        for problem in found:
            print(escape(problem), file=sys.stderr)
        if found and args.set_aside:
            place = verification.set_aside(folder, args.output_dir)
            print(escape(f"{folder.path} is in {place} now"))
    print(f"{n_runs} runs: {n_runs - n_damaged} sound, {n_damaged} damaged")
    if n_damaged and not args.set_aside:
        print("set them aside with --set_aside, and launch again to have them anew")
    return 1 if n_damaged else 0


def launch(asked: list[Job], graph: list[Job], args: argparse.Namespace) -> int:
    """Run what is not done; 0 if all is done or handed on."""
    prune = functools.partial(pruning.prune, graph, args.output_dir, args.keep)
    if all(job.folder.is_done for job in graph):
        if freed := prune():
            print(f"--keep {args.keep} freed {planning.readable_size(freed)}")
        return 0
    n_more = len(graph) - len(asked)
    print(f"About to launch {len(asked)} jobs and {n_more} that they need, those done excepted.")
    if not is_confirmed(args):
        return 0
    launcher = command_launchers.REGISTRY[args.command_launcher]
    try:
        with _terminable():
            if not getattr(launcher, "only_prints", False):
                from domainbed import preflight  # torch, once there is work to do

                launching.check_needs(graph)
                preflight.check(job for job in graph if not job.folder.is_done)
            options = parse_options(args.launcher_options)
            if hasattr(launcher, "launch_graph"):
                return sweep.launch_at_once(graph, launcher, options, args.output_dir)
            queue = launching.Queue(graph, args.output_dir, args.retries, prune)
            return launching.launch(queue, launcher, options)
    except KeyboardInterrupt:
        print("Interrupted; launch again to go on.", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM interrupt like Ctrl-C, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def watch(graph: list[Job]) -> int:
    """Print the status whenever it changes, until all is done or nothing has run for a while."""
    said, seen = sweep.status(graph), time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        while not all(job.folder.is_done for job in graph):
            if any(job.folder.is_locked() for job in graph):
                seen = time.monotonic()
            if time.monotonic() - seen > IDLE_SECONDS:
                break
            time.sleep(launching.POLL_SECONDS)
            if (now := sweep.status(graph)) != said:
                print(f"\n{now}", flush=True)
                said = now
    return 0


def delete_incomplete(graph: list[Job], args: argparse.Namespace) -> int:
    """Delete the folders of interrupted runs, but for those that run or are done by then."""
    incomplete = [job for job in graph if job.state == INCOMPLETE]
    print(f"About to delete {len(incomplete)} jobs.")
    if incomplete and is_confirmed(args):
        print(f"Deleted {Job.delete(incomplete)} jobs!")
    return 0


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 if all is well, 1 if a job is not done, 2 for a wrong input, 130 if interrupted."""
    load_named_plugins(argv)
    args = parse(argv)
    if args.command == "verify":
        return verify(args)
    launcher = command_launchers.REGISTRY[args.command_launcher]
    sweep.check_launcher_options(launcher, parse_options(args.launcher_options))
    with lasting_objects():
        asked, graph = sweep.plan(args)
    if args.command == "plan":
        return show_plan(graph, args)
    print(sweep.status(graph))
    if args.command == "status":
        print(f"disk: {planning.readable_size(planning.disk_bytes(graph))}")
        return watch(graph) if args.watch else 0
    if args.command == "launch":
        return launch(asked, graph, args)
    if args.command == "delete_incomplete":
        return delete_incomplete(graph, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
