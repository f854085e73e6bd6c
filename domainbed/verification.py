"""Checks that what lies in a sweep's folder is what its runs wrote."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from domainbed.engine.options import Options
from domainbed.jobs import Job
from domainbed.lib import reporting, weights
from domainbed.lib.files import sha256_of
from domainbed.registry import InputError
from domainbed.runs import DAMAGED, RunFolder

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_FILE_NAME = re.compile(r"[^/\\\0]{1,240}\.safetensors")

HEADER, HASH, NUMBERS = range(3)
"""How deep to look into weights: at header and size; also at all bytes; also at each number."""


def problems(folder: RunFolder) -> list[str]:
    """What is wrong with a run folder, a line each; an unfinished one may lack anything."""
    try:
        description = folder.description()
    except InputError as error:
        return [str(error)]
    found = list(_of_name(folder, description.get("args")))
    if folder.is_done:
        files = description.get("files", {})
        found += [*_of_records(folder), *_of_files(folder, files, NUMBERS)]
    return found


def _of_files(folder: RunFolder, files: Any, depth: int) -> Iterator[str]:
    """What run.json says of weights must be names of files here, and what they hash to."""
    if not isinstance(files, dict):
        yield f"{folder / 'run.json'} is damaged: files is {_brief(files)}, expected an object"
        return
    for name, sha256 in sorted(files.items()):
        if not _FILE_NAME.fullmatch(name):
            yield f"{folder / 'run.json'} is damaged: {_brief(name)} is no name of weights"
        else:
            yield from _of_weights(folder / name, sha256, depth)


def _brief(value: Any) -> str:
    return textwrap.shorten(repr(value)[:200], 60)


def _of_records(folder: RunFolder) -> Iterator[str]:
    file = folder / "results.jsonl"
    try:
        lines = reporting.read_lines(file)
    except OSError as error:
        yield f"{file} cannot be read: {error.strerror}"
        return
    if not lines:
        yield f"{file} holds no record, though the run is done"
    last = (False, -1)  # train_autolr trains twice: the records of the second time count anew
    for number, line in enumerate(lines, 1):
        record = reporting.read_record(line)
        if not isinstance(record, dict):
            yield f"{file}: line {number} is no whole record: {record or 'it is empty'}"
            continue
        place = reporting.is_full_data(record), record["step"]
        if place <= last:
            yield f"{file}: line {number} is of step {place[1]}, after step {last[1]}"
        last = place


def _of_name(folder: RunFolder, args: Any) -> Iterator[str]:
    """A folder that is named by a job's arguments must hold that job's run."""
    if args is None or not _JOB_ID.fullmatch(folder.path.name):
        return
    try:
        job = Job(Options.of_args(args).identity(), str(folder.path.parent))
    except (AttributeError, InputError, LookupError, TypeError, ValueError) as error:
        yield f"{folder / 'run.json'} has damaged args: {_brief(error)}"
        return
    if job.id != folder.path.name:
        yield f"{folder.path} holds a run whose args belong in folder {job.id}"


def _of_weights(path: Path, sha256: Any, depth: int) -> Iterator[str]:
    """The file must be there, be the one that was written, and hold finite numbers."""
    try:
        if depth == NUMBERS and path.is_symlink():
            yield f"{path} is a link"
            return
        with weights.opened(path) as file:  # which compares the size with that of the header
            for name in file.keys() if depth == NUMBERS else ():
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    yield f"{path} holds a number that is not finite, in {name!r}"
        if depth >= HASH and sha256_of(path) != sha256:
            yield f"{path} is not the file that the run wrote (sha256 differs)"
    except (InputError, weights.SafetensorError, OSError) as error:
        yield str(error)


def damaged_weights(folder: RunFolder, depth: int) -> list[str]:
    """What became of the weights of a finished run, a line each, looking no deeper than `depth`."""
    try:
        files = folder.description().get("files", {})
    except InputError as error:
        return [str(error)]
    return list(_of_files(folder, files, depth))


def set_aside(folder: RunFolder, root: str | Path) -> Path:
    """Move a run folder to `<root>/damaged/`, where no command looks; return the new place."""
    place = Path(root) / DAMAGED / folder.path.relative_to(root)
    n = 0
    while (new := place.with_name(f"{place.name}.{n}" if n else place.name)).exists():
        n += 1
    new.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder.path, new)
    return new
