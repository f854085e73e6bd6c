"""Folders that are not <domain>/<class>/<image>, partial copies, names in several Unicode forms."""

import logging
import os
import unicodedata

import pytest
from conftest import DOMAINS, write_images

from domainbed import datasets
from domainbed.datasets import checking, doctor
from domainbed.datasets.published import CLASSES, COUNTS, N_CLASSES
from domainbed.registry import InputError
from domainbed.scripts import sweep, train

PLAIN = {"data_augmentation": True, "image_size": 8}
HPARAMS = '{"backbone": "mnist_cnn", "image_size": 28, "batch_size": 2}'


def make(root, folders, classes=("cat", "dog"), n=2):
    write_images(root, list(folders), classes, n=n, size=8)


def check(name, data_dir):
    datasets.check(name, str(data_dir))


SPLITS = [
    ("train", "val"),
    ("full", "train", "test", "crossval"),
    ("Training", "Test-set"),
    ("train", "val", "test", "dev"),
    ("fold_1", "fold_2", "fold_3"),
    ("2019", "2020"),
]


@pytest.mark.parametrize("splits", SPLITS, ids="-".join)
def test_folders_of_splits_are_no_classes(splits, tmp_path):
    make(tmp_path / "Mine", [f"{d}/{s}" for d in ("day", "night") for s in splits])
    with pytest.raises(InputError, match="would be classes"):
        check("Mine", tmp_path)
    arguments = ["--data_dir", str(tmp_path), "--dataset", "Mine", "--hparams", HPARAMS]
    assert train.main([*arguments, "--output_dir", str(tmp_path / "o")]) == 2
    assert not (tmp_path / "o" / "results.jsonl").exists()
    assert doctor.main(["--data_dir", str(tmp_path), "--dataset", "Mine"]) == 1


@pytest.mark.parametrize("name", ["VLCS", "PACS"])
def test_so_they_are_not_in_built_in_datasets(name, tmp_path):
    folder, domains = DOMAINS[name]
    splits = ("full", "train", "test", "crossval", "val")
    make(tmp_path / folder, [f"{d}/{s}" for d in domains for s in splits], CLASSES[name], 1)
    with pytest.raises(InputError, match="look like splits"):
        check(name, tmp_path)


def test_a_split_that_lacks_a_class_is_one_too(tmp_path):
    make(tmp_path / "Mine", ["day/train", "night/train"], ("cat", "dog", "cow"))
    make(tmp_path / "Mine", ["day/test", "night/test"], ("cat", "dog"))
    with pytest.raises(InputError, match="look like splits"):
        check("Mine", tmp_path)


def test_splits_above_domains_are_no_domains(tmp_path):
    make(tmp_path / "Mine", [f"{s}/{d}" for s in ("train", "val") for d in ("day", "night")])
    with pytest.raises(InputError, match="another level of folders"):
        check("Mine", tmp_path)


def test_a_folder_around_it_all_is_told(tmp_path):
    make(tmp_path / "Mine" / "Mine", ["day", "night"])
    with pytest.raises(InputError, match="another level of folders"):
        check("Mine", tmp_path)
    for deeper in ("PACS", "archive/kfold"):
        folder, domains = DOMAINS["PACS"]
        make(tmp_path / deeper[:4] / folder / deeper, domains, CLASSES["PACS"], 1)
        with pytest.raises(InputError, match=f"names are in .*{deeper}"):
            check("PACS", tmp_path / deeper[:4])


def test_one_folder_around_all_classes_is_no_class(tmp_path):
    make(tmp_path / "Mine", ["day/images", "night/images"])
    with pytest.raises(InputError, match=r"images in .* hold no images"):
        check("Mine", tmp_path)


LEGITIMATE = {
    "classes named as splits": (["day", "night"], ("train", "test")),
    "splits below classes": (["day/cat", "day/dog", "night/cat", "night/dog"], ("train", "val")),
    "one folder below": (["day/cat", "day/dog", "night/cat", "night/dog"], ("images",)),
    "other folders below": (["day/cat", "night/cat"], ("tom", "felix")),
}


