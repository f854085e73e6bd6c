"""Featurizers compiled by torch.compile train as they do without, to rounding."""

import copy
import json

import digit_algorithms
import pytest
import torch
from digit_algorithms import N_CLASSES, N_DOMAINS, SHAPE

from domainbed import algorithms, hparams_registry, testing
from domainbed.engine import compiling
from domainbed.lib import weights
from domainbed.registry import InputError
from domainbed.scripts import sweep, train

CPU = torch.device("cpu")
REFUSED = "IGA"
QUICK = ["ANDMask", "ARM", "ERMPlusPlus", "Fishr", "MLDG", "RSC", "TRM"]
"""Those that differentiate, copy or call their networks in ways of their own."""


@pytest.fixture(autouse=True)
def forgotten():
    """Graphs of one test are no other one's."""
    yield
    torch.compiler.reset()


def build(name):
    """An algorithm whose featurizers are compiled."""
    algorithm = digit_algorithms.build(name)
    compiling.compile_featurizers(algorithm, CPU)
    return algorithm


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are compiled, which compute what they are made of, for the sake of time."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return seen


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in algorithms.ALGORITHMS
        if name != REFUSED
    ],
)
def test_every_algorithm_steps_as_it_does_without(name, graphs):
    batches = testing.minibatches(0, SHAPE, N_CLASSES, N_DOMAINS, size=4)
    plain, compiled = digit_algorithms.build(name), build(name)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    graphs.clear()
    values = testing.update(compiled, 0, batches)
    assert graphs
    assert values == pytest.approx(testing.update(plain, 0, batches), rel=1e-4, abs=1e-6)
    with torch.no_grad():
        logits = []
        for algorithm in (compiled, plain):
            torch.manual_seed(0)  # MTL's predictions draw
            logits.append(algorithm.eval().predict(batches[0][0]))
        torch.testing.assert_close(*logits)


def test_batches_of_any_size_share_a_graph(graphs):
    erm = build("ERM").eval()
    graphs.clear()
    n_graphs = []
    for n in (16, 17, 64):  # of fewer images another kernel convolves
        erm.predict(torch.zeros(n, *SHAPE))
        n_graphs.append(len(graphs))
    assert n_graphs[0] == n_graphs[-1] > 0


def test_a_copy_computes_with_its_own_weights(graphs):
    erm = build("ERM")
    twin = copy.deepcopy(erm)
    x = testing.minibatches(0, SHAPE, N_CLASSES, 1)[0][0]
    torch.testing.assert_close(erm.predict(x), twin.predict(x))
    with torch.no_grad():
        twin.featurizer.conv1.weight.zero_()
    assert not torch.allclose(erm.predict(x), twin.predict(x))


def test_what_cannot_be_compiled_is_refused_in_one_line(monkeypatch, tmp_path, capsys):
    with pytest.raises(InputError, match="IGA differentiates its featurizer twice"):
        build(REFUSED)
    words = ["launch", "--compile", "--datasets", "Debug28", "--algorithms", "ERM", REFUSED]
    words += ["--output_dir", str(tmp_path / "sweep"), "--skip_confirmation", "--n_hparams", "1"]
    words += ["--hparams", '{"batch_size": 4}']
    assert sweep.main(words) == 2
    assert capsys.readouterr().err.startswith("error: --compile was given, but IGA")
    assert not list((tmp_path / "sweep").glob("*/*"))

    def broken(graph, inputs):
        raise RuntimeError("no compiler\nsecond line")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    with pytest.raises(InputError, match=r"nothing can be compiled here: .*no compiler") as raised:
        build("ERM")
    assert "\n" not in str(raised.value)


def test_flat_inputs_have_no_featurizer_to_compile():
    hparams = hparams_registry.default_hparams("ERM", "Debug28")
    erm = algorithms.get_algorithm_class("ERM")((7,), 2, 2, hparams)
    with pytest.raises(InputError, match="--compile was given, but ERM has no featurizer"):
        compiling.compile_featurizers(erm, CPU)


@pytest.mark.parametrize("is_bf16", [False, True])
def test_a_compiled_run_says_so_and_repeats(is_bf16, tmp_path):
    words = ["--dataset", "Debug28", "--steps", "3", "--hparams", '{"batch_size": 4}']
    words += ["--precision", "bf16"] if is_bf16 else []
    seen = {}
    for name, more in (("a", ["--compile"]), ("b", ["--compile"]), ("c", [])):
        folder = tmp_path / name
        assert train.main([*words, "--output_dir", str(folder), *more]) == 0
        state, header = weights.read(folder / "model.safetensors")
        record = json.loads((folder / "results.jsonl").read_text().splitlines()[-1])
        assert header["args"].get("compile") == record["args"].get("compile")
        seen[name] = weights.content_hash(state), record["loss"], record["args"].get("compile")
    assert seen["a"] == seen["b"] and seen["a"][2] is True and seen["c"][2] is None
    assert seen["a"][1] == pytest.approx(seen["c"][1], rel=0.02 if is_bf16 else 1e-3)


def test_a_compiled_probe_passes_features_on(graphs, tmp_path):
    words = ["--dataset", "Debug28", "--steps", "3", "--hparams", '{"batch_size": 4}']
    words += ["--what_is_trainable", "classifier"]
    losses = []
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        folder = tmp_path / name
        assert not graphs
        assert train.main([*words, "--output_dir", str(folder), *more]) == 0
        losses.append(json.loads((folder / "results.jsonl").read_text().splitlines()[-1])["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(graphs) > 1  # that of the check, and the featurizer's
