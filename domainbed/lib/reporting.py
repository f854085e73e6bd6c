"""Records of a sweep, read from its run folders; what is damaged is named and left out."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
    for run in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        file, n_bad = run / "results.jsonl", 0
        try:
            lines = file.read_bytes().splitlines()
        except FileNotFoundError:  # a run that has not written yet
            continue
        except OSError as error:
            problems.append(f"{file} cannot be read and is left out: {error.strerror}")
            continue
        for line in lines:
            record = parse_record(line)
            if record is None:
                n_bad += bool(line.strip())
                continue
            identity = {k: v for k, v in record["args"].items() if k != "output_dir"}
            key = (json.dumps(identity, sort_keys=True), record["step"])
            records.pop(key, None)
            records[key] = record
        if n_bad:
            problems.append(f"{file}: {n_bad} of {len(lines)} lines are damaged and left out")
    return list(records.values()), problems + mixtures(list(records.values()))


def parse_record(line: bytes) -> Record | None:
    """A record, or None for a line that is not a whole and well-formed one."""
    try:
        record = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    args = record.get("args")
    if not isinstance(args, dict) or not isinstance(record.get("hparams", {}), dict):
        return None
    is_whole = all(type(args.get(key)) is kind for key, kind in _ARGS.items())
    is_whole = is_whole and all(type(env) is int for env in args["test_envs"])
    numbers = [value for key, value in record.items() if key.endswith("_acc")]
    # a float32 mean of ones can pass 1 by a rounding error
    is_whole = is_whole and all(type(x) in (int, float) and 0 <= x < 1.001 for x in numbers)
    return record if is_whole else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def is_full_data(record: Record) -> bool:
    """Whether a record is of train_autolr's second training, which holds nothing out."""
    return any(key.startswith("fd_env") for key in record)


def mixtures(records: list[Record]) -> list[str]:
    """What should not stand in one row: runs that differ in more than seeds and test domains.

    Nor in one table: runs of different protocols. Runs without a test domain are in no table, so
    they may differ.
    """
    seen: dict[tuple, set[str]] = defaultdict(set)
    shown = [r for r in records if any(env >= 0 for env in r["args"]["test_envs"])]
    for record in shown:
        args = record["args"]
        for key in ("holdout_fraction", "steps", "hparams"):
            if key != "holdout_fraction" or not is_full_data(record):
                seen[args["dataset"], args["algorithm"], key].add(json.dumps(args.get(key)))
    problems = [
        f"{dataset}, {algorithm}: runs with different --{key} are mixed: {', '.join(sorted(some))}"
        for (dataset, algorithm, key), some in seen.items()
        if len(some) > 1
    ]
    for dataset in dict.fromkeys(record["args"]["dataset"] for record in shown):
        mixed = mixed_protocols(r for r in shown if r["args"]["dataset"] == dataset)
        if mixed:
            problems.append(f"{dataset}: runs of different protocols are in one table: {mixed}")
    return problems


def mixed_protocols(records: Iterable[Record]) -> str:
    """The protocols of records, "" for a single one; public DomainBed's records name none."""
    args = [record["args"] for record in records]
    shown = [some for some in args if any(env >= 0 for env in some["test_envs"])]
    names = {some.get("protocol") or "(none recorded)" for some in shown}
    return ", ".join(sorted(names)) if len(names) > 1 else ""


def get_grouped_records(records: Q) -> Q:
    """One group for each (trial, dataset, algorithm, test env), with its records as a Q.

    A run with two test envs is in two groups; one without any, an auxiliary run, in none.
    """
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        args = record["args"]
        for env in args["test_envs"]:
            if env >= 0:
                key = (args["trial_seed"], args["dataset"], args["algorithm"], env)
                groups[key].append(record)
    names = ("trial_seed", "dataset", "algorithm", "test_env")
    return Q({**dict(zip(names, key)), "records": Q(some)} for key, some in groups.items())
