"""What outsiders import from DomainBed's lib.misc; the code is elsewhere."""

from __future__ import annotations

from typing import Any, TextIO

from domainbed.engine.splits import make_weights_for_balanced_classes, split_dataset
from domainbed.lib.console import print_row
from domainbed.lib.seeds import seed_hash

__all__ = [  # noqa: F822 (accuracy comes from __getattr__)
    "Tee",
    "accuracy",
    "make_weights_for_balanced_classes",
    "print_row",
    "seed_hash",
    "split_dataset",
]


class Tee:
    """A text stream that copies what is written to a file."""

    def __init__(self, fname: str, stream: TextIO, mode: str = "a+") -> None:
        self.stream = stream
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
    """Import torch only for `accuracy`."""
    if name == "accuracy":
        from domainbed.engine.evaluator import accuracy

        return accuracy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
