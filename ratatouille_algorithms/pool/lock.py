"""pool.lock: what was pulled into a pool, so that pulling again gives the same bytes or refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainbed.registry import InputError
from domainbed.runs import write_atomic
from ratatouille_algorithms.pool.cards import FILES, check_name, size_of

LOCK = "pool.lock"
_MAX_BYTES = 2**22


@dataclass(frozen=True)
class Pin:
    """A repository at a commit, and the sha256 of each file pulled from it, by path there."""

    revision: str
    files: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The ingredients that the files are of."""
        return list(dict.fromkeys(path.split("/")[0] for path in self.files))


Lock = dict[str, Pin]


def read(pool: str | Path) -> Lock:
    """What each repository is pinned at; {} where there is no pool.lock."""
    path = Path(pool) / LOCK
    if not path.exists() and not path.is_symlink():
        return {}
    try:
        if size_of(path) > _MAX_BYTES:
            raise InputError("it is too long")
        values = json.loads(path.read_text(encoding="utf-8"))
        return {check_repo(repo): _pin(value) for repo, value in values.items()}
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); get it anew, or delete it") from error


def check_repo(repo: str) -> str:
    """Return the name of a repository; raises `InputError` for what is none."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII):
        raise InputError(f"{repo!r} names no repository; expected OWNER/NAME")
    return repo


def _pin(value: Any) -> Pin:
    revision, files = value["revision"], dict(value["files"])
    for path, digest in files.items():
        name, _, file = path.partition("/")
        check_name(name)
        if file not in FILES or not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(f"{path!r} is no file of an ingredient with its sha256")
    return Pin(check_commit(revision), files)


def check_commit(revision: Any) -> str:
    """Return a commit's full name; raises `InputError` for anything else."""
    if not isinstance(revision, str) or not re.fullmatch("[0-9a-f]{40}", revision):
        raise InputError(f"{ascii(revision)[:60]} is no commit of 40 hexadecimal digits")
    return revision


def without(lock: Lock, names: Iterable[str]) -> Lock:
    """The lock without what it says of some ingredients."""
    gone = {f"{name}/{file}" for name in names for file in FILES}
    left = {
        repo: Pin(pin.revision, {p: d for p, d in pin.files.items() if p not in gone})
        for repo, pin in lock.items()
    }
    return {repo: pin for repo, pin in left.items() if pin.files}


def write(pool: str | Path, lock: Lock) -> None:
    """Write pool.lock whole; there is none where nothing was pulled."""
    path = Path(pool) / LOCK
    if lock or path.exists():
        values = {repo: vars(pin) for repo, pin in lock.items()}
        write_atomic(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
