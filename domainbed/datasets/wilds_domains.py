"""Two datasets of WILDS (Koh et al. 2021, arXiv 2012.07421), read from the folders it makes.

Samples, labels and domains are those of the `wilds` package, which is not needed: its csv tables
are read here, so that results do not depend on what is installed. A domain holds the images of
all its splits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from domainbed.datasets.images import ImageDataset, Listing
from domainbed.registry import InputError

Row = dict[str, str]


class WILDSDataset(ImageDataset):
    """Images that a csv table assigns to domains and classes. Inputs (3, 224, 224)."""

    INPUT_SHAPE = (3, 224, 224)
    IMAGES: str
    """The folder of images, beside the table."""
    TABLE: str
    COLUMNS: tuple[str, ...]
    """Columns of the table that are read."""

    @classmethod
    def check(cls, data_dir: str | Path | None) -> None:
        """Raise `InputError` unless the folder of images and the table with its columns exist."""
        folder = cls.find_folder(data_dir)
        if not (folder / cls.IMAGES).is_dir():
            raise InputError(
                f"{cls.__name__} expects its images in {folder / cls.IMAGES}, which is no folder; "
                "extract the archive of WILDS again"
            )
        next(_rows(folder / cls.TABLE, cls.COLUMNS), None)


class WILDSCamelyon(WILDSDataset):
    """Tumour or none in patches of lymph nodes from five hospitals. 455,954 images, 96 x 96."""

    ENVIRONMENTS = tuple(f"hospital_{i}" for i in range(5))
    KIND = "tissue"
    FOLDER = "camelyon17_v1.0"
    IMAGES = "patches"
    TABLE = "metadata.csv"
    COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "center")
    CLASSES = ("no tumour", "tumour")

    @classmethod
    def listing(cls, data_dir: str | Path | None) -> Listing:
        """List the patches of each hospital in the order of the table."""
        cls.check(data_dir)
        folder = cls.find_folder(data_dir)
        samples: list[list[tuple[str, int]]] = [[] for _ in cls.ENVIRONMENTS]
        for row in _rows(folder / cls.TABLE, cls.COLUMNS):
            if any("/" in row[key] or "\\" in row[key] for key in cls.COLUMNS):
                raise InputError(f"{folder / cls.TABLE} names a folder in {row}; extract it again")
            node = f"patient_{row['patient']}_node_{row['node']}"
            patch = f"patch_{node}_x_{row['x_coord']}_y_{row['y_coord']}.png"
            if row["center"] not in set("01234") or row["tumor"] not in ("0", "1"):
                raise InputError(
                    f"{folder / cls.TABLE} has center {row['center']!r} and tumor "
                    f"{row['tumor']!r} in one row, expected 0 to 4 and 0 or 1; extract it again"
                )
            path = f"{folder}/{cls.IMAGES}/{node}/{patch}"
            samples[int(row["center"])].append((path, int(row["tumor"])))
        return Listing(folder, cls.CLASSES, samples, [])


class WILDSFMoW(WILDSDataset):
    """Use of land and buildings from satellites, 62 classes, by region of the world.

    Regions are numbered as they first appear in the table: Asia, Europe, Africa, Americas,
    Oceania, other. Sequestered images (split `seq`) are left out.
    """

    ENVIRONMENTS = tuple(f"region_{i}" for i in range(6))
    KIND = "satellite"
    FOLDER = "fmow_v1.1"
    IMAGES = "images"
    TABLE = "rgb_metadata.csv"
    COLUMNS = ("split", "category", "country_code")
    COUNTRIES = "country_code_mapping.csv"
    N_CLASSES = 62

    @classmethod
    def listing(cls, data_dir: str | Path | None) -> Listing:
        """List the images of each region in the order of the table."""
        cls.check(data_dir)
        folder = cls.find_folder(data_dir)
        region_of = cls._regions(folder)
        rows = list(_rows(folder / cls.TABLE, cls.COLUMNS))
        regions = [region_of.get(row["country_code"]) or "Other" for row in rows]
        numbers = {region: i for i, region in enumerate(dict.fromkeys(regions))}
        classes = sorted({row["category"] for row in rows})
        if (len(classes), len(numbers)) != (cls.N_CLASSES, len(cls.ENVIRONMENTS)):
            raise InputError(
                f"{folder / cls.TABLE} names {len(classes)} categories in {len(numbers)} regions, "
                f"expected {cls.N_CLASSES} in {len(cls.ENVIRONMENTS)}; extract it again"
            )
        labels = {name: label for label, name in enumerate(classes)}
        samples: list[list[tuple[str, int]]] = [[] for _ in cls.ENVIRONMENTS]
        for i, (row, region) in enumerate(zip(rows, regions)):
            if row["split"] != "seq":
                path = f"{folder}/{cls.IMAGES}/rgb_img_{i}.png"
                samples[numbers[region]].append((path, labels[row["category"]]))
        return Listing(folder, classes, samples, [])

    @classmethod
    def check(cls, data_dir: str | Path | None) -> None:
        """Look for the table of countries too."""
        super().check(data_dir)
        cls._regions(cls.find_folder(data_dir))

    @classmethod
    def _regions(cls, folder: Path) -> dict[str, str]:
        rows = _rows(folder / cls.COUNTRIES, ("alpha-3", "region"))
        return {row["alpha-3"]: row["region"] for row in rows}


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a csv file; raises `InputError` if it is missing or lacks a column."""
    if not path.is_file():
        raise InputError(f"{path} is missing; extract the archive of WILDS again")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in columns if name not in (reader.fieldnames or [])]
        if lacking:
            raise InputError(
                f"{path} has no column {', '.join(lacking)}; expected the table of WILDS, with "
                f"{', '.join(columns)}"
            )
        yield from reader
