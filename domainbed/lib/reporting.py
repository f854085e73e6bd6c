"""Records of a sweep, read from its run folders; what is damaged is named and left out."""

from __future__ import annotations

import codecs
import itertools
import json
import logging
import os
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from domainbed.lib.console import escape
from domainbed.lib.doubts import Record, doubts, identity, is_full_data, unfinished
from domainbed.lib.files import read_regular
from domainbed.lib.query import Q
from domainbed.registry import InputError

logger = logging.getLogger(__name__)

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
    "data_dir": (str,),
    "what_is_trainable": (str,),
    "hparams": (str, dict),
    "steps": (int,),
    "checkpoint_freq": (int,),
    "seed": (int,),
    "holdout_fraction": (int, float),
    "uda_holdout_fraction": (int, float),
}
"""Keys of args that a record may lack or leave empty, and their types."""

_SHARED = {"args", "hparams", "environments"}
"""Keys of records whose values are most often the same in each of a run."""

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


def read_records(*paths: str | Path, once: bool = False) -> tuple[list[Record], list[str]]:
    """Read all records of the run folders in `paths`; return them and problems, a line each.

    once: of records that stand twice take the last one only; public DomainBed counts all.
    Control characters in texts are turned into escapes, so that a record can be printed. Raises
    `InputError` for a path that is no folder.
    """
    records: list[Record] = []
    runs, faults = [], []
    for run in itertools.chain.from_iterable(map(_folders, paths)):
        some, fault = read_run(run)
        if some is not None:
            runs.append(run)
            records += some
        faults += [fault] if fault else []
    problems = [*shortened(faults), *unfinished(runs), *doubts(records, once)]
    return (each_once(records) if once else records), problems


def read_run(folder: str | Path) -> tuple[list[Record] | None, str]:
    """Read the records of a run, None without a file that can be read, and say what is wrong.

    The records share one object of args, and others of what else is the same in each.
    """
    file = os.path.join(folder, "results.jsonl")
    try:
        lines = read_lines(file)
    except FileNotFoundError:  # a run that has not written yet
        return None, ""
    except OSError as error:
        reason = error.strerror or str(error)
        return None, escape(f"{file} cannot be read and is left out: {reason}")
    records: list[Record] = []
    reasons = []
    for number, line in enumerate(lines, 1):
        record = read_record(line, records[-1] if records else None)
        if isinstance(record, str):
            reasons.append(f"line {number}: {record}")
        elif record is not None:
            records.append(record)
    if not reasons:
        return records, ""
    many = f"{len(reasons)} of {len(lines)} lines are damaged and left out"
    return records, escape(f"{file}: {many} ({reasons[0]})")


def shortened(faults: list[str]) -> list[str]:
    """The first of many faults, and how many more there are."""
    if n_more := len(faults[_SHOWN:]):
        return [*faults[:_SHOWN], f"{n_more} more files are damaged, in whole or in part"]
    return faults


def each_once(records: Iterable[Record]) -> list[Record]:
    """The records without those of which a later one is of the same run and step."""
    names: dict[int, str] = {}
    last: dict[tuple[str, int, bool], Record] = {}
    for record in records:
        args = record["args"]
        if id(args) not in names:
            names[id(args)] = identity(args)
        last[names[id(args)], record["step"], is_full_data(record)] = record
    return list(last.values())


def _folders(path: str | Path) -> list[str]:
    if not Path(path).is_dir():
        raise InputError(f"--input_dir was given {str(path)!r}, which is not a folder of runs")
    return sorted(entry.path for entry in os.scandir(path) if entry.is_dir())


def read_lines(file: str | Path) -> list[bytes]:
    """Read the lines of a file of records, without a mark of byte order; raises `OSError`."""
    return read_regular(file).removeprefix(codecs.BOM_UTF8).splitlines()


def parse_record(line: bytes, before: Record | None = None) -> Record | None:
    """Return a record, or None for a line that is not a whole and well-formed one."""
    record = read_record(line, before)
    return None if isinstance(record, str) else record


def read_record(line: bytes, before: Record | None = None) -> Record | str | None:
    """Return a record, the reason why a line holds none, or None for an empty line.

    before: the record before; what is the same in both, such as args, is one object.
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
    is_plain = line.isascii() and b"\\" not in line and b"\x7f" not in line
    if not is_plain and _CONTROLS.search(line):
        record = _escaped(record)
    return _fault(record, before) or record


def _fault(record: Record, before: Record | None) -> str:
    """Say what is wrong with a record, "" for nothing; whole floats become integers."""
    step = _whole(record.get("step"))
    if type(step) is not int:
        return f"step is {_brief(record, 'step')}, expected an integer"
    record["step"] = step
    args, seen = record.get("args"), before or {}
    for key in _SHARED & seen.keys() & record.keys():
        if record[key] == seen[key]:
            record[key] = seen[key]
    if record.get("args") is args and (fault := _fault_of_args(args)):
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
