"""Which tensors of a file are those of a network, whatever the file calls and nests them.

A network's names stand at the end of a file's: `module.encoder_q.conv1.weight` is `conv1.weight`
under the prefix `module.encoder_q.`. The prefix under which most names have the network's shapes is
taken, of any dictionary in the file; whether that is all of the network is for the caller to check.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from domainbed.lib import kinds
from domainbed.lib.kinds import shown
from domainbed.registry import InputError

if TYPE_CHECKING:
    from domainbed.lib.weights import Contents, Place

Layout = Mapping[str, tuple[int, ...]]

OURS = ("featurizer.", "network.0.", "")
"""Prefixes of a featurizer in files of runs: several, of the same tensors."""

COUNTER = "num_batches_tracked"

_BETTER = {"teacher", "ema"}
_GOOD = {"q", "query", "online", "base"}
_WORSE = {"k", "key", "momentum", "target", "student"}
_WRONG = {"optimizer", "optim", "grad", "grads", "exp", "avg", "moment"}


class Fit(NamedTuple):
    """A dictionary of a file, a prefix there, and how many of a network's tensors it has."""

    entry: Place
    prefix: str
    n: int

    @property
    def label(self) -> str:
        """Both as one, "" for the file's own names."""
        return ".".join([*self.entry, self.prefix]).strip(".")


def bare(own: Mapping[str, Any]) -> dict[str, str]:
    """The names of a wrapper's network by those that they have without the wrapper."""
    is_wrapped = all(name.startswith("network.") for name in own)
    return {name.removeprefix("network.") if is_wrapped else name: name for name in own}


def best(contents: Contents, own: Layout) -> tuple[Fit, list[Fit]]:
    """Where most tensors of a network are, and where else as many that differ are.

    Raises `InputError` that names several places that are as good, unless one of them is known to
    be what is wanted: a teacher, a moving average, the query encoder.
    """
    shapes = _shapes(own)
    found = _found(contents.entries, shapes)
    if not found:
        return Fit(contents.main, "", 0), []
    most = max(fit.n for fit in found)
    equals = [fit for fit in found if fit.n == most]
    equals.sort(key=lambda fit: OURS.index(fit.prefix) if fit.prefix in OURS else len(OURS))
    first, others = equals[0], []
    for fit in equals[1:]:
        if any(_place(contents, fit, n) != _place(contents, first, n) for n in shapes):
            others.append(fit)
    if not others or (first.prefix in OURS[:2] and all(fit.entry == first.entry for fit in others)):
        return first, []
    ranked = sorted([first, *others], key=_rank, reverse=True)
    if _rank(ranked[0]) == _rank(ranked[1]):
        labels = [fit.label for fit in ranked if _rank(fit) == _rank(ranked[0])]
        raise InputError(
            f"{contents.path} holds several networks that fit alike: "
            f"{', '.join(repr(shown(label)) for label in labels[:5])}; keep one with "
            f"{kinds.conversion(contents.path)} --only NAME"
        )
    return ranked[0], ranked[1:]


def is_whole(contents: Contents, own: Layout) -> bool:
    """Whether a file has all tensors of a network, but for counters, under one prefix."""
    shapes = _shapes(own)
    return any(fit.n == len(shapes) for fit in _found(contents.entries, shapes))


def _shapes(own: Layout) -> dict[str, tuple[int, ...]]:
    return {n: tuple(own[o]) for n, o in bare(own).items() if not n.endswith(COUNTER)}


def _found(entries: Mapping[Place, Layout], shapes: Layout) -> list[Fit]:
    depth = max((name.count(".") + 1 for name in shapes), default=0)
    counts: Counter[tuple[Place, str]] = Counter()
    for entry, layout in entries.items():
        for name, shape in layout.items():
            segments = name.rsplit(".", depth)
            for i in range(max(0, len(segments) - depth), len(segments)):
                end = ".".join(segments[i:])
                if shapes.get(end) == tuple(shape):
                    counts[entry, name[: len(name) - len(end)]] += 1
    return [Fit(entry, prefix, n) for (entry, prefix), n in counts.items()]


def _place(contents: Contents, fit: Fit, name: str) -> Any:
    return contents.place(fit.entry, fit.prefix + name)


def _rank(fit: Fit) -> int:
    words = set(re.split(r"[._]", fit.label.lower()))
    better = 4 * bool(words & _BETTER) + 2 * bool(words & _GOOD)
    return better - bool(words & _WORSE) - 8 * bool(words & _WRONG)


def summary(names: Iterable[str]) -> str:
    """Names by their beginnings, and how many each has."""
    counts = Counter(name.split(".")[0] for name in names)
    some = [f"{shown(start)} ({n})" for start, n in counts.most_common(5)]
    return ", ".join(some) + (", ..." if len(counts) > 5 else "")
