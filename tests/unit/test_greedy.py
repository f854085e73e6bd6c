"""The lazy greedy search decides as one that measures every average on every sample."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from domainbed.engine.evaluator import Evaluator, acc_key
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

    def id_score(accs):
        values = [accs[acc_key(env, "out")] for env in envs]
        return sum(values) / len(values) if values else 0.0

    return SimpleNamespace(
        train_envs=envs,
        splits=[SimpleNamespace(out=out) for out in outs],
        evaluator=Evaluator(domains, splits, "cpu"),
        id_score=id_score,
    )


def test_an_average_is_turned_down_if_and_only_if_it_falls_short(run):
    validation, n_samples = Validation(run), sum(len(split.out) for split in run.splits)
    best, n_down, n_seen = 0.0, 0, 0
    for seed in range(40):
        network = Linear([0.05, 0.3, 0.8][seed % 3], seed)
        expected = run.id_score(run.evaluator.evaluate(network, splits=("out",)))
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
