"""Files by their content, and on their way to the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 2**20


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_regular(path: str | Path) -> bytes:
    """Read a file; `OSError` for anything but a regular one, since a pipe would be waited for."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    with open(path, "rb") as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """Read a regular file of text; what is not UTF-8 in it becomes U+FFFD."""
    return read_regular(path).decode("utf-8", errors="replace")


def flushed(path: Path) -> Path:
    """Wait until a file is on the disk, so that losing power cannot cut it; return its path."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write a file under, which takes the place of `path` if all goes well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
