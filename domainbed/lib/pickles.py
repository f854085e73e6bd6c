"""Pickles of tensors, read opcode by opcode; nothing in them is imported or called.

`opened` reads what torch.save writes, as a zip archive or in the format before it, and plain
pickles, up to the numbers of the tensors. A file can take little more memory than it has bytes,
whatever it says.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from domainbed.lib import kinds
from domainbed.lib.opcodes import Machine
from domainbed.lib.pickled import ITEM_SIZES, MAX_NAME, Foreign, Refused, Storage, Tensor
from domainbed.registry import InputError

_MAGIC = 0x1950A86A20F9469CFC6C
_PIECE = 2**23


@dataclass
class Pickle:
    """A file's content, and where its storages are.

    `foreign` names what was left out of it, with `keeps_all`.
    """

    path: Path
    content: Any
    foreign: set[str]
    _at: dict[str, tuple[str, int]]  # storage -> the member of the archive or "", its first byte

    def check(self, tensor: Tensor) -> str:
        """What is wrong with a tensor, "" for nothing: all of it must be in the file."""
        size = ITEM_SIZES[tensor.dtype]
        n_stored = tensor.storage.size * (1 if tensor.storage.dtype else 1 / size)
        n = math.prod(tensor.shape)
        last = tensor.offset + sum((d - 1) * s for d, s in zip(tensor.shape, tensor.stride))
        if n > n_stored:
            return "is larger than what it holds of it"
        return "lies outside of what it holds" if n and last >= n_stored else ""

    @contextmanager
    def reading(self) -> Iterator[Callable[[Storage, memoryview], None]]:
        """A function that fills a buffer, as long as a storage is, with its bytes."""
        with open(self.path, "rb") as file:
            archive = zipfile.ZipFile(file) if any(m for m, _ in self._at.values()) else None

            def read(storage: Storage, buffer: memoryview) -> None:
                member, start = self._at[storage.key]
                if archive is None:
                    file.seek(start)
                    _fill(file, buffer)
                else:
                    with archive.open(member) as stored:
                        _fill(stored, buffer)

            yield read


def _fill(stream: Any, buffer: memoryview) -> None:
    for start in range(0, len(buffer), _PIECE):
        piece = buffer[start : start + _PIECE]
        if stream.readinto(piece) != len(piece):
            raise EOFError("it ends too early")


def n_bytes(storage: Storage) -> int:
    """How many bytes a storage has."""
    return storage.size * ITEM_SIZES.get(storage.dtype, 1)


def opened(path: Path, keeps_all: bool = False) -> Pickle:
    """Read a pickle up to the numbers of its tensors.

    keeps_all: leave out what is not harmless, instead of refusing the file. Raises `InputError`
    that names what is in the way, before anything of a size that the file only claims is made.
    """
    machine = Machine(keeps_all)
    try:
        if kinds.kind(path) == "zip":
            return _of_archive(path, machine)
        with open(path, "rb") as file:
            content = machine.run(file)
            if content == _MAGIC and isinstance(content, int):
                return _of_old_format(path, file, machine)
            if machine.storages:
                raise ValueError("its tensors are elsewhere")
            return Pickle(path, content, machine.foreign, {})
    except Refused as refused:
        is_foreign = isinstance(refused, Foreign)
        raise InputError(_advice(path, str(refused), is_foreign)) from refused
    except InputError:
        raise
    except Exception as error:  # whatever is wrong with a stranger's bytes
        if not kinds.is_pickle(path):
            raise InputError(f"{path} {kinds.NEITHER}") from error
        reason = kinds.shown(str(error).strip().split("\n")[0]) or "no reason"
        raise InputError(
            f"{path} cannot be read as weights: it is damaged ({type(error).__name__}: {reason}); "
            "copy or download it again"
        ) from error


def _advice(path: Path, why: str, is_foreign: bool) -> str:
    what = f"{path} cannot be read as weights: it {why}"
    if "_load_from_bytes" in why:
        return f"{what}, as pickle.dump writes tensors; write them with torch.save"
    if re.match(r"holds (torch\.nn|torchvision|timm)\.", why):
        return f"{what}, so it is a whole network with its class; save net.state_dict() instead"
    if not is_foreign:
        return f"{what}; write it anew with torch.save"
    return (
        f"{what}, which weights do not need; nothing of it was run. Keep only its tensors with "
        f"{kinds.conversion(path)}"
    )


def _of_archive(path: Path, machine: Machine) -> Pickle:
    """What torch.save has written since 1.6: a pickle and a member for each storage, unpacked."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise Refused("has two members of one name")
        total = sum(info.file_size for info in members.values())
        if total > path.stat().st_size:
            raise InputError(f"{path} would unpack to {total} bytes; torch writes no such file")
        pickles = [name for name in members if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise Refused(f"has {len(pickles)} members data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if len(root) > MAX_NAME:
            raise Refused("has a folder of too long a name")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise Refused("has numbers in another order of bytes than this machine")
        with archive.open(pickles[0]) as stream:
            content = machine.run(stream)
        at = {key: (f"{root}data/{key}", 0) for key in machine.storages}
        for key, storage in machine.storages.items():
            member = members.get(at[key][0])
            if member is None or member.file_size != n_bytes(storage):
                raise EOFError(f"the numbers of storage {kinds.shown(key)} are not all there")
    return Pickle(path, content, machine.foreign, at)


def _of_old_format(path: Path, file: BinaryIO, machine: Machine) -> Pickle:
    """What torch.save wrote before 1.6: pickles, then the storages in order of their keys."""
    version, system = machine.run(file), machine.run(file)
    if version != 1001 or not system.get("little_endian"):
        raise Refused("has another version or order of bytes than this machine reads")
    content, keys = machine.run(file), machine.run(file)
    at, end = {}, path.stat().st_size
    for key in keys:
        storage = machine.storages[key]
        size, start = int.from_bytes(file.read(8), "little"), file.tell()
        if size != storage.size or start + n_bytes(storage) > end:
            raise EOFError(f"the numbers of storage {kinds.shown(key)} are not all there")
        at[key] = ("", start)
        file.seek(n_bytes(storage), 1)
    if set(at) != set(machine.storages):
        raise EOFError("some numbers are not there")
    return Pickle(path, content, machine.foreign, at)
