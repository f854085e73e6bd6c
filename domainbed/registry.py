"""Named things that plug-ins can add to: algorithms, datasets, backbones, launchers, selections.

Standard library only, so that whoever merely reads names starts at once.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

PLUGIN_GROUP = "domainbed.plugins"
PLUGIN_VARIABLE = "DOMAINBED_PLUGINS"
FAILED: dict[str, str] = {}
"""Installed plug-ins that could not be imported, with the reason."""

_loaded: set[str] = set()


class InputError(ValueError):
    """A wrong input, told in one line: what was given, what was expected, what to do."""


class UnknownNameError(InputError, KeyError, NotImplementedError):
    """A name that no registry knows; the message offers the nearest ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str], hint: str = "") -> None:
        self.kind, self.name = kind, name
        parts = [f"Unknown {kind} {name!r}.", nearest(name, known), hint]
        if FAILED:
            parts.append(f"Plug-ins that failed to import: {FAILED}.")
        super().__init__(" ".join(part for part in parts if part))

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


def nearest(name: object, known: Iterable[str]) -> str:
    """Say which known names are closest to `name`, or list them all when none is."""
    known = list(known)
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(repr(by_lower[c]) for c in close) + "?"
    return f"Known: {', '.join(known)}."


class Registry(MutableMapping[str, T], Generic[T]):
    """A dictionary of named things, filled by its home module and then by plug-ins.

    A value given as "module:attribute" is imported when it is first asked for, so that listing
    names costs nothing. Raises `UnknownNameError` for a missing name and ValueError when a second
    owner claims one.
    """

    def __init__(self, kind: str, home: str) -> None:
        self.kind, self.home = kind, home
        self._items: dict[str, Any] = {}

    def register(self, name: str | None = None) -> Callable[[T], T]:
        """Return a decorator that adds a class or function under `name`, or its own name."""

        def add(value: T) -> T:
            self[name or value.__name__] = value  # type: ignore[attr-defined]
            return value

        return add

    def builtins(self) -> list[str]:
        """Names registered without plug-ins, in order of registration."""
        importlib.import_module(self.home)
        return [name for name, owner in self._owners.items() if owner]

    @property
    def _owners(self) -> dict[str, bool]:
        root = self.home.split(".")[0]
        return {n: _module_of(v).split(".")[0] == root for n, v in self._items.items()}

    def __setitem__(self, name: str, value: T | str) -> None:
        if name in self._items and _identity(self._items[name]) != _identity(value):
            raise ValueError(
                f"{self.kind} {name!r} is already registered by "
                f"{_module_of(self._items[name])}; choose another name"
            )
        self._items[name] = value

    def __getitem__(self, name: str) -> T:
        importlib.import_module(self.home)  # built-ins first: a plug-in cannot shadow them
        if name not in self._items:
            load_plugins()
        if name not in self._items:
            raise UnknownNameError(self.kind, name, self._items)
        value = self._items[name]
        if isinstance(value, str):
            self._items[name] = value = resolve(value)
        return value

    def __contains__(self, name: object) -> bool:
        importlib.import_module(self.home)
        if name not in self._items:
            load_plugins()
        return name in self._items

    def __delitem__(self, name: str) -> None:
        del self._items[name]

    def __iter__(self) -> Iterator[str]:
        importlib.import_module(self.home)
        load_plugins()
        return iter(list(self._items))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _module_of(value: Any) -> str:
    return value.split(":")[0] if isinstance(value, str) else getattr(value, "__module__", "")


def _identity(value: Any) -> tuple[str, str] | int:
    """Equal for a class and its re-import: a reloaded plug-in may register itself again."""
    if isinstance(value, str):
        module, attribute = value.split(":")
        return module, attribute
    name = getattr(value, "__qualname__", None)
    return (value.__module__, name) if name else id(value)


def resolve(reference: str) -> Any:
    """Import what "module:attribute" names."""
    module, attribute = reference.split(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def _installed() -> tuple[EntryPoint, ...]:
    """The plug-ins of this environment; finding them reads a file of each package."""
    return tuple(entry_points(group=PLUGIN_GROUP))


def load_plugins() -> None:
    """Import installed plug-ins (entry points) and the modules that $DOMAINBED_PLUGINS names.

    An installed plug-in that fails is noted in `FAILED` and skipped; one that the user named
    raises `InputError`.
    """
    for point in _installed():
        if point.name not in _loaded:
            _loaded.add(point.name)
            try:
                point.load()
            except Exception as error:
                FAILED[point.name] = f"{type(error).__name__}: {error}"
                logger.warning("plug-in %s failed to import: %s", point.name, error)
    for module in filter(None, os.environ.get(PLUGIN_VARIABLE, "").split(",")):
        if module not in _loaded:
            _loaded.add(module)
            _import_named(module)


def _import_named(module: str) -> None:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:
        _loaded.discard(module)
        raise InputError(
            f"Plug-in {module!r} cannot be imported ({type(error).__name__}: {error}); "
            "give the name of a module on PYTHONPATH or in this folder"
        ) from error


def use_plugins(modules: Iterable[str]) -> None:
    """Import plug-ins that are not installed, in this process and in all that it starts."""
    load_plugins()
    named = [m for m in os.environ.get(PLUGIN_VARIABLE, "").split(",") if m]
    for module in modules:
        if module not in _loaded:
            _loaded.add(module)
            _import_named(module)
        named.append(module)
    os.environ[PLUGIN_VARIABLE] = ",".join(dict.fromkeys(named))
