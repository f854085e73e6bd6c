"""What safetensors files say of themselves and of their tensors; without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from safetensors import SafetensorError, safe_open

from domainbed.lib import kinds
from domainbed.lib.files import replacing
from domainbed.registry import InputError

ALIASES = "aliases"
"""The key of a header under which names are mapped to those that they are stored by."""


class Tensor(NamedTuple):
    """Where a tensor is: safetensors' word for its dtype, its shape, its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def opened(path: str | Path, framework: str = "np") -> Any:
    """A memory-mapped safetensors file as a context manager; `InputError` for any other file."""
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise InputError(refusal(Path(path), error)) from error


def refusal(path: Path, error: object = "") -> str:
    """Why a file is not read as safetensors: what it is instead, or else the error."""
    reason = str(error).split("\n")[0]
    if path.is_dir():
        reason = "it is a folder"
    elif path.is_file():
        kind = kinds.kind(path)
        if kind in (kinds.ZIP, kinds.PICKLE):
            is_one = kind == kinds.ZIP or kinds.is_pickle(path)
            what = "a pickle" if is_one else "neither safetensors nor a pickle"
            reason = f"it is {what}" + (f"; convert it with {kinds.conversion(path)}" * is_one)
        elif kind != kinds.SAFETENSORS:
            reason = f"it {kind}"
    return f"{path} cannot be read as safetensors: {reason}"


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names as they are without `_orig_mod`, which torch.compile puts into them, by name.

    Where two would become one, all stay as they are.
    """
    names = list(names)
    plain = {name: ".".join(s for s in name.split(".") if s != "_orig_mod") for name in names}
    return plain if len(set(plain.values())) == len(names) else {name: name for name in names}


def read_header(path: str | Path) -> dict[str, Any]:
    """The header that `save` wrote, without the tensors; {} for a foreign file without one."""
    with opened(path) as file:
        return parse_header(file.metadata(), path)


def parse_header(metadata: Mapping[str, str] | None, path: str | Path) -> dict[str, Any]:
    """The header in a file's metadata; `InputError` naming its path for one that is damaged."""
    values = {key: value for key, value in (metadata or {}).items() if key != "format"}
    if ALIASES not in values:
        return {}
    try:
        header = {key: json.loads(value) for key, value in values.items()}
    except (ValueError, RecursionError) as error:
        raise InputError(f"The header of {path} is damaged: {error}") from error
    aliases = header[ALIASES]
    if not isinstance(aliases, dict) or not all(isinstance(o, str) for o in aliases.values()):
        raise InputError(f"The header of {path} is damaged: {ALIASES!r} maps no names to names")
    return header


def metadata_of(header: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, str]:
    """A header of JSON values as the metadata of a file, in order of keys."""
    values = {key: json.dumps(value) for key, value in {**header, ALIASES: aliases}.items()}
    return dict(sorted({"format": "pt", **values}.items()))


def tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name; `InputError` for a file that is damaged."""
    with opened(path):  # which checks that shapes and bytes agree
        entries, metadata, start = _beginning_of(path)
    plain = plain_names([*entries, *_aliases(metadata, path)])
    return _placed({plain[name]: entry for name, entry in entries.items()}, start)


def _aliases(metadata: Mapping[str, str], path: str | Path) -> dict[str, str]:
    return parse_header(metadata, path).get(ALIASES, {})


def _placed(entries: Mapping[str, Any], start: int) -> dict[str, Tensor]:
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
        for name, entry in entries.items()
    }


@contextmanager
def blank(
    path: Path, like: Path, header: Mapping[str, Any]
) -> Iterator[tuple[BinaryIO, dict[str, Tensor]]]:
    """A file with the tensors of another one, all zero, under a header of its own.

    It is to be filled in meanwhile, tensor by tensor where each is said to be, and appears whole or
    not at all.
    """
    entries, metadata, start = _beginning_of(like)
    aliases = _aliases(metadata, like)
    plain = plain_names([*entries, *aliases])
    entries = {plain[name]: entry for name, entry in entries.items()}
    aliases = {plain[name]: plain.get(owner, owner) for name, owner in aliases.items()}
    beginning = _beginning(entries, metadata_of(header, aliases))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(beginning)
        file.truncate(len(beginning) + like.stat().st_size - start)
        yield file, _placed(entries, len(beginning))


def sort_metadata(path: Path) -> None:
    """Order a file's metadata by key, which safetensors does by chance: equals get equal bytes."""
    entries, metadata, start = _beginning_of(path)
    beginning = _beginning(entries, dict(sorted(metadata.items())))
    assert len(beginning) == start, "the same JSON in another order is as long"
    with open(path, "r+b") as file:
        file.write(beginning)


def _beginning_of(path: str | Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """The entries of a file's tensors, its metadata, and the byte where its numbers begin."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    return entries, entries.pop("__metadata__", {}), 8 + length


def _beginning(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """What stands before the numbers: a length, then JSON up to a multiple of eight bytes."""
    everything = {"__metadata__": metadata, **entries}
    text = json.dumps(everything, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    length = -(-len(text) // 8) * 8
    return length.to_bytes(8, "little") + text.ljust(length)


def all_seen(pasts: Iterable[Sequence[str] | None]) -> list[str] | None:
    """All datasets of several pasts, in order; None, which is unknown, if one of them is."""
    pasts = list(pasts)
    known = [past for past in pasts if past is not None]
    return list(dict.fromkeys(chain(*known))) if len(known) == len(pasts) else None
