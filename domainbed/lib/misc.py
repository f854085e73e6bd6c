"""What outsiders import from DomainBed's lib.misc; the code is elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from domainbed.engine.splits import make_weights_for_balanced_classes, split_dataset
from domainbed.lib.console import print_row
from domainbed.lib.seeds import seed_hash

__all__ = [
    "Tee",
    "make_weights_for_balanced_classes",
    "print_row",
    "print_separator",
    "seed_hash",
    "split_dataset",
]


def print_separator() -> None:
    """Print a line between parts of a report."""
    print("=" * 80)


class Tee:
    """A text stream, sys.stdout if none is given, that copies what is written to a file."""

    def __init__(self, fname: str, mode: str = "a", stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.file = open(fname, mode)

    def write(self, message: str) -> int:
        """Write to both."""
        self.file.write(message)
        written = self.stream.write(message)
        self.flush()
        return written

    def flush(self) -> None:
        """Flush both."""
        self.stream.flush()
        self.file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        from domainbed.algorithms import helpers  # torch, only when asked for
        from domainbed.engine import evaluator

        if name == "accuracy" or name in helpers.__all__:
            return getattr(evaluator if name == "accuracy" else helpers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
