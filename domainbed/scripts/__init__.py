"""Command lines: each builds a parser and has main(argv) -> exit code; the work is elsewhere."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from domainbed.lib.arguments import Parser
from domainbed.lib.console import escape, escaping
from domainbed.registry import InputError, Registry, use_plugins

Main = Callable[..., int]

COMMANDS: Registry[Main] = Registry("command", home="domainbed.scripts")
"""Commands that plug-ins provide under `domainbed.scripts`: name -> main(argv)."""


def one_line(main: Main) -> Main:
    """Tell a wrong input in one line and end with exit code 2; print no control characters."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            with escaping():
                return main(argv)
        except InputError as error:
            lines = map(escape, str(error).split("\n"))
            print("error: " + "\n".join(lines), file=sys.stderr)
            return 2
        except BrokenPipeError:  # the reader, such as `head`, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    return wrapped


def load_named_plugins(argv: Sequence[str] | None) -> None:
    """Import what --plugins names before the parser is built, since plug-ins add options."""
    early = Parser(add_help=False, allow_abbrev=False)
    early.add_argument("--plugins", nargs="+", default=[])
    use_plugins(early.parse_known_args(argv)[0].plugins)


def ask(question: str, option: str) -> bool:
    """Ask for y or n; raises `InputError` that names `option` where nobody is there to ask."""
    try:
        return input(f"{question} (y/n) ").strip().lower() == "y"
    except (EOFError, RuntimeError, ValueError, OSError):  # at its end, lost, closed, unreadable
        raise InputError(f"There is nobody to ask; give {option} to go on without asking") from None


@contextmanager
def lasting_objects() -> Iterator[None]:
    """Let the collector of cycles pass over what is made meanwhile, such as all records of a sweep.

    It would look at the same objects again and again, which takes more than making them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
