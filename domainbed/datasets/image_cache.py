"""Images made once a machine: one memory-mapped file, whose pages all processes share.

    header   MAGIC, sha256 of what the file was made of, sha256 of the index, number of items
    index    for each item its offset, its shape and a checksum of its bytes; uint64
    items    uint8, each at a multiple of 64 bytes

A file appears whole, by rename. One that is cut, or made of other files than are there now, is made
anew; so is, by the next process that opens it, one with an item whose checksum is wrong, which is
meanwhile made from its source.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import shutil
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from domainbed.lib.locks import Lock, is_held
from domainbed.lib.machine import cores

logger = logging.getLogger(__name__)

VARIABLE = "DOMAINBED_IMAGE_CACHE"
"""Environment variable that names the folder of caches where no option does."""

MAGIC = b"images, format 1"
HEADER = struct.Struct("<16s32s32sQ40x")
_ALIGNMENT = 64
_FIELDS = 5  # offset, three of shape, checksum

Shapes = Sequence[tuple[int, int, int]]


class Source(Protocol):
    """Item i is an array of uint8 in three dimensions."""

    def __getitem__(self, index: int) -> np.ndarray: ...


class ImageCache:
    """The items of `source`, from a file; raises ValueError or OSError for an unfit one."""

    def __init__(self, path: Path, made_of: bytes, source: Source) -> None:
        self.path, self.made_of, self.source = path, made_of, source
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        self._inode = found.st_ino
        self._bytes = np.asarray(np.memmap(path, np.uint8, mode="c"))
        if self._bytes.size < HEADER.size:
            raise ValueError("it is cut")
        magic, theirs, digest, n = HEADER.unpack(self._bytes[: HEADER.size].tobytes())
        if (magic, theirs) != (MAGIC, made_of):
            raise ValueError("it was made of other files")
        end = HEADER.size + 8 * _FIELDS * n
        index = self._bytes[HEADER.size : end].tobytes()
        if hashlib.sha256(index).digest() != digest:
            raise ValueError("its index is damaged")
        self._index = np.frombuffer(index, np.uint64).reshape(n, _FIELDS)
        if self._bytes.size != _layout(self._index[:, 1:4])[1]:
            raise ValueError("it is cut")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> np.ndarray:
        offset, *shape, expected = self._index[index].tolist()
        size = shape[0] * shape[1] * shape[2]
        item = self._bytes[offset : offset + size]
        if _checksum(item) == expected:
            return item.reshape(shape)
        self._remove()
        return self.source[index]

    def _remove(self) -> None:
        """Remove the file, unless that is done, or another process has made it anew."""
        try:
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
                logger.warning("%s is damaged; it is removed, and made anew when needed", self.path)
        except OSError:
            return

    def __reduce__(self) -> tuple:
        return opened, (self.path, self.made_of, self.source)


def opened(path: Path, made_of: bytes, source: Source) -> Source:
    """A cache that is there and sound, else its source."""
    try:
        return ImageCache(path, made_of, source)
    except (OSError, ValueError):
        return source


def cached(
    path: Path, made_of: Iterable[object], shapes: Callable[[], Shapes], source: Source
) -> Source:
    """The items of `source` from a cache at `path`, which is built unless it is there.

    `made_of` identifies all items; `shapes` is called only to build. Where the file cannot be
    written, a warning says so and `source` itself is returned: what is read is the same.
    """
    digest = hashlib.sha256("\n".join(map(str, made_of)).encode()).digest()
    there = opened(path, digest, source)
    if there is not source:
        return there
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Path(f"{path}.lock")
        if is_held(lock):
            logger.info("another process builds %s; waiting for it", path)
        with Lock(lock, math.inf):
            return _open_or_build(path, digest, shapes, source)
    except OSError as error:
        logger.warning(
            "No image cache at %s (%s); going on without it, which is slower", path, error
        )
        return source


def _open_or_build(
    path: Path, digest: bytes, shapes: Callable[[], Shapes], source: Source
) -> ImageCache:
    try:
        return ImageCache(path, digest, source)  # built while this process waited
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logger.info("%s is made anew: %s", path, error)
    part = path.with_name(f"{path.name}.part")
    try:
        _build(part, digest, shapes(), source)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return ImageCache(path, digest, source)


def _build(part: Path, digest: bytes, shapes: Shapes, source: Source) -> None:
    """Write a cache; raises OSError before anything is written where space is lacking."""
    index = np.zeros((len(shapes), _FIELDS), np.uint64)
    offsets, total = _layout(shapes)
    index[:, 0], index[:, 1:4] = offsets, np.asarray(shapes, np.uint64).reshape(-1, 3)
    part.unlink(missing_ok=True)
    if shutil.disk_usage(part.parent).free < total:
        raise OSError(errno.ENOSPC, f"it needs {total / 2**30:.1f} GiB, more than is free there")
    writing = threading.Lock()
    with open(part, "wb") as file, ThreadPool(cores()) as pool:

        def write(i: int) -> None:
            item = source[i]
            if item.shape != tuple(shapes[i]):
                raise ValueError(f"item {i} of {part} is {item.shape}, expected {shapes[i]}")
            flat = item.ravel()
            index[i, 4] = _checksum(flat)
            with writing:
                file.seek(offsets[i])
                file.write(flat.data)

        items = pool.imap_unordered(write, range(len(shapes)), chunksize=8)
        label = f"caching {part.name.split('.')[0]}"
        for _ in tqdm(items, label, len(shapes), unit="image", disable=None):
            pass
        header = HEADER.pack(MAGIC, digest, hashlib.sha256(index.tobytes()).digest(), len(shapes))
        file.seek(0)
        file.write(header + index.tobytes())
        file.flush()
        file.truncate(total)
        os.fsync(file.fileno())


def _layout(shapes: Shapes | np.ndarray) -> tuple[list[int], int]:
    """The offset of each item, and the size of the file."""
    sizes = np.asarray(shapes, np.int64).reshape(-1, 3).prod(1)
    header = HEADER.size + 8 * _FIELDS * len(sizes)
    *offsets, end = np.cumsum([_padded(header), *_padded(sizes)]).tolist()
    return offsets, end


def _padded(size: Any) -> Any:
    """A size, or sizes, rounded up to a multiple of 64."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _checksum(flat: np.ndarray) -> int:
    """The sum of words of 8 bytes modulo 2**64; at some 20 GB/s it is taken at every access."""
    end = flat.size // 8 * 8
    rest = int.from_bytes(flat[end:].tobytes(), "little")
    return (int(np.add.reduce(flat[:end].view(np.uint64))) + rest) % 2**64
