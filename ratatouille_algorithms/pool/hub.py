"""Sharing ingredients through repositories of the Hugging Face hub.

A repository holds `<name>/model.safetensors` and `<name>/card.toml`; whatever else is in it is
never fetched, and nothing is executed. What was pulled is pinned in pool.lock, by commit and by
the sha256 of each file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainbed.registry import InputError, nearest
from domainbed.runs import LAST
from ratatouille_algorithms.pool import cards, lock, pool
from ratatouille_algorithms.pool.cards import CARD, FILES
from ratatouille_algorithms.pool.lock import Pin
from ratatouille_algorithms.pool.pool import Ingredient

GIB = 2**30
MAX_GIB = 4.0
"""The most that one call pulls, unless it is told otherwise."""


def _import_hub() -> Any:
    """Import huggingface_hub, or raise `InputError` that says how to install it."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"The hub needs huggingface_hub, which cannot be imported ({error}); "
            'install it with pip install "domainbed-ratatouille[hub]"'
        ) from error
    return huggingface_hub


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell in one line whatever the hub's client raises: connections, missing names, no rights."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reasons = [_first_line(one) for one in (error, error.__cause__) if one is not None]
        raise InputError(f"{what} ({'; '.join(dict.fromkeys(reasons))})") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])


@dataclass(frozen=True)
class Offer:
    """What a repository has at a commit: the sizes of the files of each ingredient."""

    commit: str
    sizes: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Pulled:
    """What a pull did: ingredients that are new, and names of those that were there already."""

    commit: str
    new: list[Ingredient]
    kept: list[str]


def offer(repo: str, revision: str | None) -> Offer:
    """List a repository; `revision` is a branch, a tag or a commit, None the main branch."""
    api = _import_hub().HfApi()
    with _told(f"{repo} cannot be listed"):
        info = api.model_info(repo, revision=revision, files_metadata=True)
    sizes: dict[str, dict[str, int]] = {}
    for sibling in info.siblings or []:
        name, _, file = sibling.rfilename.partition("/")
        if file in FILES and type(sibling.size) is int:
            sizes.setdefault(name, {})[file] = sibling.size
    whole = {name: files for name, files in sorted(sizes.items()) if len(files) == len(FILES)}
    return Offer(lock.check_commit(info.sha), whole)


def pull(
    to: str | Path,
    repo: str,
    revision: str | None = None,
    names: Sequence[str] = (),
    update: bool = False,
    max_gib: float = MAX_GIB,
) -> Pulled:
    """Fetch ingredients (default: all) that are not there, at the commit that pool.lock pins.

    Raises `InputError`, before anything changes in the pool, for another commit (unless `update`),
    for bytes other than pinned, for what is too large, and for an ingredient that is not sound.
    """
    lock.check_repo(repo)
    locked = lock.read(to)
    pin = None if update else locked.get(repo)
    found = offer(repo, revision or (pin.revision if pin else None))
    if pin and found.commit != pin.revision:
        raise InputError(
            f"{repo} at {revision or pin.revision} is commit {found.commit}, but pool.lock pins "
            f"{pin.revision}; leave --revision out, or give --update"
        )
    before = locked.get(repo, Pin(found.commit, {}))
    chosen = _choose(repo, found, [*(names or found.sizes), *(before.names if update else ())])
    wanted = [name for name in chosen if not _is_there(Path(to) / name, before, update)]
    _check_sizes(repo, found, wanted, max_gib)
    with pool.staging(to) as scratch:
        for name in wanted:
            _fetch(repo, found, name, scratch, pin)
        _settle(to, scratch, repo, found.commit, wanted, chosen)
    return Pulled(
        found.commit, pool.get(to, wanted) if wanted else [], [n for n in chosen if n not in wanted]
    )


def _choose(repo: str, found: Offer, names: Sequence[str]) -> list[str]:
    if not found.sizes:
        raise InputError(f"{repo} holds no ingredient, which is a folder of {' and '.join(FILES)}")
    for name in names:
        if name not in found.sizes:
            raise InputError(f"{repo} has no ingredient {name!r}. {nearest(name, found.sizes)}")
    return [cards.check_name(name) for name in dict.fromkeys(names)]


