"""Names of backbones: as timm and the hub write them; unknown ones get a few that are near."""

import pytest
import torch

from domainbed import hparams_registry, networks
from domainbed.networks import foundations, timm_backbone
from domainbed.registry import InputError
from domainbed.scripts import train

pytest.importorskip("timm")
HPARAMS = hparams_registry.default_hparams("ERM", "PACS")
SHAPE = (3, 64, 64)


def names(backbone):
    return {**HPARAMS, "backbone": backbone, "foundation": "random"}


@pytest.mark.parametrize("prefix", ["timm/", "hf_hub:timm/", "hf-hub:timm/"])
def test_a_model_is_known_as_the_hub_writes_it(prefix):
    plain = networks.Featurizer(SHAPE, names("test_resnet.r160_in1k")).state_dict()
    same = networks.Featurizer(SHAPE, names(f"{prefix}test_resnet.r160_in1k")).state_dict()
    assert all(torch.equal(same[name], tensor) for name, tensor in plain.items())
    for hparams in (names(f"{prefix}test_resnet.r160_in1k"), names("test_resnet.r160_in1k")):
        label, _ = foundations._own(networks.backbone_name(SHAPE, hparams), SHAPE, hparams)
        assert label == "timm/test_resnet.r160_in1k"


@pytest.mark.parametrize(
    "asked, near",
    [
        ("ViT-B/16", "vit_base_patch16_224"),
        ("ViT-L/14", "vit_large_patch14_"),
        ("dinov2_vits14", "vit_small_patch14_dinov2"),
        ("clip", "clip"),
        ("ResNet-50", "resnet50"),
        ("resnet 18", "resnet18"),
        ("google/vit-base-patch16-224", "vit_base_patch16_224"),
        ("hf_hub:timm/resnet81", "resnet18"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("Swin-T", "swin_"),
        ("mnist_cn", "mnist_cnn"),
        ("qqqq_zzzz", ""),
    ],
)
def test_unknown_names_get_a_few_near_ones_and_where_the_list_is(asked, near):
    with pytest.raises(InputError, match="Unknown backbone") as told:
        networks.builder(asked)
    said = str(told.value)
    assert len(said) < 400 and "\n" not in said and "timm.list_models()" in said
    assert near in said.partition("Did you mean")[2].partition("?")[0]
    for offered in said.partition("Did you mean")[2].partition("?")[0].replace(" or ", " ").split():
        networks.builder(offered.strip("'"))


def test_names_are_printed_as_they_may_be():
    with pytest.raises(InputError) as told:
        networks.builder("\x1b[31m" + "x" * 10_000)
    assert str(told.value).isprintable() and len(str(told.value)) < 500


@pytest.mark.parametrize("backbone", ["ViT-B/16", "timm/nothing_like_it", "clip"])
def test_an_unknown_backbone_ends_before_a_folder_is_made(tmp_path, capsys, backbone):
    words = f"--dataset RotatedDigits --steps 1 --output_dir {tmp_path / 'run'}".split()
    assert train.main([*words, "--hparams", f'{{"backbone": "{backbone}"}}']) == 2
    assert not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_known_of_words():
    nearest = timm_backbone.nearest
    assert (
        nearest("vitb16", ["vit_small_patch16", "vit_base_patch16", "mlp"])[0] == "vit_base_patch16"
    )
    assert nearest("abc", ["xyz"]) == []
