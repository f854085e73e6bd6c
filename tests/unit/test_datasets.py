"""Datasets: names, folders, damaged files, embedded digits."""

import logging

import numpy as np
import pytest
import torch
from conftest import write_images
from PIL import Image

from domainbed import datasets
from domainbed.datasets import digits
from domainbed.datasets.base import evaluation_view
from domainbed.datasets.mnist import PARTS, file_of, read_idx
from domainbed.registry import InputError

PLAIN = {"data_augmentation": True, "image_size": 32}
DIGITS = ["RotatedDigits", "InkDigits", "NoisyDigits", "PlacedDigits"]


def test_golden_names_and_attributes(golden):
    assert datasets.DATASETS == golden["DATASETS"]
    for name in datasets.DATASETS:
        if name in datasets.REGISTRY:
            cls = datasets.get_dataset_class(name)
            shape = golden["input_shape"][name]
            assert datasets.environments(name) == golden["environments"][name]
            assert (cls.N_STEPS, cls.CHECKPOINT_FREQ) == (
                golden["n_steps"][name],
                golden["checkpoint_freq"][name],
            )
            assert shape is None or list(cls.INPUT_SHAPE) == shape


def test_every_class_can_be_imported_by_name():
    assert datasets.PACS is datasets.get_dataset_class("PACS")
    with pytest.raises(AttributeError):
        _ = datasets.PACSS


