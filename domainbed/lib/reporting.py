"""Records of a sweep, read from its run folders; what is damaged is named and left out."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from domainbed.lib.query import Q
from domainbed.registry import InputError

logger = logging.getLogger(__name__)

Record = dict[str, Any]

_ARGS = {
    "dataset": str,
    "algorithm": str,
    "test_envs": list,
    "trial_seed": int,
    "hparams_seed": int,
}


def load_records(path: str | Path) -> Q:
    """All records of the run folders in `path`; problems are logged as warnings."""
    records, problems = read_records(path)
    for problem in problems:
        logger.warning("%s", problem)
    return Q(records)


def read_records(path: str | Path) -> tuple[list[Record], list[str]]:
    """All records of the run folders in `path`, and what had to be left out, a line each.

    A record that was written twice, by an interrupted run that was started again, counts once.
    Raises `InputError` for a path that is no folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"--input_dir was given {str(path)!r}, which is not a folder of runs")
    records: dict[tuple[str, int], Record] = {}
    problems: list[str] = []
    args, identity = None, ""
    for run in sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()):
        file, n_bad = os.path.join(run, "results.jsonl"), 0
        try:
            with open(file, "rb") as stream:
                lines = stream.read().splitlines()
        except FileNotFoundError:  # a run that has not written yet
            continue
        except OSError as error:
            problems.append(f"{file} cannot be read and is left out: {error.strerror}")
            continue
        for line in lines:
            record = parse_record(line, args)
            if record is None:
                n_bad += bool(line.strip())
                continue
            if record["args"] is not args:
                args = record["args"]
                without_place = {k: v for k, v in args.items() if k != "output_dir"}
                identity = json.dumps(without_place, sort_keys=True)
            key = (identity, record["step"])
            records.pop(key, None)
            records[key] = record
        if n_bad:
            problems.append(f"{file}: {n_bad} of {len(lines)} lines are damaged and left out")
    return list(records.values()), problems + mixtures(list(records.values()))


def parse_record(line: bytes, before: dict[str, Any] | None = None) -> Record | None:
    """A record, or None for a line that is not a whole and well-formed one.

    before: the args of the record before; if they are this one's, both hold the same object.
    """
    try:
        record = orjson.loads(line)  # refuses numbers that are none, and halves of characters
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    args = record.get("args")
    if before is not None and args == before:
        record["args"] = before
    elif not _are_args(args):
        return None
    if not isinstance(record.get("hparams", {}), dict):
        return None
    for key in _accuracies(tuple(record)):
        value = record[key]  # a float32 mean of ones can pass 1 by a rounding error
        if not (type(value) in (int, float) and 0 <= value < 1.001):
            return None
    return record


def _are_args(args: Any) -> bool:
    return (
        isinstance(args, dict)
        and all(type(args.get(key)) is kind for key, kind in _ARGS.items())
        and all(type(env) is int for env in args["test_envs"])
    )


@lru_cache(maxsize=1024)
def _accuracies(keys: tuple[str, ...]) -> list[str]:
    """Those of a record's keys that name accuracies; all records of a run have the same keys."""
    return [key for key in keys if key.endswith("_acc")]


def is_full_data(record: Record) -> bool:
    """Whether a record is of train_autolr's second training, which holds nothing out."""
    return "fd_env0_in_acc" in record  # all domains are measured, and the first one is always there


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