def _is_there(folder: Path, pin: Pin, update: bool) -> bool:
    """Whether an ingredient is as pinned and stays; `InputError` if it is another."""
    if not os.path.lexists(folder):
        return False
    pinned = {file: pin.files.get(f"{folder.name}/{file}") for file in FILES}
    pool.open_one(folder)
    if pinned != {file: pool.sha256_of(folder / file) for file in FILES}:
        known = "differs from what pool.lock pins" if all(pinned.values()) else "is not from there"
        raise InputError(f"{folder} is there already and {known}; remove it to pull it")
    return not update


def _check_sizes(repo: str, found: Offer, names: Sequence[str], max_gib: float) -> None:
    for name in names:
        size = found.sizes[name][CARD]
        if size > cards.MAX_BYTES:
            raise InputError(f"{name} of {repo} has a card of {size} bytes; refused")
    total = sum(sum(found.sizes[name].values()) for name in names)
    if total > max_gib * GIB:
        raise InputError(
            f"{repo} would take {total / GIB:.1f} GiB, more than --max_gib {max_gib:g}; "
            "name some with --names, or raise it"
        )


def _fetch(repo: str, found: Offer, name: str, scratch: Path, pin: Pin | None) -> None:
    """Download one ingredient into `scratch` and check all of it."""
    from ratatouille_algorithms.pool import verify  # torch, once there is something to check

    api = _import_hub().HfApi()
    pool.check_room(sum(found.sizes[name].values()), scratch)
    for file in (CARD, LAST):
        path = f"{name}/{file}"
        with _told(f"{path} of {repo} cannot be fetched"):
            api.hf_hub_download(repo, path, revision=found.commit, local_dir=scratch)
        size, expected = cards.size_of(scratch / path), found.sizes[name][file]
        if size != expected:
            raise InputError(f"{path} of {repo} has {size} bytes, {expected} were announced")
        if file == CARD and cards.read(scratch / path).size != found.sizes[name][LAST]:
            raise InputError(f"{path} of {repo} is of weights of another size than are there")
        digest = pool.sha256_of(scratch / path)
        if pin and pin.files.get(path, digest) != digest:
            raise InputError(
                f"{path} of {repo} has sha256 {digest}, but pool.lock pins {pin.files[path]}; "
                "the repository serves other bytes than it did"
            )
    verify.check(pool.open_one(scratch / name))


def _settle(
    to: str | Path,
    scratch: Path,
    repo: str,
    commit: str,
    wanted: Sequence[str],
    chosen: Sequence[str],
) -> None:
    """Pin what was fetched, then move it in place: interrupted, it is pulled again as pinned."""
    locked = lock.read(to)
    where = {name: (scratch if name in wanted else Path(to)) / name for name in chosen}
    files = {
        f"{name}/{file}": pool.sha256_of(folder / file)
        for name, folder in where.items()
        for file in FILES
    }
    old = locked.get(repo)
    kept = old.files if old and old.revision == commit else {}
    others = lock.without(locked, chosen)
    lock.write(to, {**others, repo: Pin(commit, {**kept, **files})})
    for name in wanted:
        if os.path.lexists(Path(to) / name):
            shutil.rmtree(Path(to) / name)
        pool.settle(scratch / name, to)


def push(
    ingredients: Sequence[Ingredient], repo: str, is_private: bool = False, message: str = ""
) -> str:
    """Upload the two files of each ingredient in one commit; return the commit.

    Makes the repository if need be. Raises `InputError` for an ingredient without a licence.
    """
    lock.check_repo(repo)
    hub = _import_hub()
    for one in ingredients:
        if not one.card.licence:
            raise InputError(f"{one.folder / CARD} gives no licence; add one before sharing it")
        one.check_bytes()
    operations = [
        hub.CommitOperationAdd(f"{one.name}/{file}", str(one.folder / file))
        for one in ingredients
        for file in FILES
    ]
    message = message or f"Add {', '.join(one.name for one in ingredients)}"
    api = hub.HfApi()
    with _told(f"{repo} cannot be pushed to"):
        api.create_repo(repo, private=is_private or None, exist_ok=True)
        info = api.create_commit(repo, operations, commit_message=message[:200])
    return info.oid
