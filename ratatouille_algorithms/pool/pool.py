"""A pool: a folder of ingredients, each a folder of its own with weights and a card.

    POOL/<name>/model.safetensors   a featurizer, under `featurizer.*`
    POOL/<name>/card.toml           what it is; the header of the weights repeats its provenance
    POOL/pool.lock                  what was pulled: repository, commit, sha256 of each file

Nothing here imports torch. Links are refused: what a pool holds is inside of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainbed.lib.files import sha256_of
from domainbed.registry import InputError, nearest
from domainbed.runs import LAST
from ratatouille_algorithms.pool import cards, lock
from ratatouille_algorithms.pool.cards import CARD, FILES, Card
from ratatouille_algorithms.pool.lock import LOCK

_MAX_HEADER = 2**24


@dataclass(frozen=True)
class Ingredient:
    """A folder whose card and weights agree."""

    folder: Path
    card: Card

    @property
    def name(self) -> str:
        """The folder's name, and the card's."""
        return self.card.name

    @property
    def weights(self) -> Path:
        """The file of the featurizer."""
        return self.folder / LAST

    @property
    def label(self) -> str:
        """Name and content: what an argument of a job should hold."""
        return f"{self.name}@{self.card.sha256[:12]}"

    def check_bytes(self) -> None:
        """Raise `InputError` unless the weights are those that the card is of."""
        found = sha256_of(self.weights)
        if found != self.card.sha256:
            raise InputError(
                f"{self.weights} has sha256 {found}, its card says {self.card.sha256}; "
                "do not use it, or get it anew"
            )


def is_pool(folder: str | Path | None) -> bool:
    """Whether a folder is a pool: it holds a card one level down, or a pool.lock."""
    if folder is None:
        return False
    path = Path(folder)
    return (path / LOCK).is_file() or any(True for _ in path.glob(f"*/{CARD}"))


def entries(pool: str | Path) -> Iterator[tuple[str, Ingredient | InputError]]:
    """Every ingredient by name, in order of names, or what is wrong with it.

    A folder is one if it holds a card or weights without run.json; others are no business of ours.
    """
    path = Path(pool)
    if not path.is_dir():
        raise InputError(f"--pool was given {str(pool)!r}, which is not a folder")
    for folder in sorted(path.iterdir()):
        if folder.name.startswith(".") or not _claims_to_be_one(folder):
            continue
        try:
            yield folder.name, open_one(folder)
        except InputError as error:
            yield folder.name, error


def _claims_to_be_one(folder: Path) -> bool:
    if not folder.is_dir() or os.path.lexists(folder / "run.json"):
        return False
    return any(os.path.lexists(folder / name) for name in FILES)


def read(pool: str | Path) -> list[Ingredient]:
    """All ingredients in order of names; raises `InputError` for the first that is not sound."""
    found = []
    for _, one in entries(pool):
        if isinstance(one, InputError):
            raise one
        found.append(one)
    return found


def get(pool: str | Path, names: Sequence[str] = ()) -> list[Ingredient]:
    """The ingredients of these names, or all; raises `InputError` for one that is not there."""
    if not names:
        return read(pool)
    there = [name for name, _ in entries(pool)]
    for name in map(cards.check_name, names):
        if name not in there:
            raise InputError(f"{pool} has no ingredient {name!r}. {nearest(name, there)}")
    return [open_one(Path(pool) / name) for name in dict.fromkeys(names)]


def open_one(folder: Path) -> Ingredient:
    """An ingredient whose card, file size and header of weights agree; bytes are not hashed.

    Raises `InputError` that names what is wrong: a link, another name, another past.
    """
    name = cards.check_name(folder.name)
    if folder.is_symlink():
        raise InputError(f"{folder} is a link; an ingredient is a folder inside of its pool")
    card = cards.read(folder / CARD)
    if card.name != name:
        raise InputError(f"{folder / CARD} is that of {card.name!r}; expected {name!r}")
    weights = folder / LAST
    size = cards.size_of(weights)
    if size != card.size:
        raise InputError(f"{weights} has {size} bytes, its card says {card.size}")
    theirs = read_provenance(weights)
    if theirs != card.provenance():
        key = next(k for k in (*theirs, *card.provenance()) if _differ(theirs, card, k))
        raise InputError(
            f"{folder / CARD} gives {key} as {cards.short(card.provenance().get(key))}, the "
            f"header of {LAST} as {cards.short(theirs.get(key))}; add the weights anew"
        )
    return Ingredient(folder, card)


def _differ(theirs: dict[str, Any], card: Card, key: str) -> bool:
    return theirs.get(key) != card.provenance().get(key)


def read_provenance(weights: Path) -> dict[str, Any]:
    """Foundation and datasets_seen of a safetensors file's header, read without its tensors."""
    with open(weights, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER:
            raise InputError(f"{weights} has a header of {length} bytes; it is not safetensors")
        text = file.read(length)
    try:
        said = json.loads(json.loads(text)["__metadata__"]["provenance"])
        return {key: said[key] for key in ("foundation", "datasets_seen") if key in said}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{weights} has no header that says where it comes from") from error


def why_not(
    ingredient: Ingredient, target: str, foundation: str | None = None, allow_unknown: bool = False
) -> str:
    """Why an ingredient must not be used for a target dataset; "" if it may be.

    `foundation` is the content hash that the runs start from, where it is known.
    """
    card = ingredient.card
    if card.datasets_seen is None and not allow_unknown:
        return "what it has seen is unknown (--allow_unknown_provenance)"
    if card.has_seen(target):
        return f"has seen {target}"
    if foundation is not None and card.foundation.sha256 != foundation:
        return f"descends from another foundation, {card.foundation.name or 'one without a name'}"
    return ""


def usable(
    ingredients: Iterable[Ingredient],
    target: str,
    foundation: str | None = None,
    allow_unknown: bool = False,
) -> list[Ingredient]:
    """The ingredients that runs on a target dataset may start from, in the same order.

    Raises `InputError` where none is left, and where they descend from different foundations.
    """
    every = list(ingredients)
    reasons = {one.name: why_not(one, target, foundation, allow_unknown) for one in every}
    left = [one for one in every if not reasons[one.name]]
    if not left:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise InputError(f"The pool has no ingredient for {target} ({told or 'it is empty'})")
    for one in left:
        if one.card.foundation.sha256 != left[0].card.foundation.sha256:
            raise InputError(
                f"{one.name} descends from foundation {one.card.foundation.name!r}, "
                f"{left[0].name} from {left[0].card.foundation.name!r}; only weights of one "
                "foundation can be averaged: keep them in pools of their own"
            )
    return left


def pinned(pool: str | Path, labels: Sequence[str]) -> list[Ingredient]:
    """The ingredients of these labels; raises `InputError` where one is another by now."""
    found = [get(pool, [label.partition("@")[0]])[0] for label in labels]
    for one, label in zip(found, labels):
        if one.label != label:
            raise InputError(
                f"{one.folder} is {one.label}, but this job is of {label}; put that one back, or "
                "launch the sweep again to use the new one"
            )
    return found


@contextmanager
def staging(pool: str | Path) -> Iterator[Path]:
    """A folder inside of the pool, made if need be, that is gone afterwards."""
    path = Path(pool)
    if not is_pool(path) and any(True for _ in path.glob("*/run.json")):
        raise InputError(f"--pool {str(pool)!r} holds runs; give a folder of its own to a pool")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".new-") as folder:
            yield Path(folder)
    except OSError as error:
        raise InputError(f"--pool {str(pool)!r} cannot be written: {error.strerror}") from error


