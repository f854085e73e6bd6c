"""Files from the web: resumable, from several places; and archives, unpacked without surprises."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.client
import logging
import lzma
import os
import shutil
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from domainbed.registry import InputError

logger = logging.getLogger(__name__)

ATTEMPTS = 4
PAUSE_S = 2.0
TIMEOUT_S = 60
_CHUNK = 2**20
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    OverflowError,
    OSError,  # bz2's
    RuntimeError,  # a zip with a password or an unknown compression
    ValueError,
)


class WritingError(InputError):
    """A member that the operating system does not write; the archive may be sound."""


@dataclass(frozen=True)
class Link:
    """Where a file can be had; md5 in hex, if known."""

    url: str
    md5: str | None = None


@dataclass(frozen=True)
class File:
    """A file to download, and the links to try in turn."""

    name: str
    links: tuple[Link, ...]


class DeadLinkError(Exception):
    """What a link gives is not the file; asking again would not help."""


def fetch(file: File, folder: Path) -> Path:
    """Download a file into `folder`, or find it there; the name appears only when it is whole.

    What an interrupted call has downloaded is kept as NAME.<digest of the link>.part, and the next
    call asks for the rest. Raises `DeadLinkError`, with the reason of each link, when none works.
    """
    target = folder / file.name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for link in file.links:
        digest = hashlib.md5(link.url.encode()).hexdigest()[:8]
        part = folder / f"{file.name}.{digest}.part"
        try:
            _download(link.url, part)
            _verify(part, link.md5)
        except (OSError, http.client.HTTPException, DeadLinkError) as error:
            reasons.append(f"{urlsplit(link.url).netloc}: {error}")
            logger.warning("%s: %s", link.url, error)
        else:
            os.replace(part, target)
            return target
    raise DeadLinkError(f"{file.name} cannot be downloaded ({'; '.join(reasons)})")


def _download(url: str, part: Path) -> None:
    """Make `part` the whole file; tries again from where it is after a lost connection."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _resume(url, part)
        except HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:
                raise
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS:
                raise
        time.sleep(PAUSE_S * attempt)


def _resume(url: str, part: Path) -> None:
    """Ask for what `part` lacks; raises OSError if the connection ends before the file does."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "domainbed", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # nothing is lacking
        part.unlink()
        raise OSError("the file has changed since the download began") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise DeadLinkError("it answers with a web page, not a file")
        goes_on = response.status == 206
        if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise OSError("it sent another part than was asked for")
        start = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(part, "ab" if goes_on else "wb") as file,
            _bytes_bar(part.name, total, start) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"the connection ended after {size} of {total} bytes")


def _bytes_bar(name: str, total: int | None, start: int = 0) -> tqdm:
    return tqdm(total=total, initial=start, desc=name, unit="B", unit_scale=True, disable=None)


def _verify(path: Path, md5: str | None) -> None:
    """Remove a file and raise `DeadLinkError` if its md5 is another one."""
    if md5 is None:
        return
    digest = hashlib.md5()
    with open(path, "rb") as file, _bytes_bar("md5", path.stat().st_size) as bar:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != md5:
        path.unlink()
        raise DeadLinkError(f"md5 is {digest.hexdigest()}, expected {md5}")


Member = tuple[str, Callable[[], "IO[bytes] | gzip.GzipFile | None"]]


def unpack(archive: Path, folder: Path) -> None:
    """Extract the plain files of a zip, a tar (compressed or not) or a single gzipped file.

    Links and device files are left out, with a warning. Raises `InputError`, before anything is
    written there, for a member outside of `folder`, and for a damaged or unknown archive.
    """
    if not archive.is_file():
        raise InputError(f"{archive} is no file; give a zip, tar or gz file")
    links = []
    try:
        with tqdm(_members(archive), desc=archive.name, unit="file", disable=None) as members:
            for name, opened in members:
                target = _inside(name, folder, archive)
                source = opened()
                if source is None:
                    links.append(name)
                elif "__MACOSX" not in target.parts:
                    with source:
                        _write(source, target, name, archive)
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{archive} cannot be unpacked ({type(error).__name__}: {error}); fetch it again"
        ) from error
    if links:
        logger.warning("Left out %d links of %s, such as %s", len(links), archive, links[0])


def _write(source: IO[bytes] | gzip.GzipFile, target: Path, name: str, archive: Path) -> None:
    """Write a member; raises `WritingError` that names it for whatever the system refuses."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise  # of what reads
        reason = getattr(error, "strerror", None) or error
        raise WritingError(
            f"{archive} holds {_short(name)}, which cannot be written ({reason}); make room, or "
            "use another archive"
        ) from error


def _short(name: str) -> str:
    return repr(name if len(name) < 80 else f"{name[:60]}...{name[-15:]}")


def _members(archive: Path) -> Iterator[Member]:
    """Name of each file in an archive, and what opens it; that returns None for a link."""
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isdir():
                    opened = functools.partial(tar.extractfile, member)
                    yield member.name, opened if member.isfile() else _nothing
            while tar.fileobj is not None and tar.fileobj.read(_CHUNK):
                pass  # to the checksum behind the end
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    is_link = stat.S_ISLNK(info.external_attr >> 16)
                    read = functools.partial(zipped.open, info)
                    yield info.filename, _nothing if is_link else read
    elif archive.suffix == ".gz":
        yield archive.stem, functools.partial(gzip.GzipFile, archive)
    else:
        raise InputError(f"{archive} is no zip, tar or gz file; give an archive of one of these")


def _nothing() -> None:
    """Open a link: there is nothing to read."""


def _inside(name: str, folder: Path, archive: Path) -> Path:
    """Where a member goes; raises `InputError` if that is not inside `folder`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name.split("/")[0]:
        raise InputError(
            f"{archive} holds {_short(name)}, which would be written outside of its folder; "
            "do not use this archive"
        )
    if not path.parts:
        raise InputError(
            f"{archive} holds a file named {name!r}, which is no name; use another archive"
        )
    return folder.joinpath(*path.parts)
