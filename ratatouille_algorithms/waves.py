"""Several networks at a time, so that one pass over the data measures them all."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from domainbed.engine.run import Run
from domainbed.lib import weights as weight_files
from ratatouille_algorithms import weights

Mixture = tuple[Sequence[Path], Sequence[float]]
"""Weight files, and how often each counts in their mean."""


class Waves:
    """Networks of a run's kind that hold mixtures of weights, as many at a time as memory allows.

    There is always one, though it may be larger than `--memory`.
    """

    def __init__(self, run: Run) -> None:
        self.networks = [run.build()]
        self._held: list[Any] = [None]
        distinct = {t.data_ptr(): t for t in weight_files.tensors(self.networks[0]).values()}
        n_bytes = max(1, sum(tensor.nbytes for tensor in distinct.values()))
        self.size = max(1, run.memory // n_bytes)

    def of(self, mixtures: Sequence[Mixture]) -> Iterator[list[Any]]:
        """For each wave its networks, in order; the next wave takes their places.

        One that holds its mixture already is left as it is.
        """
        for start in range(0, len(mixtures), self.size):
            some = mixtures[start : start + self.size]
            while len(self.networks) < len(some):
                self.networks.append(copy.deepcopy(self.networks[0]))
                self._held.append(None)
            for i, (files, coefficients) in enumerate(some):
                what = list(zip(files, coefficients))
                if self._held[i] != what:
                    into = weights.places(self.networks[i], files[0])
                    weights.combine(files, coefficients, into)
                    self._held[i] = what
            yield self.networks[: len(some)]
