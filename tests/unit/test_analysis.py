"""Connectivity, planes, choices and caches, each on small networks or tables written here."""

import csv
import io
import math
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from domainbed.lib import weights as weight_files
from domainbed.registry import InputError
from ratatouille_algorithms import predictions, weights
from ratatouille_algorithms.analysis import connectivity, figures, plane, scaling
from ratatouille_algorithms.analysis.members import in_turn, subsets
from ratatouille_algorithms.scripts.analyze import to_csv


class MLP(torch.nn.Module):
    """A network with a featurizer of one hidden layer."""

    def __init__(self, seed: int = 0, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = torch.nn.Linear(10, width)
            self.featurizer = torch.nn.Sequential(hidden, torch.nn.ReLU())
            self.classifier = torch.nn.Linear(width, 5)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.featurizer(x))


def permuted(network: MLP) -> MLP:
    """The same function, its hidden units in another order."""
    copy, order = MLP(), torch.arange(64).roll(7)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name in ("featurizer.0.weight", "featurizer.0.bias"):
        state[name] = state[name][order]
    state["classifier.weight"] = state["classifier.weight"][:, order]
    copy.load_state_dict(state)
    return copy


@pytest.fixture
def segment(tmp_path):
    """Accuracies between two networks, where the first one is always right."""
    x = torch.randn(400, 10, generator=torch.Generator().manual_seed(1))

    def between(one: MLP, two: MLP) -> list[float]:
        files, mixture = [], MLP()
        with torch.no_grad():
            y = one.predict(x).argmax(1)
        for i, network in enumerate((one, two)):
            files.append(tmp_path / f"{i}.safetensors")
            weight_files.save(files[-1], network.state_dict(), {})

        def measure_all(mixtures):
            for paths, coefficients in mixtures:
                weights.combine(paths, coefficients, mixture.state_dict())
                with torch.no_grad():
                    yield {"ood": mixture.predict(x).argmax(1).eq(y).double().mean().item()}

        return connectivity.curve(lambda some: list(measure_all(some)), tuple(files))["ood"]

    return between


def test_a_network_is_connected_with_itself(segment):
    accs = segment(MLP(), MLP())
    assert accs == [1.0] * 11
    assert connectivity.worst_gap(accs)[0] == 0
    assert not connectivity.is_broken(accs, 400)


def test_a_permuted_copy_is_the_same_function_but_not_connected(segment):
    accs = segment(MLP(), permuted(MLP()))
    assert accs[0] == accs[-1] == 1.0
    gap, at = connectivity.worst_gap(accs)
    assert gap < -0.1 and 0 < at < 10
    assert connectivity.is_broken(accs, 400)


def test_the_worst_gap_is_below_the_chord_not_below_the_ends():
    assert connectivity.chord(0.2, 0.6, [0, 0.5, 1]) == pytest.approx([0.2, 0.4, 0.6])
    gap, at = connectivity.worst_gap([0.2, 0.3, 0.6], [0, 0.5, 1])
    assert (gap, at) == (pytest.approx(-0.1), 1)
    assert connectivity.worst_gap([0.2, 0.5, 0.6], [0, 0.5, 1])[0] == 0
    # published, OfficeHome-Art between two near tasks, and TerraInc between L100 and RxRx1
    assert not connectivity.is_broken([0.607, 0.662, 0.602], 2427, [0, 0.5, 1])
    assert connectivity.is_broken([0.611, 0.398, 0.519], 4741, [0, 0.5, 1])
    with pytest.raises(InputError, match="3 points"):
        connectivity.worst_gap([0.2, 0.5], [0, 0.5, 1])


def test_a_gap_within_two_standard_errors_is_not_called_broken():
    accs = [0.5, 0.45, 0.5]  # the error at 0.45 is 0.0497 for 100 samples, 0.0157 for 1,000
    assert not connectivity.is_broken(accs, 100, [0, 0.5, 1])
    assert connectivity.is_broken(accs, 1000, [0, 0.5, 1])


