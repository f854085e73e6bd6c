"""Records of a sweep, read from its run folders; what is damaged is named and left out."""

from __future__ import annotations

import codecs
import errno
import itertools
import json
import logging
import math
import os
import re
import stat
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from domainbed.lib.console import escape
from domainbed.lib.query import Q
from domainbed.registry import InputError

logger = logging.getLogger(__name__)

Record = dict[str, Any]

_ARGS: dict[str, tuple[type, ...]] = {
    "dataset": (str,),
    "algorithm": (str,),
    "test_envs": (list,),
    "trial_seed": (int,),
    "hparams_seed": (int,),
}
"""Keys of args that each record has, and their types."""

_MAYBE_ARGS: dict[str, tuple[type, ...]] = {
    "protocol": (str,),
    "task": (str,),
    "output_dir": (str,),
    "hparams": (str, dict),
    "steps": (int,),
    "checkpoint_freq": (int,),
    "seed": (int,),
    "holdout_fraction": (int, float),
    "uda_holdout_fraction": (int, float),
}
"""Keys of args that a record may lack or leave empty, and their types."""

_CONTROLS = re.compile(rb"\\u00[0189]|\\[bfnrt]|\x7f|\xc2[\x80-\x9f]")
"""What a line of JSON with a control character in a text has in it."""

_SHOWN = 3
"""Files with damaged lines that are named one by one."""


def load_records(path: str | Path) -> Q:
    """Read all records of the run folders in `path`; log problems as warnings."""
    records, problems = read_records(path)
    for problem in problems:
        logger.warning("%s", problem)
    return Q(records)


def read_records(*paths: str | Path) -> tuple[list[Record], list[str]]:
    """Read all records of the run folders in `paths`; return them and problems, a line each.

    Control characters in texts are turned into escapes, so that a record can be printed. Raises
    `InputError` for a path that is no folder.
    """
    records: list[Record] = []
    faults: list[str] = []
    n_faulty, args, runs = 0, None, []
    for run in itertools.chain.from_iterable(map(_folders, paths)):
        file = os.path.join(run, "results.jsonl")
        try:
            lines = read_lines(file)
        except FileNotFoundError:  # a run that has not written yet
            continue
        except OSError as error:
            faults.append(f"{file} cannot be read and is left out: {error.strerror or error}")
            continue
        runs.append(run)
        reasons = []
        for number, line in enumerate(lines, 1):
            record = read_record(line, args)
            if isinstance(record, str):
                reasons.append(f"line {number}: {record}")
            elif record is not None:
                args = record["args"]
                records.append(record)
        if reasons:
            n_faulty += 1
            many = f"{len(reasons)} of {len(lines)} lines are damaged and left out"
            if n_faulty <= _SHOWN:
                faults.append(f"{file}: {many} ({reasons[0]})")
    if n_faulty > _SHOWN:
        faults.append(f"{n_faulty - _SHOWN} more files have damaged lines, which are left out")
    faults = [escape(fault) for fault in faults]
    return records, [*faults, *_unfinished(runs), *doubts(records)]


def _folders(path: str | Path) -> list[str]:
    if not Path(path).is_dir():
        raise InputError(f"--input_dir was given {str(path)!r}, which is not a folder of runs")
    return sorted(entry.path for entry in os.scandir(path) if entry.is_dir())


def read_lines(file: str | Path) -> list[bytes]:
    """Read the lines of a file of records, without a mark of byte order.

    Raises `OSError` for anything but a regular file, since reading a pipe would wait for ever.
    """
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(file, "rb") as stream:
        content = stream.read()
    return content.removeprefix(codecs.BOM_UTF8).splitlines()


def parse_record(line: bytes, before: dict[str, Any] | None = None) -> Record | None:
    """Return a record, or None for a line that is not a whole and well-formed one."""
    record = read_record(line, before)
    return None if isinstance(record, str) else record


def read_record(line: bytes, before: dict[str, Any] | None = None) -> Record | str | None:
    """Return a record, the reason why a line holds none, or None for an empty line.

    before: the args of the record before; if they are this one's, both hold the same object.
    """
    if not line.strip():
        return None
    try:
        record = orjson.loads(line)  # refuses numbers that are none, and halves of characters
    except orjson.JSONDecodeError:
        try:
            record = json.loads(line.decode())  # public DomainBed writes NaN and Infinity
        except (ValueError, RecursionError):
            is_wide = line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line
            return "it is UTF-16, expected UTF-8" if is_wide else "it is no whole JSON object"
    if not isinstance(record, dict):
        return "it is no JSON object"
    if _CONTROLS.search(line):
        record = _escaped(record)
    return _fault(record, before) or record


def _fault(record: Record, before: dict[str, Any] | None) -> str:
    """Say what is wrong with a record, "" for nothing; whole floats become integers."""
    step = _whole(record.get("step"))
    if type(step) is not int:
        return f"step is {_brief(record, 'step')}, expected an integer"
    record["step"] = step
    args = record.get("args")
    if before is not None and args == before:
        record["args"] = before
    elif fault := _fault_of_args(args):
        return fault
    if not isinstance(record.get("hparams", {}), dict):
        return "hparams is no object"
    for key in _accuracies(tuple(record)):
        value = record[key]  # a float32 mean of ones can pass 1 by a rounding error
        if not (type(value) in (int, float) and 0 <= value < 1.001):
            return f"{key} is {_brief(record, key)}, expected 0 to 1"
    return ""


