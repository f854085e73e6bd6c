"""Queries over lists of records."""

from __future__ import annotations

import functools
import inspect
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

import numpy as np

Selector = Any
"""A key, keys with dots for nesting or commas for several, a function, or a list of selectors."""


def make_selector_fn(selector: Selector) -> Callable[[Any], Any]:
    """The function that a selector stands for."""
    if isinstance(selector, str):
        if "," in selector:
            return make_selector_fn([part.strip() for part in selector.split(",")])
        first, *rest = selector.split(".")
        if len(rest) == 1:
            (second,) = rest
            return lambda item: item[first][second]
        return lambda item: functools.reduce(operator.getitem, rest, item[first])
    if isinstance(selector, (list, tuple)):
        parts = [make_selector_fn(part) for part in selector]
        return lambda item: tuple(part(item) for part in parts)
    if callable(selector):
        return selector
    raise TypeError(f"A selector was given as {selector!r}; expected a str, list or function")


def hashable(value: Any) -> Any:
    """A dictionary's key for a value: itself, or its text as JSON, marked to differ from a str."""
    try:
        hash(value)
    except TypeError:
        return "as JSON", json.dumps(value, sort_keys=True)
    return value


class Q:
    """A list that can be grouped, mapped and reduced; methods return a new Q or a value."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._list = list(items)

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, key: Any) -> Any:
        return self._list[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._list)

    def __eq__(self, other: object) -> bool:
        return self._list == (other._list if isinstance(other, Q) else other)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(self._list)

    def __repr__(self) -> str:
        return repr(self._list)

    def __add__(self, other: Iterable[Any]) -> Q:
        return Q(self._list + list(other))

    def group(self, selector: Selector) -> Q:
        """Pairs (key, Q of the items that have it), in order of first appearance."""
        get = make_selector_fn(selector)
        groups: dict[Any, tuple[Any, list[Any]]] = {}
        for item in self._list:
            key = get(item)
            try:
                found = groups.get(key)
            except TypeError:  # such as a list
                found = groups.get(name := hashable(key))
            else:
                name = key
            if found is None:
                found = groups[name] = key, []
            found[1].append(item)
        return Q((key, Q(items)) for key, items in groups.values())

    def group_map(self, selector: Selector, fn: Callable[[Any, Q], Any]) -> Q:
        """What a function of (key, group) makes of each group."""
        return self.group(selector).map(fn)

    def map(self, fn: Callable[..., Any]) -> Q:
        """What a function makes of each item; one of several arguments takes an item's parts."""
        return self.select(fn)

    def select(self, selector: Selector) -> Q:
        """What a selector takes of each item; a function of several arguments takes its parts."""
        get = make_selector_fn(selector)
        if _takes_parts(selector):
            return Q(get(*item) for item in self._list)
        return Q(get(item) for item in self._list)

    def filter(self, fn: Callable[..., Any]) -> Q:
        """The items for which a function holds."""
        if _takes_parts(fn):
            return Q(item for item in self._list if fn(*item))
        return Q(item for item in self._list if fn(item))

    def filter_equals(self, selector: Selector, value: Any) -> Q:
        """The items of which a selector takes `value`."""
        get = make_selector_fn(selector)
        is_several = isinstance(selector, (list, tuple)) or (
            isinstance(selector, str) and "," in selector
        )
        wanted = tuple(value) if is_several else value
        return Q(item for item in self._list if get(item) == wanted)

    def filter_not_none(self) -> Q:
        """The items that are not None."""
        return Q(item for item in self._list if item is not None)

    def filter_not_nan(self) -> Q:
        """The items that are not NaN."""
        return Q(item for item in self._list if not np.isnan(item))

    def flatten(self) -> Q:
        """The items of the items."""
        return Q(part for item in self._list for part in item)

    def unique(self) -> Q:
        """Each item once, in order of first appearance."""
        first: dict[Any, Any] = {}
        for item in self._list:
            first.setdefault(hashable(item), item)
        return Q(first.values())

    def sorted(self, key: Selector = lambda item: item) -> Q:
        """The items in rising order of `key`."""
        return Q(sorted(self._list, key=make_selector_fn(key)))

    def argmax(self, selector: Selector) -> Any:
        """The first item of which a selector takes the most; ValueError for no items."""
        return max(self._list, key=make_selector_fn(selector))

    def argmin(self, selector: Selector) -> Any:
        """The first item of which a selector takes the least; ValueError for no items."""
        return min(self._list, key=make_selector_fn(selector))

    def sum(self) -> float:
        """Their sum."""
        return float(np.sum(self._list))

    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self._list))

    def std(self) -> float:
        """Their population standard deviation."""
        return float(np.std(self._list))

    def mean_std(self) -> tuple[float, float]:
        """Their mean and population standard deviation."""
        return self.mean(), self.std()

    def count(self) -> int:
        """How many there are."""
        return len(self._list)

    def min(self) -> Any:
        """The least."""
        return min(self._list)

    def max(self) -> Any:
        """The most."""
        return max(self._list)


def _takes_parts(fn: Any) -> bool:
    """Whether a function has more than one positional parameter without a default."""
    if isinstance(fn, (str, list, tuple)) or not callable(fn):
        return False
    if isinstance(fn, FunctionType):  # what follows would say the same, and take its time
        return fn.__code__.co_argcount - len(fn.__defaults__ or ()) > 1
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional) > 1
