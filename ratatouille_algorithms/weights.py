"""Averages of weight files: streamed, strict, in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from domainbed.lib import weights
from domainbed.registry import InputError


class _Piece(NamedTuple):
    """Some numbers of a tensor: all, or some rows; `first` is the byte of it where they begin."""

    name: str
    rows: Any
    shape: tuple[int, ...]
    dtype: torch.dtype
    first: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def room(self) -> int:
        """Bytes up to the next multiple of eight, where any other number can begin."""
        return -(-self.n_bytes // 8) * 8


_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var", _COUNTER)

CHUNK = 500_000
"""Numbers summed at a time: what an average holds in memory beside its result."""


def check_members(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the members' headers, or raise `InputError` naming the first that does not fit.

    Members must agree with the first one in names, shapes and dtypes of tensors, in the foundation
    that they descend from and in the head that they started with.
    """
    headers = check_layouts(paths)
    for path, header in zip(paths, headers):
        for what in ("foundation", "head"):
            ours, theirs = (_origin(h, what) for h in (headers[0], header))
            if ours != theirs:
                raise InputError(
                    f"{path} starts from another {what} than {paths[0]}: {theirs} against {ours}; "
                    "only weights that share both foundation and linear probe can be averaged"
                )
    return headers


def check_layouts(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the headers of files that agree in names, shapes and dtypes of tensors."""
    if not paths:
        raise InputError("There are no members to average; expected at least one finished run")
    headers = [weights.read_header(path) for path in paths]
    layouts = [_layout(path) for path in paths]
    for path, layout in zip(paths, layouts):
        if layout != layouts[0]:
            odd = sorted(set(layout.items()) ^ set(layouts[0].items()))[0][0]
            raise InputError(
                f"{path} and {paths[0]} differ in tensor {odd!r}: {layout.get(odd, 'missing')} "
                f"against {layouts[0].get(odd, 'missing')}; only weights of one architecture "
                "can be averaged"
            )
    return headers


def check_same_buffers(paths: Sequence[Path]) -> None:
    """Raise `InputError` unless all members have the first one's statistics of BatchNorm."""
    with weights.opened(paths[0]) as file:
        names = [name for name in file.keys() if name.endswith(_STATISTICS)]
        first = {name: file.get_tensor(name) for name in names}
    for path in paths[1:] if names else ():
        with weights.opened(path) as file:
            for name, tensor in first.items():
                if not torch.equal(tensor, file.get_tensor(name)):
                    raise InputError(
                        f"{path} and {paths[0]} differ in {name!r}, though both were trained with "
                        "frozen BatchNorm: one of them was not, or is not what it says"
                    )


def _origin(header: dict[str, Any], what: str) -> str:
    origin = header.get("provenance", {}).get(what)
    return origin["sha256"] if isinstance(origin, dict) else str(origin)


def _layout(path: Path) -> dict[str, str]:
    with weights.opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {n: f"{s.get_dtype()} {list(s.get_shape())}" for n, s in slices.items()}


def combine(
    paths: Sequence[Path], coefficients: Sequence[float], into: Mapping[str, torch.Tensor]
) -> None:
    """Write the mean of weights, each counted `coefficient` times, into tensors by name.

    It is computed in float64. One file is open at a time, and read in chunks: little but the result
    is in memory. Integers must agree and are kept, but for counters of BatchNorm, of which the
    largest is. Raises `InputError` for files that differ in their tensors' shapes or dtypes, and
    naming the file and the tensor that hold a number that is not finite.
    """
    check_layouts(paths)
    starts = [_starts(path) for path in paths]
    chunks = list(_chunks(paths[0]))
    n_numbers = max((sum(p.size for p in some) for some in chunks), default=0)
    n_bytes = max((sum(p.room for p in some) for some in chunks), default=0)
    sums_room = torch.empty(n_numbers, dtype=torch.float64)
    parts_room = torch.empty(n_bytes, dtype=torch.uint8)
    for pieces in chunks:
        parts = _rooms(pieces, parts_room)
        sums: list[torch.Tensor] = []
        for path, start, coefficient in zip(paths, starts, coefficients):
            _read(path, start, pieces, parts)
            if not sums:
                sums = _zeros(parts, sums_room)
            for piece, total, part in zip(pieces, sums, parts):
                _add(total, part, coefficient, piece.name, path)
        for piece, total in zip(pieces, sums):
            if total.is_floating_point():
                _check_finite(total, piece.name, paths)
                total.div_(sum(coefficients))
            into[piece.name].detach()[piece.rows].copy_(total)


def _starts(path: Path) -> dict[str, int]:
    """At which byte of a safetensors file each tensor begins."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items()}


def _rooms(pieces: Sequence[_Piece], room: torch.Tensor) -> list[torch.Tensor]:
    """Tensors for pieces to be read into, in `room`."""
    sizes = [piece.room for piece in pieces]
    places = room[: sum(sizes)].split(sizes)
    return [
        place[: piece.n_bytes].view(piece.dtype).view(piece.shape)
        for place, piece in zip(places, pieces)
    ]


def _read(
    path: Path, starts: Mapping[str, int], pieces: Sequence[_Piece], parts: Sequence[torch.Tensor]
) -> None:
    """Read pieces of a file, which is faster than to map it into memory."""
    with open(path, "rb") as file:
        for piece, part in zip(pieces, parts):
            file.seek(starts[piece.name] + piece.first)
            if file.readinto(part.view(-1).view(torch.uint8).numpy().data) != piece.n_bytes:
                raise InputError(f"{path} ends within {piece.name!r}; it is damaged")


def _zeros(parts: Sequence[torch.Tensor], room: torch.Tensor) -> list[torch.Tensor]:
    """Where parts are summed up: floats in `room`, in float64; integers are their own sum."""
    sizes = [part.numel() if part.is_floating_point() else 0 for part in parts]
    places = room[: sum(sizes)].zero_().split(sizes)
    return [
        place.view(part.shape) if part.is_floating_point() else part.clone()
        for place, part in zip(places, parts)
    ]


def _add(
    total: torch.Tensor, part: torch.Tensor, coefficient: float, name: str, path: Path
) -> None:
    if total.is_floating_point():
        total.add_(part, alpha=coefficient)
    elif name.endswith(_COUNTER):
        torch.maximum(total, part, out=total)
    elif not torch.equal(total, part):
        raise InputError(f"{path} differs from the other members in the integers of {name!r}")


def _check_finite(total: torch.Tensor, name: str, paths: Sequence[Path]) -> None:
    """A sum is finite only if all its terms are; if it is not, find whose fault it is."""
    if torch.isfinite(total.sum()):
        return
    for path in paths:
        with weights.opened(path) as file:
            if not torch.isfinite(file.get_tensor(name)).all():
                raise InputError(
                    f"{path} holds a weight that is not finite, in {name!r}; leave it out"
                )


def _chunks(path: Path) -> Iterator[list[_Piece]]:
    """All tensors of a file, whole or as rows, put together to about `CHUNK` numbers."""
    with weights.opened(path) as file:
        found = ((name, file.get_tensor(name)) for name in sorted(file.keys()))  # mapped, not read
        kinds = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found}
    chunk: list[_Piece] = []
    room = CHUNK
    for name, (shape, dtype) in kinds.items():
        size = math.prod(shape)
        if size <= room:
            chunk.append(_Piece(name, ..., shape, dtype, 0))
            room -= size
            continue
        n_rows, row = max(1, CHUNK * shape[0] // size), size // shape[0]
        if chunk:
            yield chunk
        for start in range(0, shape[0], n_rows):
            some = (min(n_rows, shape[0] - start), *shape[1:])
            rows = slice(start, start + n_rows)
            yield [_Piece(name, rows, some, dtype, start * row * dtype.itemsize)]
        chunk, room = [], CHUNK
    if chunk:
        yield chunk


def uniform(paths: Sequence[Path], into: Mapping[str, torch.Tensor]) -> None:
    """Write the mean of the members' weights into tensors by name."""
    combine(paths, [1] * len(paths), into)


def places(algorithm: torch.nn.Module, path: Path) -> weights.State:
    """The algorithm's own tensors under the names that a file stores them by.

    Raises `InputError` unless every tensor of the algorithm has its counterpart, none left over.
    """
    own, stored = weights.tensors(algorithm), _layout(path)
    found = {name: tensor for name, tensor in own.items() if name in stored}
    covered = {tensor.data_ptr() for tensor in found.values() if tensor.numel()}
    missing = [n for n, t in own.items() if t.numel() and t.data_ptr() not in covered]
    left = sorted(set(stored) - set(found))
    if missing or left:
        raise InputError(
            f"{path} does not fit {type(algorithm).__name__}: missing {missing[:3]}, left over "
            f"{left[:3]}; expected weights of the same architecture"
        )
    return found
