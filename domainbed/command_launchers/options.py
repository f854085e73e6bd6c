"""Options of a launcher: `--launcher_options key=value ...`, checked against a dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar, get_args, get_type_hints

from domainbed.lib.arguments import most_processes, since_cores
from domainbed.registry import InputError, nearest

T = TypeVar("T")

MOST = 2**31 - 1
"""What counts and times of clusters' programs are kept in."""


def per_core(default: int | None = None) -> Any:
    """A field for a number of processes or threads on this machine."""
    return field(default=default, metadata={"most": most_processes(), "since": since_cores()})


def parse_options(items: Sequence[str]) -> dict[str, str]:
    """Split "key=value" texts; of a key given twice the last counts."""
    for item in items:
        if "=" not in item.strip("="):
            raise InputError(
                f"--launcher_options was given {item!r}; expected key=value, such as time=60"
            )
    return dict(item.split("=", 1) for item in items)


def read_options(cls: type[T], given: Mapping[str, Any], launcher: str) -> T:
    """Build a dataclass of options from what was given, as text or typed.

    Its fields are str, int or float, or one of these or None. Raises `InputError` for an unknown
    name, a value of another type, a number that is not above 0 or is more than any machine has,
    and a text that is empty or has a line break in it. A field's metadata may hold the most that it
    takes, as "most", and why, as "since".
    """
    hints = get_type_hints(cls)
    for name in given:
        if name not in hints:
            raise InputError(
                f"Unknown launcher option {name!r} of {launcher}. {nearest(name, hints)}"
            )
    values = {}
    limits = {f.name: f.metadata for f in fields(cls)}  # type: ignore[arg-type]
    for name, value in given.items():
        expected = next(t for t in (get_args(hints[name]) or [hints[name]]) if t is not type(None))
        try:
            values[name] = _read(expected, value)
        except ValueError:
            raise InputError(
                f"--launcher_options {name}={value} does not fit; expected {_WORDS[expected]}"
            ) from None
        most = limits[name].get("most", MOST)
        if expected is not str and values[name] > most:
            since = limits[name].get("since", "")
            raise InputError(
                f"--launcher_options {name}={value} does not fit; expected at most {most:,}{since}"
            )
    return cls(**values)


_WORDS = {
    int: "a whole number above 0",
    float: "a number above 0",
    str: "a text in one line",
}


def _read(expected: type, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError
    if expected is str:
        if not str(value).isprintable() or not str(value).strip():
            raise ValueError
        return str(value)
    if expected is int and isinstance(value, float):
        raise ValueError
    number = expected(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError
    return number
