"""The doctor: counts, strays, damaged and repeated images."""

import shutil

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from domainbed.datasets import doctor
from domainbed.scripts import download

DOMAINS = ["art_painting", "cartoon", "photo", "sketch"]


@pytest.fixture
def pacs(tmp_path, monkeypatch):
    write_images(tmp_path / "PACS", DOMAINS, n=3, size=16)
    monkeypatch.setitem(doctor.COUNTS, "PACS", {"": (6, 6, 6, 6)})
    monkeypatch.setitem(doctor.N_CLASSES, "PACS", 2)
    return tmp_path


def test_published_counts_add_up():
    totals = {
        name: [sum(version) for version in versions.values()]
        for name, versions in doctor.COUNTS.items()
    }
    assert totals["PACS"] == [9_991] and totals["VLCS"] == [10_729]
    assert totals["OfficeHome"] == [15_588] and totals["DomainNet"] == [586_575]
    assert totals["TerraIncognita"] == [24_788, 24_330]
    assert totals["WILDSCamelyon"] == [455_954]


def test_a_whole_dataset_has_no_fault(pacs, capsys):
    assert doctor.main(["--data_dir", str(pacs)]) == 0
    out = capsys.readouterr().out
    assert "6 images, expected 6" in out and "24 images of 2 classes" in out
    assert "no fault found" in out


@pytest.mark.parametrize("main", [doctor.main, lambda a: download.main([*a, "--check"])])
def test_a_wrong_count_names_the_domain(main, pacs, capsys):
    (pacs / "PACS" / "photo" / "cat" / "0.png").unlink()
    assert main(["--data_dir", str(pacs), "--dataset", "PACS"]) == 1
    assert "WRONG: 23 images, expected 24; look at P\n" in capsys.readouterr().out


def test_missing_classes_and_unexpected_numbers_of_them_are_wrong(pacs, monkeypatch):
    monkeypatch.setitem(doctor.N_CLASSES, "PACS", 7)
    (fault,) = doctor.examine("PACS", pacs).faults
    assert fault == "2 classes, expected 7: cat, dog"
    shutil.rmtree(pacs / "PACS" / "photo" / "cat")
    (fault,) = doctor.examine("PACS", pacs).faults
    assert "no cat in photo" in fault


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_that_are_cut_are_damaged(suffix, pacs, monkeypatch):
    monkeypatch.delitem(doctor.COUNTS, "PACS")
    bad = pacs / "PACS" / "sketch" / "dog" / f"bad.{suffix}"
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)).save(bad)
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    (fault,) = doctor.examine("PACS", pacs).faults
    assert f"1 images cannot be read: sketch/dog/bad.{suffix}" in fault
    assert not doctor.examine("PACS", pacs, decode=False).faults


def test_strays_are_noted_without_being_wrong(pacs):
    (pacs / "PACS" / "list.txt").write_text("")
    (pacs / "PACS" / "photo" / "dog" / "Thumbs.db").write_text("")
    found = doctor.examine("PACS", pacs)
    assert not found.faults
    assert "ignored, as no image of a class: list.txt, photo/dog/Thumbs.db" in found.lines


def test_either_version_of_terra_incognita_is_right_but_no_mixture(tmp_path, monkeypatch):
    names = ["location_100", "location_38", "location_43", "location_46"]
    write_images(tmp_path / "terra_incognita", names, n=1, size=16)
    versions = {"old": (2, 2, 2, 3), "new": (2, 2, 2, 2)}
    monkeypatch.setitem(doctor.COUNTS, "TerraIncognita", versions)
    monkeypatch.setitem(doctor.N_CLASSES, "TerraIncognita", 2)
    found = doctor.examine("TerraIncognita", tmp_path)
    assert not found.faults and "8 images of 2 classes, the version new" in found.lines
    monkeypatch.setitem(doctor.COUNTS, "TerraIncognita", {"old": (2, 1, 2, 3), "new": (1, 2, 2, 2)})
    (fault,) = doctor.examine("TerraIncognita", tmp_path).faults
    assert "different versions" in fault


def test_repeated_contents_of_domain_net_are_counted_within_domains(tmp_path):
    names = ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]
    write_images(tmp_path / "domain_net", names, n=2, size=16)
    real = tmp_path / "domain_net" / "real"
    shutil.copy(real / "cat" / "0.png", real / "dog" / "copy.png")
    shutil.copy(real / "cat" / "0.png", tmp_path / "domain_net" / "sketch" / "cat" / "copy.png")
    found = doctor.examine("DomainNet", tmp_path)
    (line,) = [line for line in found.lines if "repeat the content" in line]
    assert line.startswith("1 images repeat") and "real/dog/copy.png = real/cat/0.png" in line


def test_what_is_decoded_is_not_decoded_again(pacs):
    known = {}
    doctor.examine("PACS", pacs, known=known)
    assert len(known) == 24
    shutil.rmtree(pacs / "PACS" / "photo" / "dog")
    known = {path: doctor.Decoded("told", b"") for path in known}
    (pacs / "PACS" / "photo" / "dog").mkdir()
    shutil.copy(pacs / "PACS" / "photo" / "cat" / "0.png", pacs / "PACS" / "photo" / "dog")
    faults = doctor.examine("PACS", pacs, known=known).faults
    assert "22 images cannot be read" in faults[1]


def test_nothing_to_examine_is_a_wrong_input(tmp_path, capsys):
    assert doctor.main(["--data_dir", str(tmp_path)]) == 2
    assert "folder of no dataset" in capsys.readouterr().err
    assert doctor.main(["--data_dir", str(tmp_path), "--dataset", "PACSS"]) == 2
    assert "'PACS'" in capsys.readouterr().err


def test_a_dataset_that_is_not_there_is_wrong_and_one_without_files_is_not(tmp_path, capsys):
    assert doctor.run(tmp_path, ["RotatedDigits"]) == 0
    assert doctor.run(tmp_path, ["RotatedDigits", "VLCS"]) == 1
    assert "VLCS is not in" in capsys.readouterr().out
