"""Dogs before backgrounds that mislead (Lynch et al. 2023, arXiv 2303.05470).

Files lie as in the authors' archives, `spawrious224/{0,1}/<location>/<class>/<image>`. The tables
of locations and ratios are those of the authors' package (github.com/aengusl/spawrious). It takes
the first images that the file system lists; here they are the first by name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from domainbed.datasets.images import ImageDataset, Listing, abridged, has_image, is_image
from domainbed.registry import InputError

logger = logging.getLogger(__name__)

BREEDS = ("bulldog", "dachshund", "labrador", "corgi")
"""Classes in the order of the tables; labels follow the alphabet."""


class Part(NamedTuple):
    """Images of one breed at one location: the first `limit`, or all."""

    half: int
    location: str
    breed: str
    limit: int | None


class Spawrious(ImageDataset):
    """Four breeds; a test domain without, and two training domains with a spurious background.

    No two of these datasets may be auxiliary to each other, since they share images: each is a
    KIND of its own. Inputs (3, 224, 224).
    """

    ENVIRONMENTS = ("Test", "SC_group_1", "SC_group_2")
    FOLDER = "spawrious224"
    CLASSES = tuple(sorted(BREEDS))
    PER_FOLDER = 3168
    """Images of each breed at each location, in each of the two halves."""
    TRAIN: tuple[str, str, str, str]
    """Locations that go with BREEDS in the training domains."""
    TEST: tuple[str, str, str, str]
    """Locations that go with BREEDS in the test domain."""

    @classmethod
    def train_parts(cls, group: int) -> list[Part]:
        """What training domain `group` (0 or 1) is made of."""
        raise NotImplementedError(f"{cls.__name__} must define train_parts")

    @classmethod
    def test_parts(cls, group: int) -> list[Part]:
        """One half of the test domain."""
        raise NotImplementedError(f"{cls.__name__} must define test_parts")

    @classmethod
    def environment_parts(cls) -> list[list[Part]]:
        """The parts of each environment."""
        test = [*cls.test_parts(0), *cls.test_parts(1)]
        return [test, cls.train_parts(0), cls.train_parts(1)]

    @classmethod
    def listing(cls, data_dir: str | Path | None) -> Listing:
        """List the images of each environment; warns where there are fewer than should be."""
        cls.check(data_dir)
        folder = cls.find_folder(data_dir)
        samples = [
            [sample for part in parts for sample in cls._pick(folder, part)]
            for parts in cls.environment_parts()
        ]
        return Listing(folder, cls.CLASSES, samples, [])

    @classmethod
    def _pick(cls, folder: Path, part: Part) -> Iterator[tuple[str, int]]:
        where = folder / str(part.half) / part.location / part.breed
        names = sorted(name for name in os.listdir(where) if is_image(name))
        if part.limit is not None and len(names) < part.limit:
            logger.warning("%s has %d images, expected %d", where, len(names), part.limit)
        label = cls.CLASSES.index(part.breed)
        return ((str(where / name), label) for name in names[: part.limit])

    @classmethod
    def check(cls, data_dir: str | Path | None) -> None:
        """Raise `InputError` unless each folder that this dataset reads holds images."""
        folder = cls.find_folder(data_dir)
        needed = {
            f"{part.half}/{part.location}/{part.breed}"
            for parts in cls.environment_parts()
            for part in parts
        }
        missing = sorted(name for name in needed if not has_image(folder / name, folder))
        if missing:
            raise InputError(
                f"{cls.__name__} finds no images in {len(missing)} of {len(needed)} folders of "
                f"{folder}: {abridged(missing)}; fetch its archive again, or the entire dataset's"
            )


class SpawriousO2O(Spawrious):
    """One to one: each breed has its own background in 97 % and 87 % of the training images.

    The rest are before one background, the same for all breeds.
    """

    FILLER: str
    RATIOS = (0.97, 0.87)

    @classmethod
    def train_parts(cls, group: int) -> list[Part]:
        """Mostly a breed before its own background."""
        n = int(cls.RATIOS[group] * cls.PER_FOLDER)
        usual = [Part(group, place, breed, n) for breed, place in zip(BREEDS, cls.TRAIN)]
        rest = [Part(group, cls.FILLER, breed, cls.PER_FOLDER - n) for breed in BREEDS]
        return usual + rest

    @classmethod
    def test_parts(cls, group: int) -> list[Part]:
        """Each breed before a background that went with another one."""
        return [Part(group, place, breed, None) for breed, place in zip(BREEDS, cls.TEST)]


class SpawriousM2M(Spawrious):
    """Many to many: two breeds share two backgrounds, which they swap between training domains."""

    @classmethod
    def train_parts(cls, group: int) -> list[Part]:
        """Each breed before one background of its pair."""
        return _swapped(cls.TRAIN, group, cls.PER_FOLDER)

    @classmethod
    def test_parts(cls, group: int) -> list[Part]:
        """Each breed before one background of the other pair."""
        return _swapped(cls.TEST, group, None)


def _swapped(places: tuple[str, str, str, str], group: int, limit: int | None) -> list[Part]:
    """Breed i at location i in group 0, and at that of its neighbour in the pair in group 1."""
    return [Part(0, places[i ^ group], breed, limit) for i, breed in enumerate(BREEDS)]


class SpawriousO2O_easy(SpawriousO2O):
    """One to one, easy."""

    KIND = "SpawriousO2O_easy"
    TRAIN = ("desert", "jungle", "dirt", "snow")
    TEST = ("dirt", "snow", "desert", "jungle")
    FILLER = "beach"


class SpawriousO2O_medium(SpawriousO2O):
    """One to one, medium."""

    KIND = "SpawriousO2O_medium"
    TRAIN = ("mountain", "beach", "dirt", "jungle")
    TEST = ("jungle", "dirt", "beach", "snow")
    FILLER = "desert"


class SpawriousO2O_hard(SpawriousO2O):
    """One to one, hard."""

    KIND = "SpawriousO2O_hard"
    TRAIN = ("jungle", "mountain", "snow", "desert")
    TEST = ("mountain", "snow", "desert", "jungle")
    FILLER = "beach"


class SpawriousM2M_easy(SpawriousM2M):
    """Many to many, easy."""

    KIND = "SpawriousM2M_easy"
    TRAIN = ("desert", "mountain", "dirt", "jungle")
    TEST = ("dirt", "jungle", "mountain", "desert")


class SpawriousM2M_medium(SpawriousM2M):
    """Many to many, medium."""

    KIND = "SpawriousM2M_medium"
    TRAIN = ("beach", "snow", "mountain", "desert")
    TEST = ("desert", "mountain", "beach", "snow")


class SpawriousM2M_hard(SpawriousM2M):
    """Many to many, hard."""

    KIND = "SpawriousM2M_hard"
    TRAIN = ("dirt", "jungle", "snow", "beach")
    TEST = ("snow", "beach", "dirt", "jungle")
