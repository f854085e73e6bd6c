"""Which values make sense, in a form that can be tested and read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Within:
    """Finite numbers from `least` to `most`; `above` and `below` leave these ends out."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        try:
            if not math.isfinite(value):
                return False
        except (OverflowError, TypeError):  # an int that no float can hold; no number
            return False
        is_above = value > self.least if self.above else value >= self.least
        return is_above and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        """Return what follows "expected a number", such as "of at least 1"."""
        least, most = (f"{x:,.0f}" if x % 1 == 0 else f"{x:g}" for x in (self.least, self.most))
        if math.isinf(self.least) and math.isinf(self.most):
            return "that is finite"
        if math.isinf(self.most):
            return f"above {least}" if self.above else f"of at least {least}"
        if math.isinf(self.least):
            return f"below {most}" if self.below else f"of at most {most}"
        return f"{'above' if self.above else 'from'} {least} to {'below ' * self.below}{most}"


@dataclass(frozen=True)
class OneOf:
    """Some values and no others."""

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return f"that is one of {', '.join(map(repr, self.values))}"


Bounds = Within | OneOf

FINITE = Within()
POSITIVE = Within(0, above=True)
NOT_NEGATIVE = Within(0)
SHARE = Within(0, 1)
"""Probabilities, quantiles, factors of moving averages."""
MOMENTUM = Within(0, 1, below=True)
COUNT = Within(0)
"""Updates and the like; none is allowed."""
AT_LEAST_ONE = Within(1)
SEED = Within(0, 2**32 - 1)
"""What torch, numpy and random all take."""

NOUNS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def problem(value: Any, kind: type, bounds: Bounds | None) -> str | None:
    """Say what was expected in place of a value, or None if it is of that kind and in bounds.

    An int passes for a float; a bool passes for nothing but a bool.
    """
    is_kind = type(value) is kind or (kind is float and type(value) is int)
    if is_kind and (bounds is None or value in bounds):
        return None
    noun = NOUNS.get(kind, kind.__name__)
    return f"expected {noun}" + ("" if bounds is None else f" {bounds}")
