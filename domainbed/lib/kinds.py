"""What a file is by its first bytes, whatever its name, and what to do if it holds no weights."""

from __future__ import annotations

import re
import shlex
import zipfile
from pathlib import Path

from domainbed.lib.console import escape

SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"
"""Kinds of files that may hold weights; the others are told by `refusal`."""

_CUT = 80
_LFS = b"version https://git-lfs.github.com/"
_ARCHIVE = "is {} archive; unpack it and give the weights in it"
_OTHER = "is {}; expected safetensors, or a state dict as torch.save writes it"
_STARTS = (
    (b"PK\x03\x04", ZIP),
    (_LFS, "is a Git LFS pointer, not the file itself; run git lfs pull where it was cloned"),
    (b"\x1f\x8b", _ARCHIVE.format("a gzip")),
    (b"BZh", _ARCHIVE.format("a bzip2")),
    (b"\xfd7zXZ\x00", _ARCHIVE.format("an xz")),
    (b"7z\xbc\xaf\x27\x1c", _ARCHIVE.format("a 7z")),
    (b"Rar!", _ARCHIVE.format("a rar")),
    (b"\x28\xb5\x2f\xfd", _ARCHIVE.format("a zstandard")),
    (b"PK\x05\x06", "is an empty zip archive; copy or download it again"),
    (b"\x89HDF\r\n\x1a\n", _OTHER.format("HDF5, as Keras writes it")),
    (b"GGUF", _OTHER.format("GGUF")),
    (b"\x93NUMPY", _OTHER.format("an array of numpy")),
    (b"\x89PNG", _OTHER.format("an image")),
    (b"\xff\xd8\xff", _OTHER.format("an image")),
    (b"%PDF", _OTHER.format("a PDF")),
)
_SUFFIXES = {
    ".onnx": "ONNX", ".pb": "a graph of TensorFlow", ".h5": "HDF5, as Keras writes it",
    ".tflite": "a model of TensorFlow Lite", ".msgpack": "msgpack, as Flax writes it",
    ".index": "the index of a checkpoint of TensorFlow", ".data": "a checkpoint of TensorFlow",
}  # fmt: skip
_LONGEST_HEADER = 2**32
_OF_OLDEST = (b"sys_info", b"pickle", b"storages", b"tensors")
_OLDEST = (
    "is a tar archive as torch wrote it before 2018; load it with torch.load and save its tensors "
    "with torch.save, in a place where you trust it"
)
NEITHER = _OTHER.format("neither safetensors nor a pickle")
FOREIGN_ZIP = _OTHER.format("a zip archive without torch's data.pkl")
TORCHSCRIPT = (
    "is a TorchScript archive, which holds a program; save torch.jit.load(FILE).state_dict() with "
    "torch.save, and give that"
)


def shown(text: object) -> str:
    """A text from a file as it may be printed: short, control characters as escapes."""
    plain = text if isinstance(text, str) else ascii(text) if _is_small(text) else "..."
    plain = plain if len(plain) <= _CUT else plain[: _CUT - 3] + "..."
    return escape(plain)


def _is_small(value: object) -> bool:
    return isinstance(value, float | bool | type(None)) or (
        isinstance(value, int) and abs(value) < 2**64
    )


def kind(path: Path) -> str:
    """`SAFETENSORS`, `ZIP`, `PICKLE`, or what is wrong with the file, after its name."""
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        return "is empty; copy or download it again"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < _LONGEST_HEADER:
        return SAFETENSORS
    for magic, what in _STARTS:
        if start.startswith(magic):
            return _zip_kind(path) if what == ZIP else what
    if start[257:262] == b"ustar":
        return _OLDEST if start.split(b"\0")[0] in _OF_OLDEST else _ARCHIVE.format("a tar")
    suffix = ".data" if path.suffix.startswith(".data-") else path.suffix
    if suffix in _SUFFIXES and start[0] != 0x80:
        return _OTHER.format(_SUFFIXES[suffix])
    return _text_kind(path, start) or PICKLE


def _zip_kind(path: Path) -> str:
    """Whether a zip archive is torch's; one that is damaged is left to who reads it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.split("/", 1)[-1] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ZIP
    if "constants.pkl" in names:
        return TORCHSCRIPT
    return ZIP if "data.pkl" in names else FOREIGN_ZIP


def is_pickle(path: Path) -> bool:
    """Whether a file begins as pickles have since protocol 2."""
    with open(path, "rb") as file:
        return file.read(1) == b"\x80"


def _text_kind(path: Path, start: bytes) -> str:
    """What a text is, "" for none."""
    if start[:1] == b"\x08" and b"\x12" in start[2:4]:
        return _OTHER.format("ONNX")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a page of HTML or XML, as servers send with an error; download it again"
    if not text.startswith((b"{", b"[")):
        return ""
    with open(path, "rb") as file:
        _, key, rest = file.read(2**16).partition(b'"weight_map"')
    if not key:
        return _OTHER.format("JSON")
    found = re.search(rb':\s*"([^"]{1,200})"', rest)
    such = f", such as {shown(found[1].decode(errors='replace'))}" if found else ""
    return (
        f"is an index of shards: the weights are in several files{such}; save them as one, as "
        'save_pretrained(..., max_shard_size="100GB") does, and give that'
    )


def conversion(path: object) -> str:
    """The command that keeps the tensors of a pickle as safetensors."""
    new = shlex.quote(str(Path(str(path)).with_suffix(".tensors.safetensors")))
    return f"python -m domainbed.scripts.keep_tensors {shlex.quote(str(path))} --output {new}"
