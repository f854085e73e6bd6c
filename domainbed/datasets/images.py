"""Image files as samples: verified once, decoded on demand, augmented or merely resized."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from domainbed.datasets.base import MultipleDomainDataset, require_data_dir
from domainbed.datasets.folders import walk
from domainbed.registry import InputError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
MEMORY_LIMIT = 512 * 2**20
"""Bytes of decoded images up to which a dataset is kept in memory."""

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


class Listing(NamedTuple):
    """The images of a dataset that are on disk."""

    folder: Path
    classes: Sequence[str]
    samples: list[list[tuple[str, int]]]
    """For each environment the (path, label) of its images."""
    strays: list[str]
    """Paths in the folder that belong to no class."""


class ImageDataset(MultipleDomainDataset):
    """Environments of image files; a subclass says with `listing` which files.

    hparams: image_size (224) is the height and width of the input, data_augmentation (True)
    applies to environments that are trained on, never to test environments. What is ignored is
    told in a warning.
    """

    NEEDS_FILES = True
    FOLDER: str
    """Folder under --data_dir; the name of the class would also do."""

    def __init__(
        self, root: str | Path | None, test_envs: Sequence[int], hparams: Mapping[str, Any]
    ) -> None:
        found = self.listing(root)
        self.classes = found.classes
        self.num_classes = len(found.classes)
        size = hparams.get("image_size", 224)
        self.input_shape = (3, size, size)
        if found.strays:
            logger.warning(
                "Ignored %d files or folders of %s that are not images of a class: %s",
                len(found.strays),
                found.folder,
                abridged([os.path.relpath(s, found.folder) for s in found.strays]),
            )
        keep = fits_in_memory([path for samples in found.samples for path, _ in samples])
        augment = hparams.get("data_augmentation", True)
        self.datasets = [
            ImageEnvironment(s, self.classes, size, augment and env not in test_envs, keep)
            for env, s in enumerate(found.samples)
        ]

    @classmethod
    def listing(cls, data_dir: str | Path | None) -> Listing:
        """List the images of each environment; raises `InputError` if they are not as expected."""
        raise NotImplementedError(f"{cls.__name__} must define listing")

    @classmethod
    def find_folder(cls, data_dir: str | Path | None) -> Path:
        """The dataset's folder under `data_dir`; raises `InputError` if there is none."""
        root = require_data_dir(cls.__name__, data_dir)
        for name in (cls.FOLDER, cls.__name__):
            if (root / name).is_dir():
                return root / name
        raise InputError(
            f"{cls.__name__} is not in {root}: expected it in {root / cls.FOLDER}; put it there, "
            f"or fetch it with domainbed.scripts.download --dataset {cls.__name__}"
        )


class ImageEnvironment:
    """The images of one domain; item i is x (3, size, size) float32 and its label.

    samples: (path, label) of each. keep: decoded images stay in memory as uint8 (height, width, 3).
    Augmentation draws from torch's global generator. Raises `InputError` for an image that cannot
    be decoded.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        classes: Sequence[str],
        size: int,
        augment: bool,
        keep: bool = False,
    ) -> None:
        self.samples, self.classes = samples, classes
        self.targets = [label for _, label in samples]
        self.size = size
        self.transform = training_transform(size) if augment else evaluation_transform(size)
        self._decoded: dict[int, np.ndarray] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self._image(index)), self.targets[index]

    def evaluation(self) -> ImageEnvironment:
        """The same samples, resized only; decoded images are shared."""
        view = copy.copy(self)
        view.transform = evaluation_transform(self.size)
        return view

    def _image(self, index: int) -> Any:
        from PIL import Image

        if self._decoded is None:
            return decode(self.samples[index][0])
        if index not in self._decoded:
            self._decoded[index] = np.array(decode(self.samples[index][0]))
        return Image.fromarray(self._decoded[index])


def training_transform(size: int) -> Any:
    """DomainBed's augmentation of a PIL image, to a normalised tensor (3, size, size)."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.7, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.3),
            v2.RandomGrayscale(0.1),
            *_to_tensor(),
        ]
    )


def evaluation_transform(size: int) -> Any:
    """A PIL image resized, whatever its proportions, to a normalised tensor (3, size, size)."""
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize((size, size)), *_to_tensor()])


def _to_tensor() -> list[Any]:
    import torch
    from torchvision.transforms import v2

    return [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        v2.ToPureTensor(),
    ]


def decode(path: str) -> Any:
    """Read a file as an RGB PIL image; raises `InputError` that names it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        raise _damaged(path, error) from error


def fits_in_memory(paths: Sequence[str]) -> bool:
    """Verify image files and say whether, decoded, they need less than MEMORY_LIMIT together.

    Reads headers, the checksums of PNGs and the ends of JPEGs, and decodes a file of any other
    format or of unknown end. Raises `InputError` with the first damaged file and their number. An
    image above PIL's limit of pixels, which guards against decompression bombs, is damaged.
    """
    from PIL import Image

    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        results = list(pool.map(_inspect, paths, chunksize=64))
    damaged = [(p, r) for p, r in zip(paths, results) if isinstance(r, Exception)]
    if damaged:
        raise _damaged(*damaged[0], more=len(damaged) - 1)
    return sum(r for r in results if not isinstance(r, Exception)) < MEMORY_LIMIT


def _inspect(path: str) -> int | Exception:
    """The bytes that an image needs when decoded, or why it cannot be."""
    from PIL import Image

    try:
        with open(path, "rb") as file, Image.open(file) as image:
            size = image.width * image.height * 3
            if image.format == "PNG":
                image.verify()
            elif image.format not in ("JPEG", "MPO") or not _ends_as_jpeg(file):
                image.load()
            return size
    except Exception as error:
        return error


def _ends_as_jpeg(file: Any) -> bool:
    file.seek(-2, os.SEEK_END)
    return file.read(2) == b"\xff\xd9"


def _damaged(path: str, error: Exception, more: int = 0) -> InputError:
    others = f", and so are {more} more files of this dataset" if more else ""
    return InputError(
        f"{path} is damaged or no image ({type(error).__name__}: {error}){others}; "
        "fetch the dataset again, or remove what is damaged if that is what you want to measure"
    )


def is_image(path: str) -> bool:
    """Whether a relative path is by its name an image, and nothing on the way is hidden."""
    hidden = any(part.startswith(".") for part in Path(path).parts)
    return path.lower().endswith(EXTENSIONS) and not hidden


def has_image(folder: Path, home: Path) -> bool:
    """Whether an image is somewhere below a folder, which is in `home`."""
    return folder.is_dir() and any(
        is_image(os.path.relpath(os.path.join(parent, file), folder))
        for parent, files in walk(folder, home)
        for file in files
    )


def abridged(items: Sequence[str], separator: str = ", ", most: int = 5) -> str:
    """The first few items in a line, and how many there are in all."""
    more = [f"... ({len(items)} in all)"] if len(items) > most else []
    return separator.join([*items[:most], *more])
