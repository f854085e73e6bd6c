"""What is wrong with the datasets on disk: missing, damaged, repeated or superfluous images.

python -m domainbed.datasets.doctor --data_dir D [--dataset NAME ...]
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from domainbed import datasets
from domainbed.datasets import image_files
from domainbed.datasets.images import Listing, abridged
from domainbed.datasets.published import (  # noqa: F401, for whoever adds a dataset's facts
    COUNTS,
    N_CLASSES,
    class_fault,
    count_fault,
)
from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError, UnknownNameError

WITH_DUPLICATES = ("DomainNet",)
"""Datasets whose archives hold images more than once."""


_ORIENTATION = 0x0112
"""The tag of EXIF data."""


class Decoded(NamedTuple):
    """What decoding a file gave: why it failed, the md5 of its bytes, and what is special."""

    fault: str | None
    digest: bytes
    is_turned: bool = False
    """Its EXIF data ask to turn or mirror it, which is not done."""
    is_deep: bool = False
    """Grey of more than 8 bits, which are cut to 8."""


@dataclass
class Diagnosis:
    """What was found: lines to read, and those that say what is wrong."""

    name: str
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        end = [f"WRONG: {fault}" for fault in self.faults] or ["no fault found"]
        return "\n".join([self.name, *(f"  {line}" for line in [*self.lines, *end])])


def examine(
    name: str, data_dir: str | Path, decode: bool = True, known: dict[str, Decoded] | None = None
) -> Diagnosis:
    """Compare a dataset with what it should be, and decode its images unless told not to.

    known: images decoded before, which are not decoded again; new ones are added.
    """
    found = Diagnosis(name)
    try:
        cls = datasets.find(name, data_dir)
        datasets.check(name, data_dir)
        listing = cls.listing(data_dir) if hasattr(cls, "listing") else None
    except UnknownNameError:
        raise
    except InputError as error:
        found.faults.append(str(error))
        return found
    if listing is None:
        found.lines.append("its files are there" if cls.NEEDS_FILES else "it needs no files")
        return found
    _compare(found, listing, datasets.environments(name, data_dir))
    if decode:
        known = {} if known is None else known
        _decode_all(known, (path for samples in listing.samples for path, _ in samples), name)
        _judge_images(found, listing, known)
    return found


def _compare(found: Diagnosis, listing: Listing, names: Sequence[str]) -> None:
    """Folder, counts, classes and strays."""
    counts = tuple(len(samples) for samples in listing.samples)
    versions = COUNTS.get(found.name, {})
    found.lines.append(f"in {listing.folder}")
    width = max(map(len, names))
    for env, (name, count) in enumerate(zip(names, counts)):
        expected = " or ".join(f"{version[env]:,}" for version in versions.values())
        note = f", expected {expected}" if expected else ""
        found.lines.append(f"{name:<{width}} {count:>9,} images{note}")
    match = [label for label, version in versions.items() if version == counts]
    version = f", the version {match[0]}" if match and match[0] else ""
    found.lines.append(f"{sum(counts):,} images of {len(listing.classes)} classes{version}")
    faults = (count_fault(found.name, names, counts), class_fault(found.name, listing.classes))
    found.faults += [fault for fault in faults if fault]
    if listing.strays:
        names = [os.path.relpath(path, listing.folder) for path in listing.strays]
        found.lines.append(f"ignored, as no image of a class: {abridged(names)}")


def _decode_all(known: dict[str, Decoded], paths: Iterable[str], name: str) -> None:
    """Decode what is not known yet, in threads."""
    from PIL import Image

    new = [path for path in dict.fromkeys(paths) if path not in known]
    with warnings.catch_warnings(), ThreadPool(min(16, 2 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = pool.imap(_decode, new, chunksize=16)
        for path, image in zip(new, tqdm(results, name, len(new), unit="image", disable=None)):
            known[path] = image


def _decode(path: str) -> Decoded:
    try:
        content = image_files.read(path)
    except (OSError, image_files.UnusableError) as error:
        return Decoded(getattr(error, "strerror", None) or str(error), b"")
    digest = hashlib.md5(content).digest()
    try:
        with image_files.decode(content) as image:
            is_turned = image.getexif().get(_ORIENTATION, 1) != 1
            return Decoded(None, digest, is_turned, image_files.is_deep(image))
    except image_files.UnusableError as error:
        return Decoded(str(error), digest)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        return Decoded(image_files.reason(error), digest)


def _judge_images(found: Diagnosis, listing: Listing, known: dict[str, Decoded]) -> None:
    """Damaged images, and, where that is a known trouble, repeated ones."""
    damaged, repeated = [], []
    for samples in listing.samples:
        first: dict[bytes, str] = {}
        for path, _ in samples:
            image = known[path]
            short = os.path.relpath(path, listing.folder)
            if image.fault is not None:
                damaged.append(f"{short} ({image.fault})")
            elif image.digest in first:
                repeated.append(f"{short} = {first[image.digest]}")
            else:
                first[image.digest] = short
    if damaged:
        found.faults.append(f"{len(damaged)} images cannot be read: {abridged(damaged, '; ')}")
    found.lines += _special([known[path] for samples in listing.samples for path, _ in samples])
    if found.name in WITH_DUPLICATES:
        found.lines.append(
            f"{len(repeated):,} images repeat the content of another one of their domain"
            + (f": {abridged(repeated, most=3)}" if repeated else "")
        )


def _special(images: Sequence[Decoded]) -> list[str]:
    """What is worth knowing of images, without being wrong."""
    turned = sum(image.is_turned for image in images)
    deep = sum(image.is_deep for image in images)
    lines = [f"{turned:,} images have an EXIF orientation, which is not applied"] * bool(turned)
    return lines + [f"{deep:,} grey images have more than 8 bits, cut to 8"] * bool(deep)


def on_disk(data_dir: str | Path) -> list[str]:
    """Registered datasets that have a folder of files in `data_dir`."""
    folders = {}
    for name in filter(datasets.needs_files, datasets.REGISTRY):
        cls = datasets.get_dataset_class(name)
        folders[name] = "MNIST" if cls.KIND == "mnist" else getattr(cls, "FOLDER", name)
    return [
        name
        for name, folder in folders.items()
        if any((Path(data_dir) / candidate).is_dir() for candidate in (folder, name))
    ]


def run(data_dir: str | Path, names: Sequence[str] | None, decode: bool = True) -> int:
    """Print the diagnoses of datasets, all those on disk by default; 1 if something is wrong."""
    names = names or on_disk(data_dir)
    if not names:
        raise InputError(
            f"--data_dir {str(data_dir)!r} has the folder of no dataset; name one with --dataset "
            "or give another --data_dir"
        )
    known: dict[str, Decoded] = {}
    is_wrong = False
    for name in names:
        found = examine(name, data_dir, decode, known)
        is_wrong |= bool(found.faults)
        print(found, flush=True)
    return int(is_wrong)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is wrong; 0 if nothing is, 1 if something is, 2 for a wrong input."""
    parser = Parser(prog="domainbed.datasets.doctor", description=__doc__)
    parser.add_argument("--data_dir", type=arguments.path, required=True)
    parser.add_argument("--dataset", nargs="+", help="default: all that are in --data_dir")
    try:
        args = parser.parse_args(argv)
        return run(args.data_dir, args.dataset)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
