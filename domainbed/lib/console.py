"""Texts and rows of numbers on a console."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any, TextIO

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 and C1 codes, ends of lines, marks that turn the direction of a text, halves of characters."""


_LAYOUT = "\t\n\r"
"""Of these what a program prints on purpose; progress bars return to the start of their line."""


def escape(text: str, but: str = "") -> str:
    """Return a text with control characters as escapes, since a terminal would obey them."""
    return _CONTROLS.sub(lambda m: m[0] if m[0] in but else ascii(m[0])[1:-1], text)


class _Escaped:
    """A stream of text to which control characters are written as escapes, but for layout."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escape(text, but=_LAYOUT))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def escaping() -> Iterator[None]:
    """Print no control characters meanwhile, whoever prints: names come from files of others."""
    before = sys.stdout, sys.stderr
    if not any(isinstance(stream, _Escaped) for stream in before):
        some = [stream and _Escaped(stream) for stream in before]
        sys.stdout, sys.stderr = some  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def format_row(row: Iterable[object], colwidth: int = 10, latex: bool = False) -> str:
    """Cells cut and padded to `colwidth`; floats with ten decimals before they are cut."""
    texts = [f"{cell:.10f}" if _is_float(cell) else str(cell) for cell in row]
    cells = [text.ljust(colwidth)[:colwidth] for text in texts]
    return " & ".join(cells) + " \\\\" if latex else "  ".join(cells)


def _is_float(cell: object) -> bool:
    """Python's floats and numpy's."""
    return isinstance(cell, Real) and not isinstance(cell, Integral)


def print_row(row: Iterable[object], colwidth: int = 10, latex: bool = False) -> None:
    """Print one row."""
    print(format_row(row, colwidth, latex))