@pytest.mark.parametrize("kind", LEGITIMATE)
def test_other_folders_below_classes_stay_allowed(kind, tmp_path):
    folders, classes = LEGITIMATE[kind]
    make(tmp_path / "Mine", folders, classes)
    if kind == "other folders below":
        make(tmp_path / "Mine", ["day/dog", "night/dog"], ("rex", "lassie"))
    check("Mine", tmp_path)
    names = datasets.find("Mine", str(tmp_path)).listing(str(tmp_path)).classes
    assert len(names) == 2 and datasets.environments("Mine", str(tmp_path)) == ["day", "night"]


def test_folders_that_systems_make_are_no_images(tmp_path):
    make(tmp_path / "Mine", ["day", "night"])
    for junk in ("__MACOSX/day/cat", "day/.ipynb_checkpoints", "day/cat/@eaDir/0.png", "day/.x/y"):
        make(tmp_path / "Mine" / junk, ["t"], ("u",), 1)
    (tmp_path / "Mine" / "day" / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "Mine" / "day" / "empty.png").mkdir()
    listing = datasets.find("Mine", str(tmp_path)).listing(str(tmp_path))
    assert [len(part) for part in listing.samples] == [4, 4]
    assert any(path.endswith("empty.png") for path in listing.strays)


def test_images_that_are_in_no_class_are_no_dataset(tmp_path):
    write_images(tmp_path / "Mine", ["day"], ["night"], n=2, size=8)
    os.rename(tmp_path / "Mine" / "day" / "night", tmp_path / "Mine" / "night")
    os.rmdir(tmp_path / "Mine" / "day")
    with pytest.raises(InputError, match="two levels down"):
        check("Mine", tmp_path)


# Partial copies of built-in datasets


@pytest.mark.parametrize("name", DOMAINS)
def test_a_copy_without_all_classes_is_refused_before_training(name, tmp_path, capsys):
    folder, domains = DOMAINS[name]
    make(tmp_path / folder, domains, CLASSES[name][:3], 4)
    arguments = ["--data_dir", str(tmp_path), "--hparams", HPARAMS, "--steps", "1"]
    out = ["--output_dir", str(tmp_path / "o")]
    assert train.main([*arguments, *out, "--dataset", name]) == 2
    assert not (tmp_path / "o" / "results.jsonl").exists()
    told = capsys.readouterr().err
    assert f"3 classes, expected {N_CLASSES[name]}" in told and f"such as My{name}" in told
    (tmp_path / folder).rename(tmp_path / f"My{name}")
    assert train.main([*arguments, *out, "--dataset", f"My{name}"]) == 0


def test_a_sweep_of_a_partial_copy_launches_nothing(tmp_path, capsys):
    folder, domains = DOMAINS["OfficeHome"]
    make(tmp_path / folder, domains, CLASSES["OfficeHome"][:64], 1)
    arguments = ["launch", "--data_dir", str(tmp_path), "--datasets", "OfficeHome"]
    arguments += ["--algorithms", "ERM", "--n_hparams", "1", "--n_trials", "1", "--steps", "2"]
    arguments += ["--output_dir", str(tmp_path / "s"), "--skip_confirmation", "--hparams", HPARAMS]
    assert sweep.main(arguments) == 2
    assert "64 classes, expected 65" in capsys.readouterr().err
    assert not list((tmp_path / "s").glob("*/results.jsonl"))


class Copy:
    """A dataset of so many samples of so many classes."""

    def __init__(self, classes, counts):
        self.classes, self.num_classes = classes, len(classes)
        self.counts = counts

    def __iter__(self):
        return (range(count) for count in self.counts)


Copy.__module__ = "domainbed.datasets"


def test_other_counts_and_names_are_warnings(caplog):
    names, counts = ("A", "C", "P", "S"), COUNTS["PACS"][""]
    checking.check_before_training("PACS", Copy(CLASSES["PACS"], counts), names)
    assert not caplog.records
    fewer = (*counts[:2], counts[2] - 1, counts[3])
    checking.check_before_training("PACS", Copy(CLASSES["PACS"], fewer), names)
    assert "9,990 images, expected 9,991; look at P" in caplog.text
    caplog.clear()
    upper = [name.upper() for name in CLASSES["PACS"]]
    checking.check_before_training("PACS", Copy(upper, counts), names)
    assert not caplog.records
    checking.check_before_training("PACS", Copy(["cow", *CLASSES["PACS"][1:]], counts), names)
    assert "other classes than published; not dog" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        checking.check_before_training("Mine", Copy(["cow"], [3]), ["a"])
    assert "every prediction is right" in caplog.text


