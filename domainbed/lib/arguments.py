"""What arguments may be: numbers within bounds, paths, texts that are not empty."""

from __future__ import annotations

import argparse
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any, NoReturn

from domainbed.lib.bounds import AT_LEAST_ONE, COUNT, SEED, SHARE, Bounds, Within, problem
from domainbed.lib.machine import cores
from domainbed.registry import InputError

MOST_PER_CORE = 64
"""Processes or threads that may be asked for, for each core of this machine."""


class Number:
    """A type of `add_argument`: numbers of a kind, int or float, within bounds."""

    def __init__(self, kind: type, bounds: Bounds, hint: str = "") -> None:
        self.kind, self.bounds, self.hint = kind, bounds, hint

    def __call__(self, text: str) -> Any:
        """Read a number; raises `ArgumentTypeError` for anything else."""
        try:
            return self.check(self.kind(text))
        except ValueError:
            return self.check(text)

    def check(self, value: Any) -> Any:
        """Return a value that is as it should be; raises `ArgumentTypeError` for another."""
        if expected := problem(value, self.kind, self.bounds):
            raise ArgumentTypeError(f"was given {shortened(value)}; {expected}{self.hint}")
        return value


def integer(bounds: Bounds) -> Number:
    """An integer within bounds."""
    return Number(int, bounds)


def number(bounds: Bounds) -> Number:
    """A finite number within bounds."""
    return Number(float, bounds)


def processes(least: int = 0) -> Number:
    """How many processes or threads to have on this machine."""
    return Number(int, Within(least, most_processes()), since_cores())


def most_processes() -> int:
    """The most processes, or threads, that may be asked for."""
    return MOST_PER_CORE * cores()


def since_cores() -> str:
    """Say why there may not be more."""
    n = cores()
    return f", since this machine has {n} cores" if n > 1 else ", since this machine has one core"


count = integer(COUNT)
at_least_one = integer(AT_LEAST_ONE)
some_runs = integer(Within(1, 10**6))
seed = integer(SEED)
trial_seed_or_all = integer(Within(-1, SEED.most))
"""-1 stands for all trials."""
domain = integer(Within(-1, 2**31 - 1))
"""-1 stands for none."""
fraction = number(Within(0, 1, below=True))
share = number(SHARE)
seconds = number(Within(0, 10**9))
gibibytes = number(Within(0, 2**20))


def text(given: str) -> str:
    """Return a text; raises `ArgumentTypeError` if there is nothing in it."""
    if not given.strip():
        raise ArgumentTypeError(f"was given {given!r}, which is empty; give it or leave it out")
    return given


def path(given: str) -> str:
    """Return a path with ~ as the home folder; raises `ArgumentTypeError` if it cannot be one."""
    if "\0" in text(given):
        raise ArgumentTypeError(f"was given {shortened(given)}; no path has a null character")
    expanded = os.path.expanduser(given)
    if expanded.startswith("~"):
        raise ArgumentTypeError(
            f"was given {shortened(given)}, but there is no user {given.split('/')[0][1:]!r} with "
            f"a home folder; write ./{given} for a folder of that name"
        )
    return expanded


def paths(given: str) -> str:
    """Return paths with commas between them, each with ~ as the home folder."""
    return ",".join(map(path, given.split(",")))


def shortened(value: Any, most: int = 60) -> str:
    """Return the repr of a value, cut in the middle where it is long."""
    try:
        said = repr(value)
    except ValueError:  # an int of thousands of digits
        return "a number that is too large"
    return said if len(said) <= most else f"{said[: most - 13]}...{said[-10:]}"


def check_value(action: argparse.Action, value: Any) -> Any:
    """Convert a value that a file gives for an argument, as the command line would convert it.

    Raises `ArgumentTypeError` for a value of another type or out of bounds.
    """
    if isinstance(action.type, Number):
        return action.type.check(value)
    kind: Any = bool if action.nargs == 0 else str
    convert: Callable[[Any], Any] = text
    if isinstance(action.type, type):
        kind = convert = action.type
    elif action.type is not None:
        convert = action.type  # type: ignore[assignment]
    if expected := problem(value, kind, None):
        raise ArgumentTypeError(f"was given {shortened(value)}; {expected}")
    return convert(value) if kind is str else value


class Parser(argparse.ArgumentParser):
    """A parser that tells what is wrong in one line; no text that it takes is empty."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register("type", None, text)

    def error(self, message: str) -> NoReturn:
        """Raise `InputError`, which commands tell in one line before they end with code 2."""
        said = message.removeprefix("argument ").replace(": was given", " was given", 1)
        raise InputError(f"{said}; --help lists all arguments")
