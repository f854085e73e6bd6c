"""The lazy greedy search decides as one that measures every average on every sample."""

import random
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from domainbed.engine.evaluator import Evaluator
from ratatouille_algorithms.greedy import Validation


class Linear(torch.nn.Module):
    """A linear network that counts the samples that it has seen."""

    def __init__(self, noise: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.eye(5) + noise * torch.randn(5, 5, generator=generator)
        self.n_seen = 0

    def predict(self, x):
        self.n_seen += len(x)
        return x @ self.weights


@pytest.fixture(params=[(60, 200, 1), (7, 30), ()])
def run(request):
    """Domains of so many samples, whose out splits are in no order."""
    torch.manual_seed(0)
    domains, outs = [], []
    for n in request.param:
        y = torch.randint(5, (2 * n,))
        x = torch.nn.functional.one_hot(y, 5) + 0.35 * torch.randn(2 * n, 5)
        domains.append(TensorDataset(x, y))
        outs.append(torch.randperm(2 * n)[:n].tolist())
    envs = list(range(len(domains)))
    splits = {env: {"out": outs[env]} for env in envs}

    return SimpleNamespace(
        train_envs=envs,
        splits=[SimpleNamespace(out=out) for out in outs],
        evaluator=Evaluator(domains, splits, "cpu"),
    )


def exact(run, network, is_pooled):
    """The accuracy of a network on all samples, or the mean over domains."""
    counts = []
    for env, split in enumerate(run.splits):
        x, y = run.evaluator.environments[env][split.out]
        counts.append((int((network.predict(x).argmax(1) == y).sum()), len(y)))
    if is_pooled and counts:
        return Fraction(*map(sum, zip(*counts)))
    return sum((Fraction(*count) for count in counts), Fraction(0)) / max(len(counts), 1)


@pytest.mark.parametrize("is_pooled", [False, True])
def test_an_average_is_turned_down_if_and_only_if_it_falls_short(run, is_pooled):
    validation, n_samples = Validation(run, is_pooled), sum(len(split.out) for split in run.splits)
    best, n_down, n_seen = Fraction(0), 0, 0
    for seed in range(40):
        network = Linear([0.05, 0.3, 0.8][seed % 3], seed)
        expected = exact(run, network, is_pooled)
        network.n_seen = 0
        found = validation.score(network, best)
        assert found == (expected if expected >= best else None)
        if found is None:
            n_down, n_seen = n_down + 1, n_seen + network.n_seen
        else:
            assert network.n_seen == n_samples
            best = found
    if n_samples > 200:
        assert 0 < n_down and n_seen < 0.5 * n_down * n_samples


class Answers(torch.nn.Module):
    """A network that is right on so many samples of each domain."""

    def __init__(self, n_right):
        super().__init__()
        self.n_right = n_right

    def predict(self, x):
        env, place = x[:, 0].long(), x[:, 1]
        right = place < torch.tensor(self.n_right)[env]
        return torch.stack([right.float(), 1 - right.float()], 1)


@pytest.mark.parametrize("n_domains, n", [(3, 22), (5, 33), (3, 49)])
def test_no_exact_tie_is_taken_for_a_drop(n_domains, n):
    envs = range(n_domains)
    place = torch.arange(n).float()
    domains = [
        TensorDataset(torch.stack([torch.full((n,), float(e)), place], 1), torch.zeros(n).long())
        for e in envs
    ]
    outs = [list(range(n))] * n_domains
    run = SimpleNamespace(
        train_envs=list(envs),
        splits=[SimpleNamespace(out=out) for out in outs],
        evaluator=Evaluator(domains, {e: {"out": outs[e]} for e in envs}, "cpu"),
    )
    rng, n_unequal = random.Random(0), 0
    for _ in range(60):
        counts = [rng.randint(1, n - 1) for _ in envs]
        moved = [counts[0] + 1, counts[1] - 1, *counts[2:]]  # as many in all
        a, b = (sum(c / n for c in some) / n_domains for some in (counts, moved))
        n_unequal += a != b
        validation = Validation(run, is_pooled=False)
        best = validation.score(Answers(counts), Fraction(0))
        assert validation.score(Answers(moved), best) == best
        assert validation.score(Answers([counts[0] - 1, *counts[1:]]), best) is None
    assert n_unequal > 0  # which floats would have taken for drops or gains