def test_no_scan_is_in_two_digit_datasets_or_domains():
    used = np.concatenate([digits.keys(name) for name in DIGITS])
    assert sorted(used) == list(range(1797))
    for name in DIGITS:
        assert sum(map(len, datasets.make(name, None, [], {}))) == len(digits.keys(name))


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_deterministic_images_in_range(name):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = (datasets.make(name, None, [0], {}) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert len(one) == 4 and one.input_shape == (1, 28, 28)
    for a, b in zip(one, two):
        assert torch.equal(a.tensors[0], b.tensors[0]) and torch.equal(a.tensors[1], b.tensors[1])
        assert a.tensors[0].min() >= 0 and a.tensors[0].max() <= 1
        assert set(a.tensors[1].tolist()) == set(range(one.num_classes))


def test_folders_have_domains_in_order_and_labels_by_class(photos):
    pacs = datasets.make("PACS", str(photos), [0], PLAIN)
    assert (len(pacs), pacs.input_shape, pacs.num_classes) == (4, (3, 32, 32), 7)
    x, y = pacs[0][0]
    assert x.shape == (3, 32, 32) and x.dtype == torch.float32 and y == 0
    n = len(pacs[1]) // 7
    assert pacs[1].targets == [label for label in range(7) for _ in range(n)]


def test_training_domains_are_augmented_and_their_evaluation_is_not(photos):
    pacs = datasets.make("PACS", str(photos), [0], PLAIN)
    for env, is_augmented in ((0, False), (1, True)):
        differs = not torch.equal(pacs[env][3][0], pacs[env][3][0])
        assert differs == is_augmented
        view = evaluation_view(pacs[env])
        assert torch.equal(view[3][0], view[3][0])


def test_any_folder_is_a_dataset(tmp_path):
    write_images(tmp_path / "Mine", ["night", "day", "dusk"], n=3)
    assert datasets.environments("Mine", str(tmp_path)) == ["day", "dusk", "night"]
    assert len(datasets.make("Mine", str(tmp_path), [2], PLAIN)) == 3
    for name in ("Mine2", "..", ""):
        with pytest.raises(InputError, match="folder of that name"):
            datasets.find(name, str(tmp_path))


def test_strays_are_reported_and_never_labels(tmp_path, caplog):
    write_images(tmp_path / "PACS", ["art_painting", "cartoon", "photo", "sketch"], n=3)
    (tmp_path / "PACS" / "readme.txt").write_text("")
    (tmp_path / "PACS" / "junk").mkdir()
    (tmp_path / "PACS" / "photo" / "empty").mkdir()
    (tmp_path / "PACS" / "photo" / "cat" / "Thumbs.db").write_text("")
    with caplog.at_level(logging.WARNING):
        pacs = datasets.make("PACS", str(tmp_path), [], PLAIN)
    assert (len(pacs), pacs.num_classes, len(pacs[2])) == (4, 2, 6)
    assert "4 files or folders" in caplog.text


@pytest.mark.parametrize("damage", ["classes", "domain", "folder"])
def test_what_is_missing_is_named(damage, tmp_path):
    write_images(tmp_path / "PACS", ["art_painting", "cartoon", "photo", "sketch"], n=2)
    moves = {
        "classes": ("PACS/photo/cat", "PACS/photo/cow"),
        "domain": ("PACS/photo", "PACS/other"),
        "folder": ("PACS", "other"),
    }
    old, new = moves[damage]
    (tmp_path / old).rename(tmp_path / new)
    told = {"classes": "cow", "domain": "photo", "folder": "PACS"}[damage]
    with pytest.raises(InputError, match=told):
        datasets.check("PACS", str(tmp_path))


@pytest.mark.parametrize("kind", ["png", "jpg", "text", "empty"])
def test_an_image_that_does_not_decode_is_named(kind, tmp_path):
    write_images(tmp_path / "Mine", ["a", "b"], n=2)
    bad = tmp_path / "Mine" / "b" / "cat" / ("bad.jpg" if kind == "jpg" else "bad.png")
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)).save(bad)
    content = bad.read_bytes()
    cut = {"text": b"no image", "empty": b""}.get(kind, content[: len(content) // 2])
    bad.write_bytes(cut)
    with pytest.raises(InputError, match="bad"):
        datasets.make("Mine", str(tmp_path), [], PLAIN)


def test_test_envs_out_of_range_are_told():
    with pytest.raises(InputError, match="0 to 3"):
        datasets.make("RotatedDigits", None, [4], {})
    assert len(datasets.make("RotatedDigits", None, [-1], {})) == 4


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.RandomState(0)
    for part, n in (("train", 60), ("t10k", 12)):
        pixels = rng.randint(0, 255, (n, 28, 28), np.uint8)
        head = np.array([0x803, n, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8)
        head = np.array([0x801, n], ">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return tmp_path


def test_mnist_domains_are_a_partition_by_the_global_generator(mnist):
    for name, shape in (("RotatedMNIST", (1, 28, 28)), ("ColoredMNIST", (2, 28, 28))):
        sets = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            sets.append(datasets.make(name, str(mnist), [0], {}))
        assert sets[0].input_shape == shape and sum(map(len, sets[0])) == 72
        assert torch.equal(sets[0][1].tensors[0], sets[1][1].tensors[0])
        assert not torch.equal(sets[0][1].tensors[0], sets[2][1].tensors[0])
    with pytest.raises(InputError, match="MNIST"):
        datasets.check("RotatedMNIST", str(mnist / "elsewhere"))


def test_files_of_mnist_are_read_as_torchvision_does(mnist):
    from torchvision.datasets import MNIST

    for part, theirs in zip(PARTS, (MNIST(mnist, train=True), MNIST(mnist, train=False))):
        assert torch.equal(read_idx(file_of(mnist, part, "images")), theirs.data)
        assert torch.equal(read_idx(file_of(mnist, part, "labels")).long(), theirs.targets)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b"\x01" + b[1:], lambda b: b[:6]])
def test_damaged_files_of_mnist_are_told(mnist, spoil):
    for part, what in (("train", "images"), ("t10k", "labels")):
        file = file_of(mnist, part, what)
        whole = file.read_bytes()
        file.write_bytes(spoil(whole))
        with pytest.raises(InputError, match=f"cannot be read .*{file.name}"):
            datasets.make("RotatedMNIST", str(mnist), [0], {})
        file.write_bytes(whole)
    labels = file_of(mnist, "train", "labels")
    labels.write_bytes(file_of(mnist, "t10k", "labels").read_bytes())
    with pytest.raises(InputError, match="72 images have 24 labels"):
        datasets.make("RotatedMNIST", str(mnist), [0], {})


def test_a_colour_fills_one_channel(mnist):
    colored = datasets.make("ColoredMNIST", str(mnist), [], {})
    for environment in colored:
        filled = (environment.tensors[0].sum((2, 3)) > 0).sum(1)
        assert set(filled.tolist()) == {1}


def test_a_link_must_stay_in_its_dataset(tmp_path):
    home = tmp_path / "data" / "Mine"
    write_images(home, ["a", "b"], n=2, size=8)
    datasets.check("Mine", str(tmp_path / "data"))
    inside = home / "a" / "cat" / "again"
    inside.symlink_to(home / "a" / "dog")
    cls = datasets.find("Mine", str(tmp_path / "data"))
    assert len(cls.listing(str(tmp_path / "data")).samples[0]) == 6
    inside.unlink()
    for target, told in ((tmp_path, "outside of"), (home / "a", "that it is in")):
        inside.symlink_to(target)
        with pytest.raises(InputError, match=told) as error:
            datasets.check("Mine", str(tmp_path / "data"))
        assert str(inside) in str(error.value)
        inside.unlink()
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    datasets.check("Mine", str(tmp_path / "linked"))
