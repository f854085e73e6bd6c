"""Folders of files from elsewhere: listed in order, no link leads out of them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from domainbed.datasets.image_files import kind_of
from domainbed.registry import InputError


def entries(folder: str | Path, home: str | Path) -> list[os.DirEntry]:
    """The files and folders in a folder, sorted by name.

    Raises `InputError` for a link that leads out of `home`, or to a folder that it is in, and for
    what is neither a file nor a folder: a pipe, a socket, a device, a link that leads nowhere.
    """
    with os.scandir(folder) as found:
        every = sorted(found, key=lambda entry: entry.name)
    for entry in every:
        if entry.is_symlink():
            _check_link(entry.path, home)
        if not (_is(entry.is_dir) or _is(entry.is_file)):
            kind = kind_of(entry.stat(follow_symlinks=False).st_mode)
            raise InputError(f"{entry.path} is {kind}, neither a file nor a folder; remove it")
    return every


def _is(asked: Callable[[], bool]) -> bool:
    """The answer of a `DirEntry`; no, for a link that leads to itself."""
    try:
        return asked()
    except OSError:
        return False


def subfolders(folder: str | Path, home: str | Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted by name."""
    found = entries(folder, home)
    return [Path(e.path) for e in found if e.is_dir() and not is_hidden(e.name)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not for people: of an operating system, an editor, a server."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def plain(name: str) -> str:
    """A name in one Unicode form: file systems and archives keep accents in several."""
    return unicodedata.normalize("NFC", name)


def by_plain_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by `plain` names; raises `InputError` for two that look the same."""
    found: dict[str, Path] = {}
    for folder in folders:
        twin = found.setdefault(plain(folder.name), folder)
        if twin is not folder:
            raise InputError(
                f"{str(folder)!r} is there twice: names {twin.name!a} and "
                f"{folder.name!a} differ only in their Unicode form; merge the folders"
            )
    return found


def walk(top: str | Path, home: str | Path) -> list[tuple[str, list[str]]]:
    """Every folder below `top`, itself included, with the names of its files, sorted."""
    found, ahead = [], [str(top)]
    while ahead:
        folder = ahead.pop()
        inside = entries(folder, home)
        ahead += [entry.path for entry in inside if entry.is_dir()]
        found.append((folder, [entry.name for entry in inside if not entry.is_dir()]))
    return sorted(found)


def _check_link(path: str, home: str | Path) -> None:
    real, inside = os.path.realpath(path), os.path.realpath(home)
    if not real.startswith(inside + os.sep):
        raise InputError(
            f"{path} is a link to {real}, outside of {home}; copy what it leads to, or link the "
            "whole folder of the dataset"
        )
    if os.path.realpath(os.path.dirname(path)).startswith(real):
        raise InputError(f"{path} is a link to a folder that it is in; remove it")


def abridged(items: Sequence[str], separator: str = ", ", most: int = 5) -> str:
    """The first few items in a line, and how many there are in all."""
    more = [f"... ({len(items)} in all)"] if len(items) > most else []
    return separator.join([*items[:most], *more])
