"""Datasets of image files: their samples augmented, or merely resized."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from domainbed.datasets import image_cache
from domainbed.datasets.base import MultipleDomainDataset, require_data_dir
from domainbed.datasets.decoding import Files, Resized, Source, Stores, in_memory_if_small
from domainbed.datasets.folders import abridged, is_hidden, walk
from domainbed.registry import InputError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

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
    applies to environments that are trained on, never to test environments. image_cache (or the
    environment variable DOMAINBED_IMAGE_CACHE) names a folder of decoded images that processes
    share, image_cache_size the greatest shorter side of an image, larger ones being scaled down.
    What is ignored is told in a warning.
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
        files = [
            Files([path for path, _ in part], hparams.get("image_cache_size"))
            for part in found.samples
        ]
        folder = hparams.get("image_cache") or os.environ.get(image_cache.VARIABLE)
        if folder:
            stores = self._cached(Path(folder), found.folder, files, size)
        else:
            stores = in_memory_if_small(files, size)
        augment = hparams.get("data_augmentation", True)
        self.datasets = [
            ImageEnvironment(part, self.classes, size, augment and env not in test_envs, *store)
            for env, (part, store) in enumerate(zip(found.samples, stores))
        ]

    def _cached(self, folder: Path, home: Path, files: list[Files], size: int) -> list[Stores]:
        """Stores of each environment in files of `folder`, for images in `home`."""
        names = self.ENVIRONMENTS or [str(env) for env in range(len(files))]
        where = hashlib.sha256(os.path.realpath(home).encode()).hexdigest()[:8]
        stores = []
        for name, part in zip(names, files):
            label = "".join(c if c.isalnum() else "_" for c in f"{type(self).__name__}_{name}")
            stores.append(part.cached(folder, f"{label}-{where}", home, size))
        return stores

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

    samples: (path, label) of each. images: where pixels come from, if not from the files; resized
    opens, when first needed, where resized ones do.
    Augmentation draws from torch's global generator. Raises `InputError` for an image that cannot
    be decoded.
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        classes: Sequence[str],
        size: int,
        augment: bool,
        images: Source | None = None,
        resized: Callable[[], Source] | None = None,
    ) -> None:
        self.samples, self.classes = samples, classes
        self.targets = [label for _, label in samples]
        self.size, self.augment = size, augment
        self.images = Files([path for path, _ in samples]) if images is None else images
        self._open_resized = resized or partial(Resized, self.images, size)

    @cached_property
    def resized(self) -> Source:
        """Images as evaluation sees them, uint8 (3, size, size)."""
        return self._open_resized()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from domainbed.datasets import augmentation

        if self.augment:
            x = augmentation.augmented(self.images[index], self.size)
        else:
            x = augmentation.to_input(self.resized[index])
        return x, self.targets[index]

    def evaluation(self) -> ImageEnvironment:
        """The same samples, resized only; their pixels are shared."""
        _ = self.resized  # opened once, before views and worker processes have copies
        view = copy.copy(self)
        view.augment = False
        return view


def is_image(path: str) -> bool:
    """Whether a relative path is by its name an image, and nothing on the way is hidden."""
    return path.lower().endswith(EXTENSIONS) and not any(map(is_hidden, Path(path).parts))


def has_image(folder: Path, home: Path) -> bool:
    """Whether an image is somewhere below a folder, which is in `home`."""
    return folder.is_dir() and any(
        is_image(os.path.relpath(os.path.join(parent, file), folder))
        for parent, files in walk(folder, home)
        for file in files
    )
