"""From the archives of a dataset's authors to DomainBed's folders.

Archives wait in `<data_dir>/.downloads/<dataset>/`; a dataset's own folder appears by a rename,
when it is whole.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainbed import datasets
from domainbed.datasets import arranging
from domainbed.datasets.fetching import (
    DeadLinkError,
    File,
    Link,
    WritingError,
    fetch,
    unpack,
)
from domainbed.registry import InputError, nearest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to get a dataset: its official page, files, and what arranges them.

    `arrange(cls, unpacked, data_dir)` moves what was unpacked to where the class reads it.
    `extras` help, but are not necessary.
    """

    page: str
    files: tuple[File, ...]
    arrange: Callable[[Any, Path, Path], None] = arranging.domains
    extras: tuple[File, ...] = ()


def drive(file_id: str, md5: str | None = None) -> Link:
    """A file on Google Drive, past the question that large files get."""
    query = f"id={file_id}&export=download&confirm=t"
    return Link(f"https://drive.usercontent.google.com/download?{query}", md5)


def _mnist(name: str, md5: str) -> File:
    hosts = ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
    return File(name, tuple(Link(f"{host}/{name}", md5) for host in hosts))


def _camera_traps(name: str) -> File:
    hosts = (
        "https://storage.googleapis.com/public-datasets-lila",
        "https://lilawildlife.blob.core.windows.net/lila-wildlife",
        "http://us-west-2.opendata.source.coop.s3.amazonaws.com/agentmorris/lila-wildlife",
    )
    return File(name, tuple(Link(f"{host}/caltechcameratraps/{name}") for host in hosts))


_DOMAIN_NET = "http://csr.bu.edu/ftp/visda/2019/multi-source"


def _domain_net(name: str, md5: str | None = None) -> File:
    return File(name.rpartition("/")[2], (Link(f"{_DOMAIN_NET}/{name}", md5),))


def _spawrious(name: str, *ids: str) -> Recipe:
    file = f"spawrious224__{name}.tar.gz"
    links = tuple(Link(f"https://www.dropbox.com/s/{i}?dl=1") for i in ids)
    page = "https://github.com/aengusl/spawrious"
    return Recipe(page, (File(file, links),), arranging.spawrious)


def _wilds(name: str, bundle: str) -> Recipe:
    url = f"https://worksheets.codalab.org/rest/bundles/{bundle}/contents/blob/"
    files = (File(f"{name}.tar.gz", (Link(url),)),)
    return Recipe("https://wilds.stanford.edu/downloads", files, arranging.wilds)


