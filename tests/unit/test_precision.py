"""bfloat16 is confined to featurizers and holds for every algorithm."""

import copy
import json
import math

import digit_algorithms
import pytest
import torch
from digit_algorithms import N_CLASSES, N_DOMAINS, SHAPE

from domainbed import algorithms, hparams_registry, networks, testing
from domainbed.engine import precision
from domainbed.lib import weights
from domainbed.networks.backbones import ResNet
from domainbed.networks.folded import FoldedBatchNorm2d, FoldedConv2d
from domainbed.registry import InputError
from domainbed.scripts import train

CPU = torch.device("cpu")


def build(name, is_bf16=True):
    """An algorithm that computes in bf16, or one that does not."""
    algorithm = digit_algorithms.build(name)
    if is_bf16:
        precision.compute_in_bf16(algorithm, CPU)
    return algorithm.to(memory_format=torch.channels_last)


@pytest.fixture
def dtypes(monkeypatch):
    """The types that convolutions and matrix products of layers have computed in."""
    seen = {"conv2d": set(), "linear": set()}
    for cls, name in ((torch.nn.Conv2d, "conv2d"), (torch.nn.Linear, "linear")):
        forward = cls.forward

        def spied(self, x, forward=forward, name=name):
            out = forward(self, x)
            seen[name].add(out.dtype)
            return out

        monkeypatch.setattr(cls, "forward", spied)
    return seen


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_every_algorithm_steps_in_bf16_near_float32(name, dtypes):
    batches = testing.minibatches(0, SHAPE, N_CLASSES, N_DOMAINS, size=4)
    expected = testing.update(build(name, is_bf16=False), 0, batches)
    assert dtypes["conv2d"] == {torch.float32}
    dtypes["conv2d"].clear()
    algorithm = build(name)
    values = testing.update(algorithm, 0, batches)  # checks that they are finite
    assert torch.bfloat16 in dtypes["conv2d"] and dtypes["linear"] == {torch.float32}
    assert all(
        math.isclose(values[key], expected[key], rel_tol=0.1, abs_tol=0.05) for key in expected
    )
    tensors = weights.tensors(algorithm).values()
    assert not any(tensor.dtype == torch.bfloat16 for tensor in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors)
    with torch.no_grad():
        assert algorithm.eval().predict(batches[0][0]).dtype == torch.float32
    assert not torch.is_autocast_cpu_enabled()


def test_a_copy_computes_with_its_own_weights():
    erm = build("ERM")
    twin = copy.deepcopy(erm)
    x = testing.minibatches(0, SHAPE, N_CLASSES, 1)[0][0]
    assert torch.equal(erm.predict(x), twin.predict(x))
    with torch.no_grad():
        twin.featurizer.conv1.weight.zero_()
    assert not torch.equal(erm.predict(x), twin.predict(x))


def test_an_error_within_a_featurizer_ends_bf16():
    erm = build("ERM")
    with pytest.raises(RuntimeError):
        erm.predict(torch.zeros(1, 5, 28, 28))
    assert not torch.is_autocast_cpu_enabled()
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_what_has_no_featurizer_of_images_is_refused_by_name():
    with pytest.raises(InputError, match="Linear has no featurizer"):
        precision.compute_in_bf16(torch.nn.Linear(2, 2), CPU)
    flat = networks.Featurizer((7,), hparams_registry.default_hparams("ERM", "Debug28"))
    with pytest.raises(InputError, match="MLP has no featurizer"):
        precision.compute_in_bf16(flat, CPU)


@pytest.mark.parametrize("n_groups", [8, 16])
def test_norms_of_narrow_groups_compute_as_on_channels_first(n_groups):
    norm = torch.nn.GroupNorm(n_groups, 64)
    torch.nn.init.normal_(norm.weight)
    network = torch.nn.Sequential(norm)
    network.n_outputs = 64
    precision.compute_in_bf16(network, CPU)
    x = torch.randn(4, 64, 7, 7).bfloat16().contiguous(memory_format=torch.channels_last)
    found = []
    for function in (network, lambda x: group_norm(norm, x)):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = function(leaf)
        (first,) = torch.autograd.grad(out.float().square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.float().square().sum(), leaf)
        found.append((out.float(), first, second))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    assert found[0][1].is_contiguous(memory_format=torch.channels_last)


