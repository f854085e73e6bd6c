"""Texts and rows of numbers on a console."""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral, Real

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 and C1 codes, ends of lines, marks that turn the direction of a text, halves of characters."""


def escape(text: str) -> str:
    """Return a text with control characters as escapes, since a terminal would obey them."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


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
