"""Datasets of image files, `<data_dir>/<folder>/<domain>/<class>/<image>`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from domainbed.datasets.folders import by_plain_name, entries, plain, subfolders, walk
from domainbed.datasets.images import ImageDataset, Listing, abridged, has_image, is_image
from domainbed.registry import InputError

if TYPE_CHECKING:
    from domainbed.hparams_registry import HParam

logger = logging.getLogger(__name__)


class ImageFolders(ImageDataset):
    """One folder for each domain, in it one for each class.

    A label is the index of a class in the sorted class list, which all domains share. Samples are
    sorted by class, folder and name, as torchvision's ImageFolder does.
    """

    CHECKPOINT_FREQ = 300
    KIND = "photos"
    DOMAINS: Sequence[str]
    """Folder of each environment."""

    @classmethod
    def listing(cls, data_dir: str | Path | None) -> Listing:
        """List the images of each domain; raises `InputError` if domains or classes differ."""
        folder = cls.find_folder(data_dir)
        domains = match_domains(folder, cls.DOMAINS, cls.ENVIRONMENTS or ())
        classes = common_classes(domains)
        known = [*domains, folder / ALL_CLASSES]
        strays = [e.path for e in entries(folder, folder) if Path(e.path) not in known]
        samples = [_samples(domain, classes, strays) for domain in domains]
        return Listing(folder, classes, samples, strays)

    @classmethod
    def check(cls, data_dir: str | Path | None) -> None:
        """Raise `InputError` unless all domains are there with the same classes, none empty."""
        folder = cls.find_folder(data_dir)
        common_classes(match_domains(folder, cls.DOMAINS, cls.ENVIRONMENTS or ()))


class VLCS(ImageFolders):
    """Photos of 5 classes from four collections. Fang et al. 2013; 10,729 images."""

    ENVIRONMENTS = ("C", "L", "S", "V")
    FOLDER = "VLCS"
    DOMAINS = ("Caltech101", "LabelMe", "SUN09", "VOC2007")


class PACS(ImageFolders):
    """Art, cartoons, photos, sketches of 7 classes. Li et al. 2017, arXiv 1710.03077; 9,991."""

    ENVIRONMENTS = ("A", "C", "P", "S")
    FOLDER = "PACS"
    DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


class OfficeHome(ImageFolders):
    """Things of office and home, 65 classes. Venkateswara et al. 2017, arXiv 1706.07522; 15,588."""

    ENVIRONMENTS = ("A", "C", "P", "R")
    FOLDER = "office_home"
    DOMAINS = ("Art", "Clipart", "Product", "Real World")


class TerraIncognita(ImageFolders):
    """Animals at four camera traps, 10 classes. Beery et al. 2018, arXiv 1807.04975."""

    ENVIRONMENTS = ("L100", "L38", "L43", "L46")
    FOLDER = "terra_incognita"
    DOMAINS = ("location_100", "location_38", "location_43", "location_46")


class DomainNet(ImageFolders):
    """Six styles of 345 classes, 586,575 images. Peng et al. 2019, arXiv 1812.01754."""

    CHECKPOINT_FREQ = 1000
    ENVIRONMENTS = ("clip", "info", "paint", "quick", "real", "sketch")
    FOLDER = "domain_net"
    DOMAINS = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    N_IMAGES = 586_575
    """Without the 9,431 duplicates of the archives."""

    @staticmethod
    def hparam_space() -> list[HParam]:
        """Smaller batches than elsewhere."""
        from domainbed.hparams_registry import HParam

        return [HParam("batch_size", 32, lambda r: int(2 ** r.uniform(3, 5)))]


class SVIRO(ImageFolders):
    """Rendered rear seats of ten cars, 7 classes. Dias Da Cruz et al. 2020, arXiv 2001.03483."""

    KIND = "cars"
    FOLDER = "sviro"
    # fmt: off
    ENVIRONMENTS = DOMAINS = (
        "aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe",
    )
    # fmt: on


def from_folder(name: str, data_dir: str | Path) -> type[ImageFolders]:
    """A dataset whose domains are the sub-folders of `<data_dir>/<name>`, sorted.

    Raises `InputError` if none of them holds classes of images.
    """
    folder = Path(data_dir) / name
    found = by_plain_name(d for d in subfolders(folder, folder) if classes_of(d))
    if not found:
        raise InputError(
            f"{folder} has no folder of images two levels down; expected <domain>/<class>/<image>"
        )
    domains = tuple(domain.name for domain in found.values())
    fields = {"ENVIRONMENTS": domains, "DOMAINS": domains, "FOLDER": name, "__module__": __name__}
    return type(name, (ImageFolders,), {"__doc__": f"The images in {folder}.", **fields})


def match_domains(folder: Path, expected: Sequence[str], names: Sequence[str]) -> list[Path]:
    """The folder of each domain: `expected`, else one that starts with the environment's name.

    Case and punctuation do not count. If no folder matches but as many hold images as there are
    environments, these are taken in sorted order, with a warning. Raises `InputError` otherwise.
    """
    found = subfolders(folder, folder)
    by_name = by_plain_name(found)
    taken = {by_name[plain(e)] for e in expected if plain(e) in by_name}
    free = [f for f in found if f not in taken and classes_of(f)]
    matched = [by_name.get(plain(e)) or _starting_with(n, free) for e, n in zip(expected, names)]
    there = [folder for folder in matched if folder]
    if len(set(there)) == len(matched):
        return there
    deeper = _where(folder, expected)
    if not any(matched) and not deeper and len(free) == len(names):
        pairs = ", ".join(f"{f.name} as {n}" for f, n in zip(free, names))
        logger.warning("No folder of %s has an expected name; taking %s", folder, pairs)
        return free
    hint = f" Folders of these names are in {abridged(deeper)}." if deeper else ""
    raise InputError(
        f"The domains of {folder} are not as expected: found folders "
        f"{', '.join(by_name) or 'none'}; expected {', '.join(expected)}.{hint} Move, rename "
        "or add folders, so that there are <domain>/<class>/<image>"
    )


def _where(folder: Path, names: Sequence[str]) -> list[str]:
    """Folders up to two levels down that hold one of every name, relative to `folder`."""
    inside = subfolders(folder, folder)
    inside += [grandchild for child in inside for grandchild in subfolders(child, folder)]
    wanted = {letters(name) for name in names}
    return [
        str(each.relative_to(folder))
        for each in inside
        if wanted <= {letters(child.name) for child in subfolders(each, folder)}
    ]


def common_classes(domains: Sequence[Path]) -> list[str]:
    """The classes of all domains, as the first one spells them, sorted.

    Names count as the same in any Unicode form. Raises `InputError` with the difference if domains
    differ, unless the file `ALL_CLASSES` names them all, and where folders of splits seem to stand
    in the place of classes.
    """
    classes = {domain: classes_of(domain) for domain in domains}
    every: dict[str, str] = {}
    for found in classes.values():
        every = {**{key: folder.name for key, folder in found.items()}, **every}
    if not every:
        raise InputError(f"{domains[0].parent} has no images; expected <domain>/<class>/<image>")
    _check_depth([folder for found in classes.values() for folder in found.values()])
    home = domains[0].parent
    if (home / ALL_CLASSES).is_file():
        _check_listed(home / ALL_CLASSES, every)
        return sorted(every.values())
    faults = []
    for key, name in sorted(every.items(), key=lambda item: item[1]):
        have = [d.name for d in domains if key in classes[d]]
        lack = [d.name for d in domains if key not in classes[d]]
        if lack:
            few = len(have) < len(lack)
            faults.append(
                f"{name} only in {abridged(have)}" if few else f"no {name} in {abridged(lack)}"
            )
    if faults:
        raise InputError(
            f"The classes of {home} differ between domains: {abridged(faults, '; ', 10)}. Give "
            f"each domain a folder with images for each class; or, if some lack one on purpose, "
            f"name all classes in {home / ALL_CLASSES}, one a line"
        )
    return sorted(every.values())


ALL_CLASSES = "all_classes.txt"
"""File in a dataset's folder that says: domains may lack some of these classes, one a line."""