def group_norm(norm, x):
    return torch.nn.functional.group_norm(x.contiguous(), norm.num_groups, norm.weight, norm.bias)


def resnet(is_18, is_frozen, is_folded):
    """In float64, with statistics and weights of norms that are none of their defaults."""
    torch.manual_seed(0)
    hparams = {"resnet18": is_18, "resnet_dropout": 0.0, "freeze_bn": is_frozen}
    network = ResNet((3, 64, 64), hparams).double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_var, module.weight):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.running_mean, module.bias):
                torch.nn.init.normal_(tensor, std=0.1)
    if is_folded:
        precision._fold_frozen_norms(network)  # as bf16 does, but in float64
    return network


@pytest.mark.parametrize(("is_18", "n_convolutions"), [(True, 20), (False, 53)])
def test_a_convolution_does_the_work_of_the_frozen_norm_behind_it(is_18, n_convolutions):
    plain, folded = (resnet(is_18, True, is_folded) for is_folded in (False, True))
    kinds = [type(module) for module in folded.modules()]
    assert kinds.count(FoldedConv2d) == kinds.count(FoldedBatchNorm2d) == n_convolutions
    assert torch.nn.Conv2d not in kinds and torch.nn.BatchNorm2d not in kinds
    state = plain.state_dict()
    assert folded.state_dict().keys() == state.keys()
    folded.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    outs, grads = [], []
    for network in (plain, folded):
        outs.append(network(x))
        grads.append(torch.autograd.grad(outs[-1].square().sum(), network.parameters()))
    torch.testing.assert_close(*outs)
    torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-9)
    twin = copy.deepcopy(folded)
    with torch.no_grad():
        twin.network.bn1.weight.zero_()
    assert torch.equal(folded(x), outs[1]) and not torch.equal(twin(x), outs[1])


@pytest.mark.parametrize("name", ["ERM", "ERMPlusPlus", "ARM"])
def test_bf16_folds_every_resnet_and_keeps_the_inputs_of_relus(name):
    hparams = hparams_registry.default_hparams(name, "PACS")
    hparams |= {"resnet18": True, "resnet50_augmix": False, "foundation": "random"}
    algorithm = algorithms.get_algorithm_class(name)((3, 64, 64), 7, 3, hparams)
    resnets = [module for module in algorithm.modules() if isinstance(module, ResNet)]
    precision.compute_in_bf16(algorithm, CPU)
    assert resnets
    for resnet in resnets:
        modules = list(resnet.modules())
        assert sum(type(module) is FoldedConv2d for module in modules) == 20
        assert not any(module.inplace for module in modules if isinstance(module, torch.nn.ReLU))


def test_norms_that_are_trained_are_left_as_they_are_until_they_are_fixed():
    plain, folded = (resnet(True, False, is_folded) for is_folded in (False, True))
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    assert torch.equal(plain(x), folded(x))
    assert all(map(torch.equal, plain.state_dict().values(), folded.state_dict().values()))
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), folded.eval()(x))
        assert not torch.equal(plain(x), folded(x))


@pytest.mark.parametrize("what", ["all", "classifier"])
def test_a_run_in_bf16_says_so_and_repeats(what, tmp_path):
    words = ["--dataset", "Debug28", "--steps", "3", "--hparams", '{"batch_size": 4}']
    words += ["--what_is_trainable", what]
    seen = {}
    for name, more in (("a", ["bf16"]), ("b", ["bf16"]), ("c", ["float32"])):
        folder = tmp_path / name
        assert train.main([*words, "--output_dir", str(folder), "--precision", *more]) == 0
        state, header = weights.read(folder / "model.safetensors")
        assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
        record = json.loads((folder / "results.jsonl").read_text().splitlines()[-1])
        assert header["args"].get("precision") == record["args"].get("precision")
        seen[name] = weights.content_hash(state), record["loss"], record["args"].get("precision")
    assert seen["a"] == seen["b"] and seen["a"][2] == "bf16" and seen["c"][2] is None
    assert seen["a"][0] != seen["c"][0]
    assert seen["a"][1] == pytest.approx(seen["c"][1], rel=0.02)