def settle(staged: Path, pool: str | Path) -> Ingredient:
    """Move a finished ingredient from `staging` to its place, where nothing must be."""
    target = Path(pool) / staged.name
    if os.path.lexists(target):
        raise InputError(f"{target} is there already; remove it first, or give another --name")
    staged.chmod(0o777 & ~_umask())
    os.rename(staged, target)
    return open_one(target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_room(size: int, folder: Path) -> None:
    """Raise `InputError` unless the disk has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{folder} has {free / 1e9:.1f} GB left, {size / 1e9:.1f} GB are needed")


def remove(pool: str | Path, names: Sequence[str]) -> None:
    """Delete ingredients, sound or not, and what pool.lock says of them."""
    folders = [Path(pool) / cards.check_name(name) for name in dict.fromkeys(names)]
    for folder in folders:
        if folder.is_symlink() or not _claims_to_be_one(folder):
            raise InputError(f"{folder} is no ingredient; nothing is removed")
    pinned = lock.read(pool)
    for folder in folders:
        shutil.rmtree(folder)
    lock.write(pool, lock.without(pinned, names))


def export(ingredients: Sequence[Ingredient], output: Path) -> None:
    """Copy ingredients to a new .zip, .tar or folder, which is a pool when it is unpacked."""
    if os.path.lexists(output):
        raise InputError(f"--output {str(output)!r} is there already; give another")
    for one in ingredients:
        one.check_bytes()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
            partial = Path(folder) / "export"
            _WRITERS.get(output.suffix, copy)(ingredients, partial)
            os.rename(partial, output)
    except OSError as error:
        raise InputError(f"--output {str(output)!r} cannot be written: {error.strerror}") from error


def copy(ingredients: Sequence[Ingredient], path: Path) -> None:
    """Copy the files of ingredients, and nothing else, into a folder."""
    for one in ingredients:
        (path / one.name).mkdir(parents=True)
        for file in FILES:
            shutil.copyfile(one.folder / file, path / one.name / file)


def _to_zip(ingredients: Sequence[Ingredient], path: Path) -> None:
    with zipfile.ZipFile(path, "w", strict_timestamps=False) as archive:
        for one in ingredients:
            for file in FILES:
                archive.write(one.folder / file, f"{one.name}/{file}")


def _to_tar(ingredients: Sequence[Ingredient], path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for one in ingredients:
            for file in FILES:
                archive.add(one.folder / file, f"{one.name}/{file}", filter=_nobodys)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


_WRITERS: dict[str, Callable[[Sequence[Ingredient], Path], None]] = {
    ".zip": _to_zip,
    ".tar": _to_tar,
}