_DIGITS = Recipe(
    "http://yann.lecun.com/exdb/mnist",
    (
        _mnist("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _mnist("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        _mnist("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        _mnist("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ),
    arranging.mnist,
)
_ALL_DOGS = _spawrious(
    "entire_dataset",
    "hofkueo8qvaqlp3/spawrious224__entire_dataset.tar.gz",
    "e40j553480h3f3s/spawrious224.tar.gz",
)
_OFFICE_MD5 = "b1c14819770c4448fd5b6d931031c91c"
_PACS_ON_GITHUB = "https://codeload.github.com/MachineLearning2020/Homework3-PACS/zip/master"

RECIPES: dict[str, Recipe] = {
    "ColoredMNIST": _DIGITS,
    "RotatedMNIST": _DIGITS,
    "VLCS": Recipe(
        "https://github.com/belaalb/G2DM#download-vlcs",
        (
            File(
                "VLCS.tar.gz",
                (
                    drive("1skwblH1_okBwxWxmRsp9_qi15hyPpxg8", "8870171eba660927d9668f4e515928e4"),
                    drive("1yDuLrJdPSvMbTmpq-7XmwG0HnJengD-T"),
                ),
            ),
        ),
    ),
    "PACS": Recipe(
        "https://dali-dl.github.io/project_iccv2017.html",
        (
            File(
                "PACS.zip",
                (
                    Link(_PACS_ON_GITHUB),
                    drive("1JFr8f805nMUelQWWmfnJR3y4_SYoN5Pd"),
                    drive("1WWi9tuUNFmUiw7Eirq_JT_hxYZv3J-Vv"),
                ),
            ),
        ),
    ),
    "OfficeHome": Recipe(
        "https://www.hemanthdv.org/officeHomeDataset.html",
        (
            File(
                "office_home.zip",
                (
                    drive("1uY0pj7oFsjMxRwaD3Sxy0jgel0fsYXLC", _OFFICE_MD5),
                    drive("1o2ieb-WCn-d4UBpJ_Fg5n1uIil60nJz2", _OFFICE_MD5),
                    drive("1USXqK4nCvOAR5Ty4iwKcuCOrRJoRuDyU"),
                ),
            ),
        ),
    ),
    "TerraIncognita": Recipe(
        "https://lila.science/datasets/caltech-camera-traps",
        (
            _camera_traps("eccv_18_annotations.tar.gz"),
            _camera_traps("eccv_18_all_images_sm.tar.gz"),
        ),
        arranging.terra_incognita,
    ),
    "DomainNet": Recipe(
        "https://ai.bu.edu/M3SDA",
        (
            _domain_net("groundtruth/clipart.zip", "cd0d8f2d77a4e181449b78ed62bccf1e"),
            _domain_net("infograph.zip", "720380b86f9e6ab4805bb38b6bd135f8"),
            _domain_net("groundtruth/painting.zip", "1ae32cdb4f98fe7ab5eb0a351768abfd"),
            _domain_net("quickdraw.zip", "bdc1b6f09f277da1a263389efe0c7a66"),
            _domain_net("real.zip", "dcc47055e8935767784b7162e7c7cca6"),
            _domain_net("sketch.zip", "658d8009644040ff7ce30bb2e820850f"),
        ),
        arranging.domain_net,
        tuple(
            _domain_net(f"domainnet/txt/{domain}_{part}.txt")
            for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
            for part in ("train", "test")
        ),
    ),
    "SVIRO": Recipe(
        "https://sviro.kl.dfki.de",
        (File("sviro.zip", (Link("https://sviro.kl.dfki.de/?wpdmdl=1731"),)),),
    ),
    "WILDSCamelyon": _wilds("camelyon17_v1.0", "0xe45e15f39fb54e9d9e919556af67aabe"),
    "WILDSFMoW": _wilds("fmow_v1.1", "0xaec91eb7c9d548ebb15e1b5e60f966ab"),
    "SpawriousO2O_easy": _spawrious("o2o_easy", "kwhiv60ihxe3owy/spawrious224__o2o_easy.tar.gz"),
    "SpawriousO2O_medium": _spawrious(
        "o2o_medium", "x03gkhdwar5kht4/spawrious224__o2o_medium.tar.gz"
    ),
    "SpawriousO2O_hard": _spawrious("o2o_hard", "p1ry121m2gjj158/spawrious224__o2o_hard.tar.gz"),
    "SpawriousM2M_easy": _ALL_DOGS,
    "SpawriousM2M_medium": _ALL_DOGS,
    "SpawriousM2M_hard": _ALL_DOGS,
}


def download(name: str, data_dir: Path) -> None:
    """Fetch, unpack and arrange a dataset, unless it is there.

    An interrupted download goes on where it stopped. Raises `InputError` when no link works.
    """
    recipe = _recipe(name)
    if _is_there(name, data_dir):
        return
    folder = data_dir / ".downloads" / name
    try:
        archives = [fetch(file, folder) for file in recipe.files]
    except DeadLinkError as error:
        _remove_if_empty(folder)
        _remove_if_empty(folder.parent)
        raise InputError(
            f"{error}; look at {recipe.page}, and give what you find there with --dataset {name} "
            "--archive FILE"
        ) from error
    _install(name, recipe, archives, data_dir)
    shutil.rmtree(folder)
    _remove_if_empty(folder.parent)


def install(name: str, data_dir: Path, archives: Sequence[Path]) -> None:
    """Unpack and arrange archives that the user has; they stay where they are."""
    recipe = _recipe(name)
    missing = [str(path) for path in archives if not path.is_file()]
    if missing:
        raise InputError(
            f"--archive was given {', '.join(missing)}, expected files; check the path"
        )
    if not _is_there(name, data_dir):
        _install(name, recipe, archives, data_dir)


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise InputError(f"No download is known for {name!r}. {nearest(name, RECIPES)}")
    return RECIPES[name]


def _is_there(name: str, data_dir: Path) -> bool:
    """Whether a dataset needs nothing; raises `InputError` if another thing has its place."""
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        datasets.check(name, data_dir)
    except InputError as error:
        folder = data_dir / getattr(datasets.get_dataset_class(name), "FOLDER", "MNIST")
        if RECIPES[name].arrange not in arranging.MERGING and folder.exists():
            raise InputError(f"{folder} is in the way: {error}") from error
        return False
    logger.info("%s is in %s already", name, data_dir)
    return True


def _install(name: str, recipe: Recipe, archives: Sequence[Path], data_dir: Path) -> None:
    folder = data_dir / ".downloads" / name
    unpacked = folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    try:
        for archive in archives:
            try:
                unpack(archive, unpacked)
            except WritingError:
                raise
            except InputError:
                if archive.parent == folder and archive.is_file():  # a damaged download, not the
                    archive.unlink()  # user's file
                raise
        for file in recipe.extras:
            _fetch_extra(file, folder, unpacked)
        _arrange(name, recipe, unpacked, data_dir)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        _remove_if_empty(folder)
        _remove_if_empty(folder.parent)
    datasets.check(name, data_dir)


def _arrange(name: str, recipe: Recipe, unpacked: Path, data_dir: Path) -> None:
    try:
        recipe.arrange(datasets.get_dataset_class(name), unpacked, data_dir)
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"What the archives of {name} hold is not as expected ({type(error).__name__}: "
            f"{error}); give the authors' archives"
        ) from error


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not os.listdir(folder):
        folder.rmdir()


def _fetch_extra(file: File, folder: Path, unpacked: Path) -> None:
    try:
        shutil.copy(fetch(file, folder), unpacked / file.name)
    except DeadLinkError as error:
        logger.warning("%s; going on without it", error)
