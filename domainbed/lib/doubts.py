"""What makes the tables of a sweep's records doubtful, a line each; all of it is in the tables."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from domainbed.lib.console import escape

Record = dict[str, Any]
Rows = dict[str, list[Record]]


def is_full_data(record: Record) -> bool:
    """Whether a record is of train_autolr's second training, which holds nothing out."""
    return "fd_env0_in_acc" in record  # all domains are measured, and the first one is always there


def identity(args: dict[str, Any]) -> str:
    """Return what tells the args of two runs apart: all but where they were written."""
    return json.dumps({k: v for k, v in args.items() if k != "output_dir"}, sort_keys=True)


def distinct_args(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The args of records, once for all those that share them, as a run's that were read do."""
    return list({id(record["args"]): record["args"] for record in records}.values())


def doubts(records: list[Record], once: bool = False) -> list[str]:
    """Say what makes tables of these records doubtful, a line each; `once` as in `read_records`."""
    rows = _rows(records)
    return [
        *mixtures(records),
        *_duplicates(rows, once),
        *_clashes(rows),
        *_not_finite(rows),
        *_incomplete_trials(rows),
    ]


def _rows(records: Iterable[Record]) -> Rows:
    """Records of runs with a test domain, by the table and row that they are in."""
    rows: dict[str, list[Record]] = defaultdict(list)
    names: dict[int, str] = {}
    for record in records:
        args = record["args"]
        if id(args) not in names:
            is_shown = any(env >= 0 for env in args["test_envs"])
            names[id(args)] = f"{args['dataset']}, {args['algorithm']}" if is_shown else ""
        if names[id(args)]:
            rows[names[id(args)]].append(record)
    return rows


def _duplicates(rows: Rows, once: bool) -> list[str]:
    found = []
    what = "the last of each counts" if once else "all are counted, as in public DomainBed"
    for row, some in rows.items():
        runs = {id(r["args"]): r["args"] for r in some}
        names = {key: identity(args) for key, args in runs.items()}
        counts = Counter((names[id(r["args"])], r["step"], is_full_data(r)) for r in some)
        if n := sum(count - 1 for count in counts.values()):
            of = len({name for (name, *_), count in counts.items() if count > 1})
            found.append(
                f"{row}: {n} records stand twice, of {of} runs that were started anew or copied; "
                f"{what}"
            )
    return found


def _clashes(rows: Rows) -> list[str]:
    """Runs that no table can tell apart, though they were given other arguments."""
    problems = []
    for row, some in rows.items():
        runs: dict[tuple, dict[str, dict[str, Any]]] = defaultdict(dict)
        kinds = {(id(r["args"]), is_full_data(r)): r["args"] for r in some}
        for (_, is_full), args in kinds.items():
            key = str(args["test_envs"]), args["trial_seed"], args["hparams_seed"], is_full
            runs[key][identity(args)] = args
        clashing = [list(same.values()) for same in runs.values() if len(same) > 1]
        names = sorted({key for same in clashing for key in _differing(same)})
        if clashing:
            problems.append(
                f"{row}: {len(clashing)} times several runs have the same seeds and test domains "
                f"and other arguments ({', '.join(names)}); they are taken for one run"
            )
    return problems


def _differing(every_args: list[dict[str, Any]]) -> set[str]:
    """The keys by which args differ, but for where they were written."""
    first, *others = every_args
    keys = {key for args in every_args for key in args} - {"output_dir"}
    return {key for key in keys for args in others if args.get(key) != first.get(key)}


def _not_finite(rows: Rows) -> list[str]:
    found = []
    for row, some in rows.items():
        odd: dict[str, int] = {}
        for record in some:
            for key, value in record.items():
                if type(value) is float and not math.isfinite(value):
                    odd.setdefault(key, record["step"])
        found += [f"{row}: {k} is not finite, first at step {step}" for k, step in odd.items()]
    return found


def _incomplete_trials(rows: Rows) -> list[str]:
    """Trials that lack a test domain or a hparams seed that another trial has."""
    found = []
    for row, some in rows.items():
        runs: dict[int, set[tuple[tuple[int, ...], int]]] = defaultdict(set)
        for args in distinct_args(some):
            run = tuple(sorted(args["test_envs"])), args["hparams_seed"]
            runs[args["trial_seed"]].add(run)
        every = set().union(*runs.values())
        short = {trial: len(every - has) for trial, has in sorted(runs.items()) if every - has}
        n_products = len({envs for envs, _ in every}) * len({seed for _, seed in every})
        if short or len(every) < n_products:
            lacks = ", ".join(f"trial {trial} lacks {n} runs" for trial, n in short.items())
            lacks = lacks or f"there are {len(every)} of {n_products} runs in each trial"
            found.append(f"{row}: {lacks}; means are of what is there")
    return found


def mixtures(records: list[Record]) -> list[str]:
    """What should not stand in one row: runs that differ in more than seeds and test domains.

    Nor in one table: runs of different protocols. Runs without a test domain are in no table, so
    they may differ.
    """
    seen: dict[tuple, set[str]] = defaultdict(set)
    kinds = {(id(r["args"]), is_full_data(r)): r["args"] for r in records}
    shown = {k: args for k, args in kinds.items() if any(env >= 0 for env in args["test_envs"])}
    for (_, is_full), args in shown.items():
        for key in ("holdout_fraction", "steps", "hparams"):
            if key != "holdout_fraction" or not is_full:
                seen[args["dataset"], args["algorithm"], key].add(json.dumps(args.get(key)))
    problems = [
        f"{dataset}, {algorithm}: runs with different --{key} are mixed: {', '.join(sorted(some))}"
        for (dataset, algorithm, key), some in seen.items()
        if len(some) > 1
    ]
    every = list(shown.values())
    for dataset in dict.fromkeys(args["dataset"] for args in every):
        if mixed := mixed_protocols(args for args in every if args["dataset"] == dataset):
            problems.append(f"{dataset}: runs of different protocols are in one table: {mixed}")
    return problems


def mixed_protocols(every_args: Iterable[dict[str, Any]]) -> str:
    """The protocols of runs, "" for a single one; public DomainBed's records name none."""
    shown = [some for some in every_args if any(env >= 0 for env in some["test_envs"])]
    names = {some.get("protocol") or "(none recorded)" for some in shown}
    return ", ".join(sorted(names)) if len(names) > 1 else ""


def unfinished(runs: Iterable[str]) -> Iterator[str]:
    """Count the folders with records whose runs failed, or did not end where others did."""
    runs = list(runs)
    has_done = {run: os.path.exists(os.path.join(run, "done")) for run in runs}
    left = [run for run in runs if not has_done[run]]
    failed = [run for run in left if os.path.exists(os.path.join(run, "failed"))]
    others = [run for run in left if run not in failed] if any(has_done.values()) else []
    for some, what in ((failed, "failed"), (others, "are not finished")):
        if some:
            yield (
                f"{len(some)} of {len(runs)} runs {what}, such as {escape(some[0])}; "
                "the records that they have are counted"
            )
