"""Image files as arrays of pixels: verified once, decoded when asked for, or once in a cache."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from domainbed.datasets import image_cache, image_files
from domainbed.datasets.image_cache import Source
from domainbed.lib.machine import cores
from domainbed.registry import InputError

MEMORY_LIMIT = 512 * 2**20
"""Bytes of decoded images up to which a dataset is kept in memory."""


class Files:
    """Image files as pixels: item i is uint8 (height, width, 3), decoded when asked for.

    bound: images are scaled down until their shorter side is no longer than this.
    """

    def __init__(self, paths: Sequence[str], bound: int | None = None) -> None:
        self.paths, self.bound = paths, bound
        self._is_known = bytearray(len(paths))
        """Whether an image was seen to be whole by this process."""

    def __getitem__(self, index: int) -> np.ndarray:
        pixels = np.array(decode(self.paths[index], self.bound, not self._is_known[index]))
        self._is_known[index] = True
        return pixels

    def shapes(self) -> list[tuple[int, int, int]]:
        """The shape of each item; verifies the files as `sizes_of` does."""
        sizes = (bounded(size, self.bound) for size in sizes_of(self.paths))
        return [(height, width, 3) for width, height in sizes]

    def cached(self, folder: Path, name: str, home: Path, size: int) -> Stores:
        """These images, and those resized for evaluation, each in a file of `folder`."""
        import PIL

        files = [f"{path.removeprefix(str(home))} {_stamp(path)}" for path in self.paths]
        about = f"-at{self.bound}" if self.bound else ""
        made_of = [f"Pillow {PIL.__version__}, high bytes{about}", *files]
        path = folder / f"{name}{about}.images"
        images = image_cache.cached(path, made_of, self.shapes, self)
        path = folder / f"{name}{about}-{size}x{size}.images"
        resized = Resized(images, size)
        shapes = partial(_squares, len(files), size)
        return images, partial(image_cache.cached, path, made_of, shapes, resized)


def _stamp(path: str) -> str:
    """What changes when a file does: its size and the time of its last change, in ns."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise _refusal(path, error) from error
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _squares(n: int, size: int) -> image_cache.Shapes:
    return [(3, size, size)] * n


class Resized:
    """Images resized, whatever their proportions: item i is uint8 (3, size, size)."""

    def __init__(self, images: Source, size: int) -> None:
        self.images, self.size = images, size

    def __getitem__(self, index: int) -> np.ndarray:
        from PIL import Image

        image = Image.fromarray(self.images[index])
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


Stores = tuple["Source", Callable[[], "Source"]]
"""Images as they are, to augment; and what opens them resized, to evaluate."""


def in_memory_if_small(files: Sequence[Files], size: int) -> list[Stores]:
    """Decode all images of a dataset, if they need less than MEMORY_LIMIT together.

    Verifies them first, and raises `InputError` if one is damaged.
    """
    paths = [path for part in files for path in part.paths]
    sizes = [bounded(shape, files[0].bound) for shape in sizes_of(paths)]
    n_bytes = sum(3 * (width * height + size * size) for width, height in sizes)
    if n_bytes >= MEMORY_LIMIT:
        return [(part, partial(Resized, part, size)) for part in files]
    kept = [_read(part, len(part.paths)) for part in files]
    return [(part, partial(_read, Resized(part, size), len(part))) for part in kept]


def _read(source: Source, n: int) -> list[np.ndarray]:
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(source.__getitem__, range(n)))


def decode(path: str, bound: int | None = None, compare: bool = True) -> Any:
    """Read a file as an RGB PIL image; raises `InputError` that names it.

    bound: the greatest shorter side, to which the image is scaled down; a JPEG is decoded at a
    fraction of its size then, if that is no smaller than what is wanted. compare: see
    `image_files.decode`.
    """
    from PIL import Image

    try:
        content = image_files.read(path)
        size = None
        if bound is not None:
            with image_files.opened(io.BytesIO(content)) as image:
                size = bounded(image.size, bound)
                size = None if size == image.size else size
        image = image_files.to_rgb(image_files.decode(content, size, compare))
        return image if size is None else image.resize(size, Image.Resampling.BICUBIC)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        raise _refusal(path, error) from error


def bounded(size: tuple[int, int], bound: int | None) -> tuple[int, int]:
    """A size scaled down until its shorter side is no longer than `bound`, if there is one."""
    shorter = min(size)
    if bound is None or shorter <= bound:
        return size
    width, height = (round(side * bound / shorter) for side in size)
    return width, height


def sizes_of(paths: Sequence[str]) -> list[tuple[int, int]]:
    """Verify image files and return the width and height of each.

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
        raise _refusal(*damaged[0], more=len(damaged) - 1)
    return [r for r in results if not isinstance(r, Exception)]


def _inspect(path: str) -> tuple[int, int] | Exception:
    """The width and height of an image, or why it cannot be decoded."""
    try:
        image_files.check_regular(path)
        with open(path, "rb") as file, image_files.opened(file) as image:
            size = image.size
            if image.format == "PNG":
                image.verify()
            elif image.format not in ("JPEG", "MPO") or not _ends_as_jpeg(file):
                image_files.decode(image_files.read(path))
            return size
    except Exception as error:
        return error


def _ends_as_jpeg(file: Any) -> bool:
    file.seek(-2, os.SEEK_END)
    return file.read(2) == b"\xff\xd9"


def _refusal(path: str, error: Exception, more: int = 0) -> InputError:
    others = f" ({more} more files of this dataset cannot be used either)" if more else ""
    if isinstance(error, image_files.UnusableError):
        return InputError(f"{path} {error}{others}")
    return InputError(
        f"{path} is damaged or no image ({image_files.reason(error)}){others}; "
        "fetch the dataset again, or remove what is damaged if that is what you want to measure"
    )
