"""Where a run says what it does: the console, out.txt, err.txt and results.jsonl."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from domainbed.lib.console import format_row
from domainbed.runs import RunFolder

logger = logging.getLogger(__name__)

QUIET = False
"""Set in worker processes, whose console belongs to the sweep."""

_OURS = ("domainbed", "ratatouille_algorithms", "py.warnings", "__main__")


class _Console(logging.Handler):
    """Writes above a progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)


class _Ours(logging.Filter):
    """What we say, and the warnings of others."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.split(".")[0] in _OURS


@contextmanager
def logging_to(folder: RunFolder) -> Iterator[None]:
    """Send what is logged to out.txt and the console; warnings and errors to err.txt too."""
    handlers: list[logging.Handler] = [logging.FileHandler(folder / "out.txt", encoding="utf-8")]
    handlers.append(logging.FileHandler(folder / "err.txt", encoding="utf-8"))
    handlers[-1].setLevel(logging.WARNING)
    if not QUIET:
        handlers.append(_Console())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for handler in handlers:
        handler.addFilter(_Ours())
        root.addHandler(handler)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class Records:
    """Writes records to results.jsonl and shows them as rows of a table."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._columns: list[str] = []

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; the row shows its numbers only."""
        columns = sorted(key for key, value in record.items() if isinstance(value, (int, float)))
        if columns != self._columns:
            logger.info(format_row(columns, colwidth=12))
            self._columns = columns
        logger.info(format_row([record[key] for key in columns], colwidth=12))
        self.folder.append(record)
