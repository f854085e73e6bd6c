"""The greedy search of model soups (Wortsman et al. 2022, arXiv 2203.05482), exact and lazy.

Best first, each member is kept if the ID validation accuracy of the average does not drop. An
average that misses more samples than the best so far may is turned down before it has seen all of
them; those that the best one finds hardest come first, so most are turned down early.

Accuracies are exact fractions: as floats, equal ones can differ in the last bit, and a tie would
be taken for a drop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import torch

from domainbed.engine.evaluator import acc_key
from domainbed.engine.run import Run


def exact_id_score(run: Run, accs: Mapping[str, float]) -> Fraction:
    """The mean accuracy over the training domains' out splits, from accuracies of whole splits."""
    sizes = {acc_key(env, "out"): len(run.splits[env].out) for env in run.train_envs}
    found = [Fraction(round(accs[key] * n), n) for key, n in sizes.items() if n]
    return sum(found, Fraction(0)) / len(found) if found else Fraction(0)


STAGES = (0.1, 0.3, 1.0)
"""Shares of the samples after which an average may be turned down, the hardest ones first."""


class Validation:
    """The ID validation samples of a run, in order of how hard the best average finds them."""

    def __init__(self, run: Run, is_pooled: bool) -> None:
        self.run, self.is_pooled = run, is_pooled
        outs = {env: torch.as_tensor(run.splits[env].out) for env in run.train_envs}
        self._keys = {env: keys.sort().values for env, keys in outs.items() if len(keys)}

    def _accuracy(self, n_right: Mapping[int, int]) -> Fraction:
        """Of so many right samples by domain: the mean over domains, or over all samples."""
        if not self._keys:
            return Fraction(0)
        if self.is_pooled:
            return Fraction(sum(n_right.values()), sum(map(len, self._keys.values())))
        accs = [Fraction(n, len(self._keys[env])) for env, n in n_right.items()]
        return sum(accs, Fraction(0)) / len(accs)

    def score(self, algorithm: Any, least: Fraction) -> Fraction | None:
        """The ID validation accuracy of a network, None once it is sure to be below `least`.

        A network that reaches it decides from then on which samples are hard.
        """
        n_right = {env: len(keys) for env, keys in self._keys.items()}
        losses: dict[int, list[torch.Tensor]] = {env: [] for env in self._keys}
        score = Fraction(0)
        for env, keys in self._stages():
            ((right, loss),) = self.run.evaluator.samples([algorithm], env, keys)
            n_right[env] -= len(keys) - int(right.sum())
            losses[env].append(loss)
            score = self._accuracy(n_right)
            if score < least:
                return None
        for env, some in losses.items():
            order = torch.cat(some).argsort(descending=True, stable=True)
            self._keys[env] = self._keys[env][order]
        return score

    def _stages(self) -> Iterator[tuple[int, list[int]]]:
        """Samples of each domain in turn, stage by stage."""
        for begin, end in zip((0.0, *STAGES), STAGES):
            for env, keys in self._keys.items():
                some = keys[int(begin * len(keys)) : int(end * len(keys))]
                if len(some):
                    yield env, some.tolist()