def test_corners_keep_distances_and_shares_find_the_corners(tmp_path):
    vectors = [torch.randn(30, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file, vector in zip(files, vectors):
        weight_files.save(file, {"a": vector[:20].view(4, 5), "b": vector[20:]}, {})
    squared = plane.squared_distances(files)
    points = plane.corners(squared)
    for i, j in combinations(range(3), 2):
        distance = (vectors[i] - vectors[j]).norm().item()
        assert math.sqrt(squared[i, j]) == pytest.approx(distance, rel=1e-5)
        assert math.dist(points[i], points[j]) == pytest.approx(distance, rel=1e-5)
    for i, (x, y) in enumerate(points):
        assert plane.shares(x, y, points) == pytest.approx([float(k == i) for k in range(3)])
    middle = [sum(values) / 3 for values in zip(*points)]
    assert plane.shares(*middle, points) == pytest.approx([1 / 3] * 3)


def test_three_on_a_line_span_no_plane():
    on_a_line = torch.tensor([[0.0, 1, 4], [1, 0, 1], [4, 1, 0]]).double()
    with pytest.raises(InputError, match="line"):
        plane.corners(on_a_line)
    with pytest.raises(InputError, match="same"):
        plane.corners(torch.zeros(3, 3))


def test_subsets_are_all_or_some_and_always_the_same():
    assert subsets(4, 2, 6) == list(combinations(range(4), 2))
    some = subsets(20, 5, 7)
    assert some == subsets(20, 5, 7) and len(set(some)) == 7
    assert all(len(set(members)) == 5 and max(members) < 20 for members in some)


def test_sizes_and_steps_hold_both_ends():
    assert scaling.sizes(5) == [1, 2, 3, 4, 5]
    assert scaling.sizes(20)[0] == 1 and scaling.sizes(20)[-1] == 20
    assert len(scaling.sizes(60)) <= scaling.N_SIZES
    assert scaling.spread(3, 11) == [0, 1, 2]
    assert scaling.spread(101, 11) == list(range(0, 101, 10))


def test_pairs_are_taken_of_all_initialisations_in_turn():
    members = [SimpleNamespace(init=init) for init in "aaabbc"]
    unlike = [pair for pair in combinations(members, 2) if pair[0].init != pair[1].init]
    pairs, of_pairs = in_turn(unlike, 3)
    assert of_pairs == len(unlike) == 11
    assert sorted(one.init + two.init for one, two in pairs) == ["ab", "ac", "bc"]
    assert in_turn(unlike, 100)[0][:3] == pairs and len(in_turn(unlike, 100)[0]) == 11


def fake_run(x: torch.Tensor) -> SimpleNamespace:
    """What predictions ask of a run: two domains in memory."""
    domains = [TensorDataset(x, torch.zeros(len(x), dtype=torch.long) + i) for i in range(2)]
    return SimpleNamespace(
        environments=domains,
        env_names=["one", "two"],
        device="cpu",
        num_workers=0,
        options=SimpleNamespace(dataset="Fake"),
    )


@pytest.mark.parametrize("n_features", [1000, 100, 7])
def test_predictions_are_the_networks_own_in_the_order_of_keys(n_features, monkeypatch):
    monkeypatch.setattr(predictions, "N_FEATURES", n_features)
    x, network = torch.randn(600, 10), MLP()
    keys = {0: [5, 3, 300], 1: list(range(599, -1, -1))}  # the second takes several batches
    found = predictions.predict(network, fake_run(x), keys)
    ordered = torch.cat([x[keys[0]], x[keys[1]]])
    with torch.no_grad():
        torch.testing.assert_close(found.logits, network.predict(ordered))
        stride = math.ceil(603 / n_features)
        torch.testing.assert_close(found.features, network.featurizer(ordered)[::stride])
    assert len(found.features) <= n_features
    assert found.env.tolist() == found.y.tolist() == [0] * 3 + [1] * 600
    assert network.training and not network.featurizer._forward_hooks


def test_networks_are_predicted_together_as_alone():
    networks, run = [MLP(seed) for seed in range(3)], fake_run(torch.randn(300, 10))
    keys = {0: range(200), 1: range(300)}
    for one, network in zip(predictions.predict_each(networks, run, keys), networks):
        alone = predictions.predict(network, run, keys)
        for name, tensor in vars(alone).items():
            assert torch.equal(getattr(one, name), tensor)


def test_a_cache_is_used_only_under_its_own_key(tmp_path):
    path, network, run = tmp_path / "p.safetensors", MLP(), fake_run(torch.randn(20, 10))
    found = {"id": predictions.predict(network, run, {0: [1, 2]})}
    predictions.save(path, "key", found)
    again = predictions.load(path, "key")
    assert torch.equal(again["id"].logits, found["id"].logits)
    assert torch.equal(again["id"].features, found["id"].features)
    assert predictions.load(path, "other key") is None
    assert predictions.load(Path(tmp_path / "missing"), "key") is None
    path.write_bytes(path.read_bytes()[:50])
    assert predictions.load(path, "key") is None


def test_a_fingerprint_tells_splits_and_preprocessing_apart():
    x = torch.randn(20, 10)
    key = predictions.fingerprint(fake_run(x), {0: [1, 2], 1: [3]})
    assert key == predictions.fingerprint(fake_run(x.clone()), {0: [1, 2], 1: [3]})
    assert key != predictions.fingerprint(fake_run(x), {0: [1, 4], 1: [3]})
    assert key != predictions.fingerprint(fake_run(2 * x), {0: [1, 2], 1: [3]})


def rows_of(accs: dict[str, list[float]], n: int = 100) -> list[dict]:
    return [
        {"dataset": "D", "test_domain": domain, "x": 0, "acc": acc, "subset": i, "n_samples": n}
        for domain, some in accs.items()
        for i, acc in enumerate(some)
    ]


def test_means_over_domains_have_the_error_of_their_samples():
    rows = rows_of({"a": [0.5, 0.5], "b": [0.9, 0.7]})
    _, (mean,), (error,) = figures.mean_over_domains(rows, "x")
    assert mean == pytest.approx(65)
    assert error == pytest.approx(100 * math.sqrt(0.25 / 100 + 0.16 / 100) / 2)


def test_a_spread_is_over_draws_of_means_over_targets():
    rows = rows_of({"a": [0.5, 0.7], "b": [0.9, 0.5]})
    _, (mean,), (error,) = figures.spread_over(rows, "x", lambda row: row["subset"])
    assert (mean, error) == (pytest.approx(65), pytest.approx(5))


def test_csv_leaves_what_is_no_number_empty():
    rows = [{"a": 1, "b": math.nan}, {"a": 0.1, "c": "text, with comma"}]
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert read == [
        {"a": "1", "b": "", "c": ""},
        {"a": "0.1", "b": "", "c": "text, with comma"},
    ]
