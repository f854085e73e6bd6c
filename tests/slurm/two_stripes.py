"""A plug-in with a dataset of two domains, on which every node trains in no time."""

from __future__ import annotations

from tiny import TinyStripes

from domainbed import datasets


@datasets.register()
class TwoStripes(TinyStripes):
    """Two domains of it."""

    ENVIRONMENTS = ("calm", "noisy")