def _check_listed(file: Path, every: Mapping[str, str]) -> None:
    """Raise `InputError` unless a file names all classes that some domain has, and no others."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not in UTF-8 ({error.reason}); save it anew") from error
    listed = {plain(line.strip()): line.strip() for line in lines if line.strip()}
    lacking = sorted(name for key, name in every.items() if key not in listed)
    foreign = [name for key, name in listed.items() if key not in every]
    if lacking or foreign:
        faults = [f"it lacks {abridged(lacking)}"] * bool(lacking)
        faults += [f"no domain has {abridged(foreign)}"] * bool(foreign)
        raise InputError(
            f"{file} does not name the classes that the domains have: {'; '.join(faults)}. Name "
            "each once, one a line"
        )


def classes_of(domain: Path) -> dict[str, Path]:
    """The folders with images in a domain by `plain` names, sorted."""
    found = subfolders(domain, domain.parent)
    return by_plain_name(folder for folder in found if has_image(folder, domain.parent))


# fmt: off
SPLITS = {
    "all", "crossval", "crossvalidation", "dev", "eval", "evaluation", "full", "holdout", "test",
    "testing", "testset", "train", "training", "trainset", "trainval", "unlabeled", "unlabelled",
    "val", "valid", "validation", "valset",
}
# fmt: on
"""What folders of splits are called, by letters and digits."""


def _check_depth(classes: Sequence[Path]) -> None:
    """Raise `InputError` if folders of splits, or of domains, are in the place of classes."""
    inside: dict[str, set[str]] = {}
    for folder in classes:
        home = folder.parents[1]
        if any(not entry.is_dir() and is_image(entry.name) for entry in entries(folder, home)):
            return  # images where they should be
        names = inside.setdefault(plain(folder.name), set())
        names.update(classes_of(folder))
    every, common = set().union(*inside.values()), set.intersection(*inside.values())
    are_splits = _are_splits(inside)
    if are_splits or (len(common) > 1 and 2 * len(common) >= len(every) and not _are_splits(every)):
        kind = "splits" if are_splits else "another level of folders"
        raise InputError(
            f"The folders {abridged(sorted(inside))} in {classes[0].parent} would be classes, but "
            f"look like {kind}: they hold no images but folders "
            f"{abridged(sorted(every))}. Move these one level up, merging those of one name; "
            "expected <domain>/<class>/<image>"
        )


def _are_splits(names: Iterable[str]) -> bool:
    return all(letters(name) in SPLITS for name in names)


def _samples(domain: Path, classes: list[str], strays: list[str]) -> list[tuple[str, int]]:
    """The (path, label) of all images of a domain; whatever else is there is added to `strays`."""
    labels = {plain(name): label for label, name in enumerate(classes)}
    samples = []
    for entry in entries(domain, domain.parent):
        label = labels.get(plain(entry.name)) if entry.is_dir() else None
        if label is None:
            strays.append(entry.path)
            continue
        for folder, files in walk(entry.path, domain.parent):
            for file in files:
                path = os.path.join(folder, file)
                if is_image(os.path.relpath(path, domain)):
                    samples.append((path, label))
                else:
                    strays.append(path)
    return sorted(samples, key=lambda sample: sample[1])


def _starting_with(name: str, folders: Sequence[Path]) -> Path | None:
    """The only folder that starts with `name`, by letters and digits alone."""
    hits = [f for f in folders if letters(f.name).startswith(letters(name))]
    return hits[0] if len(hits) == 1 else None


def letters(name: str) -> str:
    """A name without case and punctuation."""
    return "".join(c for c in name.lower() if c.isalnum())
