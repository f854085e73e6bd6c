"""One image file: opened as nothing but an image, whole, and as RGB of 8 bits."""

from __future__ import annotations

import io
import os
import re
import stat
from typing import Any, NamedTuple

import numpy as np

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
"""What files are opened as, whatever their names: the formats of image extensions, and GIF, which
pictures from the web named .jpg sometimes are. Others may start programs, as EPS does."""

_PLAIN_MODES = {"1", "L", "P", "RGB", "RGBA", "RGBX", "LA", "PA", "CMYK", "YCbCr", "HSV"}

_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_HUFFMAN = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_SCAN, _END = 0xDA, 0xD9
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FILLER = b"\xff\x00" * 9
"""More than a decoder reads ahead; ones, which no Huffman code is made of."""
_GARBAGE = bytes(range(1, 255)) * 4
_CUT = "image file is truncated: its end marker comes before the end of its data"


class UnusableError(ValueError):
    """A file that is sound, but no image to learn from; the message goes on after its path."""


def reason(error: Exception) -> str:
    """Why a file was not decoded, in a line."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # names an object in memory
        return f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or of pixels that Pillow lacks"
    return " ".join(f"{type(error).__name__}: {error}".split())


def check_regular(path: str) -> None:
    """Raise `UnusableError` for what is no file, such as a pipe, which would be waited for."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise UnusableError(f"is {kind_of(mode)}, not a file; remove it")


def kind_of(mode: int) -> str:
    """What a mode of `os.stat` that is no regular file stands for, with its article."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a link that leads nowhere",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def read(path: str) -> bytes:
    """The bytes of a regular file."""
    check_regular(path)
    with open(path, "rb") as file:
        return file.read()


def opened(file: Any) -> Any:
    """A lazy PIL image of a path or file, if it is in one of `FORMATS`; checks its mode."""
    from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401, plug-ins of no others

    image = Image.open(file, formats=FORMATS)
    if image.mode not in _PLAIN_MODES and not is_deep(image):
        mode, name = image.mode, image.format
        image.close()
        raise UnusableError(
            f"has pixels of mode {mode} ({_MEANINGS.get(mode, 'unknown here')}), whose range "
            f"{name} does not tell; scale them to 8 or 16 bits, and save them as RGB or grey"
        )
    return image


_MEANINGS = {"I": "signed or 32-bit integers", "F": "floating-point numbers", "LAB": "CIE L*a*b*"}


def is_deep(image: Any) -> bool:
    """Whether an image is grey of more than 8 unsigned bits; Pillow reduces colours itself."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def to_rgb(image: Any) -> Any:
    """An opened image as RGB of 8 bits; of deep grey the high byte, as Pillow does with colours.

    Transparency is dropped: hidden pixels show.
    """
    if is_deep(image):
        return _high_byte(image).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _high_byte(image: Any) -> Any:
    from PIL import Image

    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))[0]  # BitsPerSample
    pixels = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - pixels if tags.get(262) == 0 else pixels)  # 0 is white


def decode(content: bytes, size: tuple[int, int] | None = None, compare: bool = True) -> Any:
    """The image in a file's bytes, all of it, as PIL gives it; raises one of many errors.

    A JPEG that was cut is refused even if an end marker follows, by which decoders make up the
    rest. size: the least that a JPEG may be scaled down to while it is decoded. compare=False
    takes one of several scans for whole if all scans are there, which saves half of the time.
    """
    jpeg = _Jpeg.of(content)
    if jpeg is not None and not jpeg.has_all_scans():
        raise OSError(_CUT)
    if jpeg is not None and len(jpeg.scans) == 1:
        # without an end marker the decoder reports what is missing, in one pass
        return _loaded(content[: jpeg.end] + _FILLER, size)
    image = _loaded(content, size)
    if jpeg is not None and compare:
        # where data are missing, the decoder goes on with whatever follows
        other = _loaded(content[: jpeg.end] + _GARBAGE + b"\xff\xd9", size)
        if image.tobytes() != other.tobytes():
            raise OSError(_CUT)
    return image


def _loaded(content: bytes, size: tuple[int, int] | None) -> Any:
    image = opened(io.BytesIO(content))
    if size is not None:
        image.draft(None, size)
    image.load()
    return image


class _Jpeg(NamedTuple):
    """The structure of a JPEG that is Huffman coded."""

    components: bytes
    scans: list[bytes]
    """The header of each scan."""
    end: int
    """Where the end marker is."""

    @classmethod
    def of(cls, content: bytes) -> _Jpeg | None:
        """Read it; None for anything else, and where no end marker is."""
        frame, components, scans, at = 0, b"", [], 2
        while content[:2] == b"\xff\xd8" and content[at : at + 1] == b"\xff":
            code = content[at + 1] if at + 1 < len(content) else 0
            if code == _END:
                return cls(components, scans, at) if frame in _HUFFMAN and scans else None
            length = 0 if code == 0xFF else 2 + int.from_bytes(content[at + 2 : at + 4], "big")
            segment = content[at + 4 : at + length]
            at += length or 1  # 0xFF may be repeated before a marker
            if code in _FRAMES:
                frame, components = code, segment[6::3]
            elif code == _SCAN:
                scans.append(segment)
                found = _NEXT_MARKER.search(content, at)
                at = len(content) if found is None else found.start()
        return None

    def has_all_scans(self) -> bool:
        """Whether every coefficient of every component comes in its full precision."""
        done = dict.fromkeys(self.components, 0)  # bit i: coefficient i
        for scan in self.scans:
            n = scan[0]
            first, last, precision = scan[1 + 2 * n : 4 + 2 * n]
            if precision & 15 == 0:
                for component in scan[1 : 1 + 2 * n : 2]:
                    done[component] |= (2 << last) - (1 << first)
        return all(bits == 2**64 - 1 for bits in done.values())
