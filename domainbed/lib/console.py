"""Rows of numbers on a console."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real


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
