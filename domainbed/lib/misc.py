"""What outsiders import from DomainBed's lib.misc; the code is elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from domainbed.engine.splits import make_weights_for_balanced_classes, split_dataset
from domainbed.lib.console import print_row
from domainbed.lib.seeds import seed_hash
from domainbed.registry import resolve

__all__ = [
    "Tee",
    "make_weights_for_balanced_classes",
    "print_row",
    "print_separator",
    "seed_hash",
    "split_dataset",
]

WITH_TORCH = {
    "accuracy": "domainbed.engine.evaluator",
    **dict.fromkeys(
        (
            "ErmPlusPlusMovingAvg",
            "LARS",
            "MovingAverage",
            "Nonparametric",
            "ParamDict",
            "SupConLossLambda",
            "l2_between_dicts",
            "proj",
            "random_pairs_of_minibatches",
            "split_meta_train_test",
        ),
        "domainbed.algorithms.helpers",
    ),
}
"""Name -> module of what needs torch, which is imported only when asked for."""


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
    if name in WITH_TORCH:
        return resolve(f"{WITH_TORCH[name]}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
