"""Means of weight files: streamed, strict, in float64; numpy alone, without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from domainbed.lib import stored
from domainbed.registry import InputError

Layout = dict[str, stored.Tensor]

CHUNK = 250_000
"""Numbers summed at a time: what a mean holds in memory."""

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_INTEGERS = {f"{kind}{8 * n}": f"<{kind.lower()}{n}" for kind in "IU" for n in (1, 2, 4, 8)}
KINDS = {name: np.dtype(kind) for name, kind in {**_FLOATS, **_INTEGERS, "BOOL": "?"}.items()}
"""safetensors' dtypes that can be averaged, as numpy's; bfloat16 as its bits."""

_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var", _COUNTER)


class Piece(NamedTuple):
    """Some numbers of a tensor: all, or some rows; `first` is the byte of it where they begin."""

    name: str
    rows: Any
    shape: tuple[int, ...]
    dtype: str
    first: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """How many bytes of the file it is."""
        return self.size * KINDS[self.dtype].itemsize

    @property
    def is_float(self) -> bool:
        """Whether it is averaged; integers are kept."""
        return self.dtype in _FLOATS


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


def _origin(header: Mapping[str, Any], what: str) -> str:
    origin = header.get("provenance", {}).get(what)
    return origin["sha256"] if isinstance(origin, dict) else str(origin)


def check_layouts(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the headers of files that agree in names, shapes and dtypes of tensors."""
    _layouts(paths)
    return [stored.read_header(path) for path in paths]


def _layouts(paths: Sequence[Path]) -> list[Layout]:
    if not paths:
        raise InputError("There are no members to average; expected at least one finished run")
    layouts = [stored.tensors(path) for path in paths]
    first = _kinds(layouts[0])
    for path, layout in zip(paths, layouts):
        kinds = _kinds(layout)
        if kinds != first:
            odd = sorted(set(kinds.items()) ^ set(first.items()))[0][0]
            raise InputError(
                f"{path} and {paths[0]} differ in tensor {odd!r}: {kinds.get(odd, 'missing')} "
                f"against {first.get(odd, 'missing')}; only weights of one architecture "
                "can be averaged"
            )
    for name, tensor in layouts[0].items():
        if tensor.dtype not in KINDS:
            raise InputError(
                f"{paths[0]} holds {tensor.dtype} in {name!r}, which cannot be averaged; expected "
                f"one of {', '.join(KINDS)}"
            )
    return layouts


def _kinds(layout: Layout) -> dict[str, str]:
    return {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in layout.items()}


def check_same_buffers(paths: Sequence[Path]) -> None:
    """Raise `InputError` unless all members have the first one's statistics of BatchNorm."""
    layouts = _layouts(paths)
    names = [name for name in layouts[0] if name.endswith(_STATISTICS)]
    first = {name: _read(paths[0], layouts[0][name]) for name in names}
    for path, layout in zip(paths[1:], layouts[1:]):
        for name, numbers in first.items():
            if not np.array_equal(numbers, _read(path, layout[name])):
                raise InputError(
                    f"{path} and {paths[0]} differ in {name!r}, though both were trained with "
                    "frozen BatchNorm: one of them was not, or is not what it says"
                )