def test_a_built_in_domain_without_images_is_told():
    copy = Copy(CLASSES["PACS"], (5, 5, 0, 5))
    with pytest.raises(InputError, match="PACS has no sample of P;"):
        checking.check_before_training("PACS", copy, ("A", "C", "P", "S"))


def test_names_of_classes_are_as_many_as_published():
    assert {name: len(classes) for name, classes in CLASSES.items()} == {
        name: n for name, n in N_CLASSES.items() if name in CLASSES
    }
    assert all(list(classes) == sorted(classes) for classes in CLASSES.values())


# Domains that lack a class


def test_domains_may_lack_classes_that_a_file_names(tmp_path, caplog):
    home = tmp_path / "Mine"
    make(home, ["a", "c"], ("cat", "cow", "dog"), 8)
    make(home, ["b"], ("cat", "dog"), 8)
    with pytest.raises(InputError, match=r"no cow in b.*all_classes\.txt"):
        check("Mine", tmp_path)
    (home / "all_classes.txt").write_text("\ufeffcow\ndog\n\n cat \n", encoding="utf-8")
    data = datasets.make("Mine", str(tmp_path), [], PLAIN)
    assert data.classes == ["cat", "cow", "dog"]
    assert [sorted({*part.targets}) for part in data] == [[0, 1, 2], [0, 2], [0, 1, 2]]
    assert "Ignored" not in caplog.text
    found = doctor.examine("Mine", tmp_path)
    assert not found.faults and "64 images of 3 classes" in found.lines
    words = ["--data_dir", str(tmp_path), "--dataset", "Mine", "--steps", "2"]
    words += ["--hparams", HPARAMS]
    for algorithm in ("ERM", "CDANN", "SelfReg"):
        out = ["--output_dir", str(tmp_path / algorithm), "--algorithm", algorithm]
        assert train.main([*words, *out]) == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"cat\ndog\n", "lacks cow"),
        (b"cat\ndog\ncow\nbird\n", "no domain has bird"),
        (b"cat,dog,cow", "no domain has cat,dog,cow"),
        (b"", "lacks cat, cow, dog"),
        ("cat\ndog\ncow".encode("utf-16"), "not in UTF-8"),
    ],
)
def test_that_file_must_name_them_all_and_no_others(content, told, tmp_path):
    make(tmp_path / "Mine", ["a"], ("cat", "cow", "dog"))
    make(tmp_path / "Mine", ["b"], ("cat", "dog"))
    (tmp_path / "Mine" / "all_classes.txt").write_bytes(content)
    with pytest.raises(InputError, match=told):
        check("Mine", tmp_path)


# Unicode


def forms(name):
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert composed != apart
    return composed, apart


def test_classes_are_the_same_in_any_unicode_form(tmp_path):
    composed, apart = forms("café")
    make(tmp_path / "Mine", ["day"], ["zoo", composed])
    make(tmp_path / "Mine", ["night"], ["zoo", apart])
    data = datasets.make("Mine", str(tmp_path), [], PLAIN)
    assert data.num_classes == 2
    for environment in data:
        for path, label in environment.samples:
            folder = unicodedata.normalize("NFC", path.split("/")[-2])
            assert unicodedata.normalize("NFC", data.classes[label]) == folder


@pytest.mark.parametrize("form", [0, 1])
def test_labels_stay_as_names_of_one_form_sort(form, tmp_path):
    names = [forms("école")[form], "eclair", "zoo", forms("ärger")[form]]
    make(tmp_path / "Mine", ["day", "night"], names)
    assert datasets.make("Mine", str(tmp_path), [], PLAIN).classes == sorted(names)


@pytest.mark.parametrize("where", ["", "day"])
def test_two_folders_of_one_name_are_told(where, tmp_path):
    for name in forms("naïve"):
        make(tmp_path / "Mine" / where, [name], ("cat", "dog"))
    with pytest.raises(InputError, match="differ only in their Unicode form"):
        check("Mine", tmp_path)


def test_domains_of_built_in_datasets_in_another_form_are_found(tmp_path, monkeypatch):
    from domainbed.datasets.image_folder import PACS

    composed, apart = forms("café")
    monkeypatch.setattr(PACS, "DOMAINS", ("art_painting", "cartoon", "photo", composed))
    make(tmp_path / "PACS", ["art_painting", "cartoon", "photo", apart])
    check("PACS", tmp_path)
