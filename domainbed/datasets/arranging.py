"""What each archive looks like inside, and how it becomes DomainBed's layout.

Each function takes the dataset's class, the folder where its archives were unpacked, and
--data_dir, and raises `InputError` when it does not find what it looks for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from domainbed.datasets.image_folder import letters
from domainbed.datasets.images import abridged, is_image
from domainbed.datasets.published import CLASSES
from domainbed.registry import InputError

logger = logging.getLogger(__name__)


def domains(cls: Any, unpacked: Path, data_dir: Path) -> None:
    """Take the folder in which all domains are, however deep; case and punctuation do not count."""
    wanted = {letters(domain): domain for domain in cls.DOMAINS}
    for parent, folders, _ in os.walk(unpacked):
        found = {letters(name): name for name in folders}
        if wanted.keys() <= found.keys():
            arranged = unpacked / ".arranged"
            arranged.mkdir()
            for key, domain in wanted.items():
                os.rename(Path(parent) / found[key], arranged / domain)
            os.rename(arranged, data_dir / cls.FOLDER)
            return
    raise InputError(
        f"The archives of {cls.__name__} have no folder that holds "
        f"{abridged(cls.DOMAINS, most=10)}; give all archives of this dataset"
    )


def domain_net(cls: Any, unpacked: Path, data_dir: Path) -> None:
    """Leave out duplicates, then take the folder of domains.

    What stays is what the authors' lists of the cleaned version (`<domain>_{train,test}.txt`)
    name. Without these lists, of files with the same content in a domain only the first stays,
    which is not quite the same.
    """
    lists = [p for p in unpacked.rglob("*_t*.txt") if p.stem.endswith(("_train", "_test"))]
    listed = {line.split()[0] for path in lists for line in path.read_text().splitlines() if line}
    images = {path.relative_to(path.parents[2]).as_posix(): path for path in _images(unpacked)}
    if len(listed) == cls.N_IMAGES:
        superfluous = [path for name, path in images.items() if name not in listed]
    else:
        logger.warning(
            "The lists of the cleaned DomainNet name %d images, expected %d; leaving out repeated "
            "contents instead",
            len(listed),
            cls.N_IMAGES,
        )
        superfluous = _repeated(images)
    for path in superfluous:
        path.unlink()
    logger.info("Left out %d duplicates of %d images", len(superfluous), len(images))
    domains(cls, unpacked, data_dir)


def _repeated(images: dict[str, Path]) -> list[Path]:
    """Files whose content an earlier one of the same domain has; keys are <domain>/..."""
    seen, repeated = set(), []
    for name, path in sorted(images.items()):
        key = name.split("/")[0], hashlib.md5(path.read_bytes()).digest()
        if key in seen:
            repeated.append(path)
        seen.add(key)
    return repeated


def terra_incognita(cls: Any, unpacked: Path, data_dir: Path) -> None:
    """Sort the images of four camera traps by their annotations, all json files taken together.

    An image with animals of two classes is put into both. Folders that are sorted by location
    already are taken as they are.
    """
    pairs = {pair for path in unpacked.rglob("*.json") for pair in _annotated(path)}
    if not pairs:
        return domains(cls, unpacked, data_dir)
    images = {path.name: path for path in _images(unpacked)}
    arranged = unpacked / ".arranged"
    missing = set()
    for file, location, name in sorted(pairs):
        if f"location_{location}" not in cls.DOMAINS or name not in CLASSES[cls.__name__]:
            continue
        if file not in images:
            missing.add(file)
            continue
        target = arranged / f"location_{location}" / name / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images[file], target)
    if not arranged.is_dir():
        raise InputError(
            "The archives of TerraIncognita have no images of its four locations; give both the "
            "images and the annotations with --archive"
        )
    if missing:
        logger.warning("%d annotated images are missing, such as %s", len(missing), min(missing))
    os.rename(arranged, data_dir / cls.FOLDER)


def _annotated(path: Path) -> Iterator[tuple[str, str, str]]:
    """The (file name, location, class) of each annotation of an image."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not {"images", "annotations", "categories"} <= set(content):
        return
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        if image is not None:
            file = os.path.basename(image["file_name"])
            yield file, str(image["location"]), names[annotation["category_id"]]


def spawrious(cls: Any, unpacked: Path, data_dir: Path) -> None:
    """Add folders <half>/<location>/<class> to those that other archives brought."""
    places = set(cls.TRAIN) | set(cls.TEST)
    for parent, folders, _ in os.walk(unpacked):
        halves = [Path(parent) / name for name in folders if name in ("0", "1")]
        halves = [half for half in halves if any((half / place).is_dir() for place in places)]
        if halves:
            for leaf in (leaf for half in halves for leaf in half.glob("*/*") if leaf.is_dir()):
                target = data_dir / cls.FOLDER / leaf.relative_to(parent)
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(leaf, target)
            return
    raise InputError(
        f"The archive of {cls.__name__} has no folders <0 or 1>/<location>/<class>; give one of "
        "the authors' archives"
    )


def wilds(cls: Any, unpacked: Path, data_dir: Path) -> None:
    """Take the folder in which the table and the images are."""
    for table in unpacked.rglob(cls.TABLE):
        if (table.parent / cls.IMAGES).is_dir():
            os.rename(table.parent, data_dir / cls.FOLDER)
            return
    raise InputError(
        f"The archive of {cls.__name__} has no {cls.TABLE} beside a folder {cls.IMAGES}; give the "
        "one that WILDS makes"
    )


def mnist(cls: Any, unpacked: Path, data_dir: Path) -> None:
    """Take the four files to where torchvision looks for them."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for path in unpacked.rglob("*-ubyte"):
        os.replace(path, raw / path.name)


MERGING: tuple[Callable[..., None], ...] = (spawrious, mnist)
"""These add to a folder that may exist."""


def _images(folder: Path) -> list[Path]:
    return [
        Path(parent) / file
        for parent, _, files in os.walk(folder)
        for file in files
        if is_image(file)
    ]
