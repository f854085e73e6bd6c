"""Networks."""

import sys

import pytest
import torch

from domainbed import hparams_registry, networks
from domainbed.registry import InputError

HPARAMS = hparams_registry.default_hparams("ERM", "PACS")


def features(input_shape, **hparams):
    net = networks.Featurizer(input_shape, {**HPARAMS, "foundation": "random", **hparams})
    out = net.eval()(torch.zeros(2, *input_shape))
    assert out.shape == (2, net.n_outputs)
    return net


def test_the_input_chooses_the_backbone():
    assert features((7,)).n_outputs == 256
    assert features((1, 28, 28)).n_outputs == 128
    assert features((3, 32, 32)).n_outputs == 128
    assert features((3, 64, 64), resnet18=True).n_outputs == 512
    assert networks.backbone_name((3, 224, 224), HPARAMS) == "resnet50"


def test_asking_for_resnet18_gives_resnet18_by_either_name():
    for hparams in ({"resnet18": True, "resnet50_augmix": True}, {"backbone": "resnet18"}):
        assert "network.layer1.0.conv1.weight" in features((3, 32, 64), **hparams).state_dict()


@pytest.mark.parametrize("name", ["resnet18", "test_resnet"])
def test_frozen_batchnorm_does_not_move_and_free_does(name):
    if name == "test_resnet":
        pytest.importorskip("timm")
    for is_frozen in (True, False):
        net = features((3, 32, 64), backbone=name, freeze_bn=is_frozen)
        net.train()
        before = net.network.bn1.running_mean.clone()
        net(torch.randn(4, 3, 32, 64))
        assert torch.equal(before, net.network.bn1.running_mean) == is_frozen


def test_dropout_is_after_the_network_and_off_in_evaluation():
    net = features((3, 32, 64), resnet18=True, resnet_dropout=0.5)
    x = torch.randn(2, 3, 32, 64)
    assert torch.equal(net(x), net.network(x))
    assert 0.3 < (net.train()(x) == 0).float().mean() < 0.7


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_numbers_of_channels_keep_the_response_to_grey(channels):
    conv = torch.nn.functional.conv2d
    filters, grey = torch.randn(4, 3, 3, 3), torch.randn(1, 1, 5, 5)
    adapted = networks.backbones.adapt_filters(filters, channels)
    torch.testing.assert_close(
        conv(grey.repeat(1, 3, 1, 1), filters), conv(grey.repeat(1, channels, 1, 1), adapted)
    )


def test_resnets_take_other_numbers_of_channels():
    assert features((2, 32, 64), resnet18=True).network.conv1.weight.shape == (64, 2, 7, 7)


def test_classifiers_are_linear_or_have_two_hidden_layers():
    assert isinstance(networks.Classifier(16, 5), torch.nn.Linear)
    shapes = [tuple(p.shape) for p in networks.Classifier(16, 5, True).parameters() if p.ndim == 2]
    assert shapes == [(8, 16), (4, 8), (5, 4)]


def test_context_nets_keep_the_size_of_images():
    assert networks.ContextNet((3, 12, 9))(torch.randn(2, 3, 12, 9)).shape == (2, 1, 12, 9)


def test_mlps_take_width_and_depth_from_the_hparams():
    mlp = features((2, 3), backbone="mlp", mlp_width=8, mlp_depth=4)
    shapes = [tuple(p.shape) for p in mlp.parameters() if p.ndim == 2]
    assert shapes == [(8, 6), (8, 8), (8, 8), (8, 8)]


def test_unknown_backbones_and_unfit_inputs_are_told():
    with pytest.raises(InputError, match="takes images"):
        features((5,), backbone="resnet18")
    pytest.importorskip("timm")
    with pytest.raises(InputError, match="'resnet18'"):
        features((3, 64, 64), backbone="resnet1888")
    with pytest.raises(InputError, match="takes images"):
        features((5,), backbone="test_vit")
    with pytest.raises(InputError, match="choose another backbone or image_size"):
        features((3, 8, 8), backbone="test_vit")


def test_models_of_timm_take_the_size_and_dropout_of_their_kind():
    pytest.importorskip("timm")
    dropouts = {"vit_dropout": 0.1, "resnet_dropout": 0.5}
    assert features((3, 32, 48), backbone="test_vit", **dropouts).dropout.p == 0.1
    assert features((1, 48, 48), backbone="test_convnext", **dropouts).dropout.p == 0.5
    # what comes out is wider than the last stage, which timm calls num_features
    assert features((3, 32, 48), backbone="mobilenetv3_small_050").n_outputs == 1024


def test_dinov2_is_a_vit_so_both_flags_may_be_true():
    for wanted, flags in {"vit": ["vit"], "dinov2": ["vit", "dinov2"]}.items():
        hparams = {**HPARAMS, **dict.fromkeys(flags, True)}
        assert networks.backbone_name((3, 224, 224), hparams) == wanted


def test_without_timm_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"domainbed-ratatouille\[timm\]"):
        features((3, 64, 64), backbone="vit")