def _fault_of_args(args: Any) -> str:
    if not isinstance(args, dict):
        return "args is no object"
    for key, kinds in [*_ARGS.items(), *_MAYBE_ARGS.items()]:
        if int in kinds and type(args.get(key)) is float:
            args[key] = _whole(args[key]) if float not in kinds else args[key]
        if type(args.get(key)) not in kinds and (key in _ARGS or args.get(key) is not None):
            return f"{key} of args is {_brief(args, key)}, expected {kinds[0].__name__}"
    envs = args["test_envs"] = [_whole(env) for env in args["test_envs"]]
    if not all(type(env) is int for env in envs):
        return f"test_envs of args is {_brief(args, 'test_envs')}, expected integers"
    return ""


def _whole(value: Any) -> Any:
    """An integer for a float without a fraction."""
    return int(value) if type(value) is float and value.is_integer() else value


def _brief(values: dict[str, Any], key: str) -> str:
    return textwrap.shorten(repr(values[key]), 40) if key in values else "missing"


def _escaped(value: Any) -> Any:
    """A JSON value with control characters of its texts as escapes."""
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value


@lru_cache(maxsize=1024)
def _accuracies(keys: tuple[str, ...]) -> list[str]:
    """Those of a record's keys that name accuracies; all records of a run have the same keys."""
    return [key for key in keys if key.endswith("_acc")]


def is_full_data(record: Record) -> bool:
    """Whether a record is of train_autolr's second training, which holds nothing out."""
    return "fd_env0_in_acc" in record  # all domains are measured, and the first one is always there


def doubts(records: list[Record]) -> list[str]:
    """Say what makes tables of these records doubtful, a line each."""
    return [
        *mixtures(records),
        *_duplicates(records),
        *_not_finite(records),
        *_incomplete_trials(records),
    ]


def _rows(records: Iterable[Record]) -> dict[str, list[Record]]:
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


def identity(args: dict[str, Any]) -> str:
    """Return what tells the args of two runs apart: all but where they were written."""
    return json.dumps({k: v for k, v in args.items() if k != "output_dir"}, sort_keys=True)


def _duplicates(records: list[Record]) -> list[str]:
    found = []
    for row, some in _rows(records).items():
        runs = {id(r["args"]): r["args"] for r in some}
        names = {key: identity(args) for key, args in runs.items()}
        counts = Counter((names[id(r["args"])], r["step"], is_full_data(r)) for r in some)
        if n := sum(count - 1 for count in counts.values()):
            of = len({name for (name, *_), count in counts.items() if count > 1})
            found.append(
                f"{row}: {n} records stand twice, of {of} runs that were started anew or copied; "
                "all are counted, as in public DomainBed"
            )
    return found


def _not_finite(records: list[Record]) -> list[str]:
    found = []
    for row, some in _rows(records).items():
        odd: dict[str, int] = {}
        for record in some:
            for key, value in record.items():
                if type(value) is float and not math.isfinite(value):
                    odd.setdefault(key, record["step"])
        found += [f"{row}: {k} is not finite, first at step {step}" for k, step in odd.items()]
    return found


def _unfinished(runs: Iterable[str]) -> Iterator[str]:
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


def _incomplete_trials(records: list[Record]) -> list[str]:
    """Trials that lack a test domain or a hparams seed that another trial has."""
    found = []
    for row, some in _rows(records).items():
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


def distinct_args(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The args of records, once for all those that share them, as a run's that were read do."""
    return list({id(record["args"]): record["args"] for record in records}.values())


def mixed_protocols(every_args: Iterable[dict[str, Any]]) -> str:
    """The protocols of runs, "" for a single one; public DomainBed's records name none."""
    shown = [some for some in every_args if any(env >= 0 for env in some["test_envs"])]
    names = {some.get("protocol") or "(none recorded)" for some in shown}
    return ", ".join(sorted(names)) if len(names) > 1 else ""


def get_grouped_records(records: Q) -> Q:
    """One group for each (trial, dataset, algorithm, test env), with its records as a Q.

    A run with two test envs is in two groups; one without any, an auxiliary run, in none.
    """
    groups: dict[tuple, list[Record]] = defaultdict(list)
    of_run: dict[int, list[list[Record]]] = {}
    for record in records:
        args = record["args"]
        if id(args) not in of_run:
            run = args["trial_seed"], args["dataset"], args["algorithm"]
            keys = [(*run, env) for env in args["test_envs"] if env >= 0]
            of_run[id(args)] = [groups[key] for key in keys]
        for group in of_run[id(args)]:
            group.append(record)
    names = ("trial_seed", "dataset", "algorithm", "test_env")
    return Q({**dict(zip(names, key)), "records": Q(some)} for key, some in groups.items())
