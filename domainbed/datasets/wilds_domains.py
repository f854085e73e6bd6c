"""Two datasets of WILDS (Koh et al. 2021, arXiv 2012.07421), read from the folders it makes.

Samples, labels and domains are those of the `wilds` package, which is not needed: its csv tables
are read here, so that results do not depend on what is installed. A domain holds the images of
all its splits.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from domainbed.datasets.folders import abridged
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
        hint = "is `patient` still three digits, as in 004, and are coordinates whole numbers?"
        _check_present(folder / cls.TABLE, samples, f"{hint} Correct the table")
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
        cls._check_numbers(folder, len(rows))
        _check_present(folder / cls.TABLE, samples, "copy them there")
        return Listing(folder, classes, samples, [])

    @classmethod
    def _check_numbers(cls, folder: Path, n_rows: int) -> None:
        """Raise `InputError` for an image behind the last row: a label is that of its row."""
        for name in _names(f"{folder}/{cls.IMAGES}"):
            number = name.removeprefix("rgb_img_").removesuffix(".png")
            if number.isdecimal() and int(number) >= n_rows:
                raise InputError(
                    f"{folder / cls.TABLE} has {n_rows} rows, but there is {cls.IMAGES}/{name}; "
                    "images are numbered by row from 0, so none may be removed or moved. Take the "
                    "table from the archive of WILDS again"
                )

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
    """The rows of a csv file; raises `InputError` for one that is not as WILDS wrote it."""
    if not path.is_file():
        raise InputError(f"{path} is missing; extract the archive of WILDS again")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, list(reader.fieldnames or []), columns)
            for row in reader:
                lacking = [name for name in columns if row[name] is None]
                if lacking:
                    raise InputError(
                        f"Line {reader.line_num} of {path} ends before {', '.join(lacking)}; "
                        f"{_AGAIN}"
                    )
                yield row
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not in UTF-8 ({error.reason} at byte {error.start}), as a spreadsheet "
            f"may have saved it; {_AGAIN}"
        ) from error
    except csv.Error as error:
        raise InputError(f"{path} is no csv file ({error}); {_AGAIN}") from error


_AGAIN = "save it as comma-separated UTF-8, or take it from the archive of WILDS again"


def _check_columns(path: Path, found: list[str], columns: tuple[str, ...]) -> None:
    lacking = [name for name in columns if name not in found]
    if not lacking:
        return
    other = next((mark for mark in ";\t|" if len(found) == 1 and mark in found[0]), None)
    reason = f" (it is separated by {other!r}, not by commas)" if other else ""
    raise InputError(
        f"{path} has no column {', '.join(lacking)}{reason}; expected the table of WILDS, with "
        f"{', '.join(columns)}, but found {' '.join(abridged(found, most=12).split())[:300]}; "
        f"{_AGAIN}"
    )


def _check_present(table: Path, samples: list[list[tuple[str, int]]], hint: str) -> None:
    """Raise `InputError` with the number of files that the table names and that are not there."""
    paths = [path for part in samples for path, _ in part]
    there = {folder: _names(folder) for folder in {os.path.dirname(path) for path in paths}}
    missing = [p for p in paths if os.path.basename(p) not in there[os.path.dirname(p)]]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} files that {table} names are missing, such as "
            f"{missing[0]}; {hint}, or extract the archive of WILDS again"
        )


def _names(folder: str) -> set[str]:
    return set(os.listdir(folder)) if os.path.isdir(folder) else set()