def common_origin(headers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Where a mean comes from: the origin that its members share, and all that they have seen."""
    origins = [header.get("provenance", {}) for header in headers]
    common = {key: origins[0].get(key) for key in ("foundation", "head")}
    return {**common, "datasets_seen": stored.all_seen(o.get("datasets_seen") for o in origins)}


def write_uniform(paths: Sequence[Path], output: Path, header: Mapping[str, Any]) -> None:
    """Write the mean of the members' weights to a file, of which little is ever in memory.

    Raises as `means` does; then there is no file.
    """
    _layouts(paths)
    with stored.blank(output, paths[0], header) as (file, tensors):
        for piece, mean in means(paths, [1] * len(paths)):
            file.seek(tensors[piece.name].start + piece.first)
            file.write(_bytes_of(_narrowed(mean, piece.dtype)))


def means(
    paths: Sequence[Path], coefficients: Sequence[float]
) -> Iterator[tuple[Piece, np.ndarray]]:
    """The mean of files, each counted `coefficient` times, in pieces, each good until the next.

    It is computed in float64. One file is open at a time. Integers must agree and are kept, but for
    counters of BatchNorm, of which the largest is. Raises `InputError` for files that differ in
    their tensors' shapes or dtypes, and naming the file and the tensor that hold a number that is
    not finite.
    """
    layouts = _layouts(paths)
    for pieces in _chunks(layouts[0]):
        parts = [np.empty(piece.shape, KINDS[piece.dtype]) for piece in pieces]
        sums: list[np.ndarray] = []
        for path, layout, coefficient in zip(paths, layouts, coefficients):
            with open(path, "rb") as file:
                for piece, part in zip(pieces, parts):
                    file.seek(layout[piece.name].start + piece.first)
                    if file.readinto(_bytes_of(part)) != piece.n_bytes:
                        raise InputError(f"{path} ends within {piece.name!r}; it is damaged")
            if not sums:
                pairs = zip(pieces, parts)
                sums = [np.zeros(p.shape) if p.is_float else a.copy() for p, a in pairs]
            for piece, total, part in zip(pieces, sums, parts):
                _add(total, part, coefficient, piece, path)
        for piece, total in zip(pieces, sums):
            if piece.is_float:
                _check_finite(total, piece.name, paths, layouts)
                total /= sum(coefficients)
            yield piece, total


def _chunks(layout: Layout) -> Iterator[list[Piece]]:
    """All tensors of a file, whole or as rows, put together to about `CHUNK` numbers."""
    chunk: list[Piece] = []
    room = CHUNK
    for name, (dtype, shape, _) in sorted(layout.items()):
        whole = Piece(name, ..., shape, dtype, 0)
        if chunk and whole.size > room:
            yield chunk
            chunk, room = [], CHUNK
        if whole.size <= CHUNK:
            chunk.append(whole)
            room -= whole.size
            continue
        n_rows, row = max(1, CHUNK * shape[0] // whole.size), whole.n_bytes // shape[0]
        for start in range(0, shape[0], n_rows):
            some = (min(n_rows, shape[0] - start), *shape[1:])
            yield [Piece(name, slice(start, start + n_rows), some, dtype, start * row)]
    if chunk:
        yield chunk


def _add(total: np.ndarray, part: np.ndarray, coefficient: float, piece: Piece, path: Path) -> None:
    if piece.is_float:
        numbers = _widened(part, piece.dtype)
        if coefficient != 1:
            numbers = np.multiply(numbers, coefficient, dtype=np.float64)
        with np.errstate(invalid="ignore"):  # of infinities, which are looked for afterwards
            np.add(total, numbers, out=total)
    elif piece.name.endswith(_COUNTER):
        np.maximum(total, part, out=total)
    elif not np.array_equal(total, part):
        raise InputError(f"{path} differs from the other members in the integers of {piece.name!r}")


def _check_finite(
    total: np.ndarray, name: str, paths: Sequence[Path], layouts: Sequence[Layout]
) -> None:
    """A sum is finite only if all its terms are; if it is not, find whose fault it is."""
    with np.errstate(invalid="ignore"):
        if np.isfinite(total.sum()):
            return
    for path, layout in zip(paths, layouts):
        if not np.isfinite(_read(path, layout[name])).all():
            raise InputError(f"{path} holds a weight that is not finite, in {name!r}; leave it out")


def _read(path: Path, tensor: stored.Tensor) -> np.ndarray:
    """All numbers of a tensor."""
    n = math.prod(tensor.shape)
    return _widened(np.fromfile(path, KINDS[tensor.dtype], n, offset=tensor.start), tensor.dtype)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _widened(stored_numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as numpy can add them: bfloat16 is the upper half of a float32."""
    if dtype != "BF16":
        return stored_numbers
    return (stored_numbers.astype("<u4") << np.uint32(16)).view("<f4")


def _narrowed(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Finite numbers as a file stores them, rounded to the nearest, to even on ties."""
    if dtype != "BF16":
        return numbers.astype(KINDS[dtype], copy=False)
    bits = numbers.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
