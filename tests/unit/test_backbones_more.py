"""Every backbone: its tensors' names, what trains in it, and what hparams may not be combined."""

import functools

import pytest
import torch
from torch import nn

from domainbed import algorithms, hparams_registry, networks, testing
from domainbed.lib import weights
from domainbed.lib.wide_resnet import Wide_ResNet
from domainbed.networks import foundations, timm_backbone
from domainbed.registry import InputError

HPARAMS = {**hparams_registry.default_hparams("ERM", "PACS"), "foundation": "random"}


def build(input_shape, **hparams):
    return networks.Featurizer(input_shape, {**HPARAMS, **hparams})


def trained(net, x):
    """The names of parameters that a loss on all features gives a gradient."""
    net.train()(x).square().sum().backward()
    return {name for name, p in net.named_parameters() if p.grad is not None}


def names(net):
    return {name for name, _ in net.named_parameters()}


BACKBONES = {
    "mlp": ((6,), {}, 256),
    "mnist_cnn": ((2, 28, 28), {}, 128),
    "wide_resnet": ((3, 32, 32), {}, 128),
    "resnet18": ((3, 64, 48), {"resnet18": True}, 512),
    "resnet50": ((3, 64, 48), {}, 2048),
    "efficientnet_lite0": ((3, 64, 48), {"backbone": "efficientnet_lite0"}, 1280),
    "test_vit": ((3, 32, 48), {"backbone": "test_vit"}, 64),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_all_of_a_backbone_trains(name):
    shape, hparams, n_outputs = BACKBONES[name]
    if name in ("efficientnet_lite0", "test_vit"):
        pytest.importorskip("timm")
    assert networks.backbone_name(shape, {**HPARAMS, **hparams}) == name
    net = build(shape, **hparams)
    x = torch.randn(4, *shape)
    assert net.eval()(x).shape == (4, n_outputs) and net.n_outputs == n_outputs
    assert torch.equal(net(x), net(x)) and net.foundation == "random"
    assert trained(net, x) == names(net)


# in their networks' own order, as public DomainBed's state dicts have them
FIRST = {
    "mnist_cnn": ["conv1.weight", "conv1.bias", "conv2.weight"],
    "wide_resnet": ["conv1.weight", "conv1.bias", "layer1.0.bn1.weight", "layer1.0.bn1.bias"],
    "resnet18": ["network.conv1.weight", "network.bn1.weight", "network.bn1.bias"],
    "resnet50": ["network.conv1.weight", "network.bn1.weight", "network.bn1.bias"],
}
LAST = {"mnist_cnn": "bn3.bias", "wide_resnet": "bn1.num_batches_tracked"}
N_TENSORS = {"mnist_cnn": 16, "wide_resnet": 97, "resnet18": 120, "resnet50": 318}


@pytest.mark.parametrize("name", FIRST)
def test_tensors_are_named_as_public_domainbeds(name):
    shape, hparams, _ = BACKBONES[name]
    found = list(build(shape, **hparams).state_dict())
    assert found[: len(FIRST[name])] == FIRST[name] and len(found) == N_TENSORS[name]
    if name in LAST:
        assert found[-1] == LAST[name]
    else:
        assert not any(key.startswith("network.fc") for key in found)
        assert "network.layer4.1.conv2.weight" in found


def test_a_nonlinear_classifiers_tensors_are_those_of_a_sequence():
    net = networks.Classifier(8, 3, is_nonlinear=True)
    assert [key for key in net.state_dict() if "weight" in key] == [
        "0.weight", "2.weight", "4.weight"
    ]  # fmt: skip
    erm = algorithms.get_algorithm_class("ERM")
    hparams = {**HPARAMS, "nonlinear_classifier": True}
    assert "classifier.4.bias" in erm((6,), 3, 2, hparams).state_dict()


@pytest.mark.parametrize("depth, message", [(16, None), (22, None), (17, r"6 n \+ 4")])
def test_wide_resnets_take_depths_of_six_n_plus_four(depth, message):
    if message is None:
        net = Wide_ResNet((1, 8, 8), depth, 1, 0.0)
        assert len(net.layer1) == (depth - 4) // 6
        assert net(torch.randn(2, 1, 8, 8)).shape == (2, 64)
    else:
        with pytest.raises(ValueError, match=message):
            Wide_ResNet((1, 8, 8), depth, 1, 0.0)


def test_frozen_batchnorm_keeps_its_statistics_but_trains_its_weights():
    net, x = build((3, 64, 48), resnet18=True, freeze_bn=True), torch.randn(2, 3, 64, 48)
    statistics = {k: v.clone() for k, v in net.named_buffers()}
    assert "network.bn1.weight" in trained(net, x)
    assert all(torch.equal(v, statistics[k]) for k, v in net.named_buffers())
    frozen = [m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(frozen) == 20 and not any(frozen)


def test_dropout_is_the_resnets_or_the_vits():
    pytest.importorskip("timm")
    both = {"resnet_dropout": 0.5, "vit_dropout": 0.1}
    assert build((3, 64, 48), resnet18=True, **both).dropout.p == 0.5
    assert build((3, 32, 48), backbone="test_vit", **both).dropout.p == 0.1


def test_attention_alone_trains_on_request():
    pytest.importorskip("timm")
    net = build((3, 32, 48), backbone="test_vit", vit_attn_tune=True)
    attention = {name for name in names(net) if ".attn." in name}
    assert trained(net, torch.randn(2, 3, 32, 48)) == attention
    hparams = {**HPARAMS, "backbone": "test_vit", "vit_attn_tune": True, "weight_decay": 0.1}
    erm = algorithms.get_algorithm_class("ERM")((3, 32, 48), 4, 3, hparams)
    before = {name: p.clone() for name, p in erm.named_parameters()}
    testing.update(erm, 0, testing.minibatches(0, (3, 32, 48), 4, 3))
    moved = {name for name, p in erm.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {f"featurizer.{name}" for name in attention} | {
        "classifier.weight", "classifier.bias"
    }  # fmt: skip


@functools.cache
def dinov2():
    pytest.importorskip("timm")
    return build((3, 28, 42), dinov2=True, vit=True, vit_attn_tune=True, vit_dropout=0.5)


def test_dinov2_gives_four_class_tokens_and_the_mean_patch():
    net, x = dinov2().eval(), torch.randn(2, 3, 28, 42)
    with torch.no_grad():
        features = net(x).split(768, 1)
        tokens = net.network.forward_features(x)  # of the last block, normalised
    assert net.n_outputs == 3840 and len(features) == 5
    torch.testing.assert_close(features[3], tokens[:, 0])
    torch.testing.assert_close(features[4], tokens[:, 1:].mean(1))
    assert tokens.shape[1] == 1 + 2 * 3


def test_dinov2_trains_its_attention_and_is_named_as_its_authors_do():
    net = dinov2()
    trainable = [name for name, p in net.named_parameters() if p.requires_grad]
    assert len(trainable) == 48 and len(net.state_dict()) == 174  # as in public DomainBed
    assert all(".attn." in name for name in trainable)
    assert trainable[0] == "network.blocks.0.attn.qkv.weight"
    assert net.state_dict()["network.pos_embed"].shape == (1, 1370, 768)
    assert net.dropout.p == 0.5
    theirs = {"network.mask_token": torch.zeros(1, 768), **weights.tensors(net)}
    foundations.load_foreign(net, theirs, "their weights")
    with pytest.raises(InputError, match="1 unexpected"):
        foundations.load_foreign(net, {"network.extra": torch.zeros(1), **theirs}, "theirs")


def test_dinov2_takes_multiples_of_its_patches():
    pytest.importorskip("timm")
    with pytest.raises(InputError, match="divisible by patch size"):
        build((3, 60, 60), dinov2=True)


@pytest.mark.slow
def test_the_vit_of_domainbed():
    pytest.importorskip("timm")
    net = build((3, 48, 32), vit=True)
    assert net.n_outputs == 768 and len(net.state_dict()) == 150
    assert trained(net, torch.randn(2, 3, 48, 32)) == names(net)


@pytest.mark.parametrize(
    "hparams, what",
    [
        ({"vit": True, "resnet18": True}, "vit and resnet18 are both true"),
        ({"dinov2": True, "vit": True, "resnet18": True}, "dinov2 and resnet18 are both true"),
        ({"backbone": "resnet50", "resnet18": True}, "backbone 'resnet50' and resnet18 true"),
        ({"backbone": "vit", "dinov2": True}, "backbone 'vit' and dinov2 true"),
        ({"vit_attn_tune": True}, "backbone is 'resnet50'"),
        ({"vit_attn_tune": True, "resnet18": True}, "backbone is 'resnet18'"),
        ({"vit_attn_tune": True, "backbone": "test_resnet"}, "backbone is 'test_resnet'"),
    ],
)
def test_hparams_that_contradict_each_other_are_told(hparams, what):
    if hparams.get("backbone", "").startswith("test"):
        pytest.importorskip("timm")
    with pytest.raises(InputError, match=what) as error:
        build((3, 64, 48), **hparams)
    assert "\n" not in str(error.value)


def test_a_backbone_may_be_named_twice():
    for hparams in ({"backbone": "resnet18", "resnet18": True}, {"resnet50_augmix": True}):
        name = networks.backbone_name((3, 64, 48), {**HPARAMS, **hparams})
        assert name == hparams.get("backbone", "resnet50")


@pytest.mark.parametrize(
    "hparams, label",
    [
        ({}, "timm/resnet50.ram_in1k"),
        ({"dinov2": True}, f"timm/{timm_backbone.DINOV2}"),
        ({"resnet50_augmix": False}, "torchvision/resnet50.IMAGENET1K_V1"),
        ({"resnet18": True}, "torchvision/resnet18.IMAGENET1K_V1"),
    ],
)
def test_weights_that_cannot_be_had_are_told_in_one_line(monkeypatch, hparams, label):
    pytest.importorskip("timm")

    def offline(*_):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(timm_backbone, "pretrained_state", offline)
    monkeypatch.setattr(foundations, "_torchvision_state", offline)
    with pytest.raises(InputError, match=f"{label} cannot be had.*no route to host") as error:
        build((3, 28, 28 * 2), foundation=None, **hparams)
    assert "--foundation FILE" in str(error.value) and "\n" not in str(error.value)


def test_lars_takes_the_place_of_adam_in_ermplusplus():
    pytest.importorskip("timm")
    space = hparams_registry.default_hparams("ERMPlusPlus", "Debug28")
    steps = {}
    for lars in (False, True):
        hparams = {**space, "lars": lars, "linear_steps": 0}
        torch.manual_seed(0)
        algorithm = algorithms.get_algorithm_class("ERMPlusPlus")((6,), 3, 2, hparams)
        for step in range(2):
            values = testing.update(algorithm, step, testing.minibatches(step, (6,), 3, 2))
        steps[type(algorithm.optimizer).__name__] = values["loss"]
    assert set(steps) == {"Adam", "Lars"} and steps["Adam"] != steps["Lars"]


def test_only_the_classifier_trains_for_linear_steps_more_than_one_update():
    hparams = {**hparams_registry.default_hparams("ERMPlusPlus", "Debug28"), "linear_steps": 1}
    algorithm = algorithms.get_algorithm_class("ERMPlusPlus")((6,), 3, 2, hparams)
    moved = []
    for step in range(3):
        before = weights.content_hash(weights.tensors(algorithm.featurizer))
        testing.update(algorithm, step, testing.minibatches(step, (6,), 3, 2))
        moved.append(before != weights.content_hash(weights.tensors(algorithm.featurizer)))
    assert moved == [False, False, True]


def test_another_mean_of_pretrained_inputs_is_told_once(caplog):
    pytest.importorskip("timm")
    hparams = {"resnet_dropout": 0.0, "vit_dropout": 0.0, "freeze_bn": False}
    shape = (3, 64, 64)
    timm_backbone._warn_of_statistics.cache_clear()
    timm_backbone.create("resnet18.a1_in1k", shape, hparams)
    timm_backbone.create("tf_efficientnet_lite0", shape, {**hparams, "foundation": "random"})
    assert "trained on inputs" not in caplog.text
    for _ in range(2):
        timm_backbone.create("tf_efficientnet_lite0", shape, hparams)
    (line,) = [r.getMessage() for r in caplog.records if "trained on inputs" in r.getMessage()]
    assert "lite0" in line and "mean 0.5, 0.5, 0.5" in line and "0.485, 0.456, 0.406" in line


def test_photos_are_normalised_by_what_the_warning_says():
    from domainbed.datasets.images import IMAGENET_MEAN, IMAGENET_STD

    assert (tuple(IMAGENET_MEAN), tuple(IMAGENET_STD)) == timm_backbone.IMAGENET
