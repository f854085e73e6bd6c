"""Spawrious and WILDS from small trees, and contact sheets."""

import csv
import logging

import numpy as np
import pytest
import torch
from conftest import write_images
from PIL import Image

from domainbed import datasets
from domainbed.datasets import contact_sheets, doctor, spawrious
from domainbed.registry import InputError
from domainbed.scripts import save_images

PLAIN = {"data_augmentation": True, "image_size": 32}
SPAWRIOUS = [name for name in datasets.DATASETS if name.startswith("Spawrious")]
LOCATIONS = ["desert", "jungle", "dirt", "mountain", "snow", "beach"]
N = 20


@pytest.fixture(scope="module")
def dogs(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("dogs")
    for half in "01":
        root = data_dir / "spawrious224" / half
        write_images(root, LOCATIONS, sorted(spawrious.BREEDS), n=N, size=8)
    return str(data_dir)


@pytest.fixture
def small_folders(monkeypatch):
    monkeypatch.setattr(spawrious.Spawrious, "PER_FOLDER", N)


def places(environment) -> dict[tuple[str, str], int]:
    """How many images of each (location, class) an environment has."""
    counts = {}
    for path, label in environment.samples:
        _, location, breed, _ = path.rsplit("/", 3)
        assert breed == environment.classes[label]
        counts[location, breed] = counts.get((location, breed), 0) + 1
    return counts


def test_one_to_one_has_97_and_87_percent(dogs, small_folders):
    data = datasets.make("SpawriousO2O_hard", dogs, [0], PLAIN)
    assert data.num_classes == 4 and data.input_shape == (3, 32, 32)
    homes = {("jungle", "bulldog"), ("mountain", "dachshund"), ("snow", "labrador")}
    homes.add(("desert", "corgi"))
    for environment, usual in ((data[1], 19), (data[2], 17)):
        fillers = {("beach", breed): N - usual for breed in spawrious.BREEDS}
        assert places(environment) == dict.fromkeys(homes, usual) | fillers
    assert {path.rsplit("/", 4)[1] for path, _ in data[2].samples} == {"1"}
    assert set(places(data[0]).values()) == {2 * N} and not homes & places(data[0]).keys()


def test_many_to_many_swaps_backgrounds_in_pairs(dogs, small_folders):
    data = datasets.make("SpawriousM2M_easy", dogs, [0], PLAIN)
    first, second = places(data[1]), places(data[2])
    assert first[("desert", "bulldog")] == second[("desert", "dachshund")] == N
    assert first[("mountain", "dachshund")] == second[("mountain", "bulldog")] == N
    assert not places(data[0]).keys() & (first.keys() | second.keys())


@pytest.mark.parametrize("name", SPAWRIOUS)
def test_spawrious_has_as_many_images_as_published(name):
    sizes = [
        sum(part.limit or 3168 for part in parts)
        for parts in datasets.get_dataset_class(name).environment_parts()
    ]
    assert sizes == [25344, 12672, 12672]


def test_spawrious_test_domains_are_never_augmented(dogs, small_folders):
    for test_env in (0, 1):
        data = datasets.make("SpawriousO2O_easy", dogs, [test_env], PLAIN)
        for env in range(3):
            torch.manual_seed(0)
            is_augmented = not torch.equal(data[env][0][0], data[env][0][0])
            assert is_augmented == (env != test_env)


def test_spawrious_datasets_are_no_auxiliaries_of_each_other(dogs):
    for name in SPAWRIOUS:
        assert datasets.available(datasets.get_dataset_class(name).KIND, dogs) == [name]


def test_spawrious_folders_that_lack_are_named(tmp_path, caplog, small_folders):
    write_images(tmp_path / "spawrious224" / "0", LOCATIONS, sorted(spawrious.BREEDS), 2, 8)
    with pytest.raises(InputError, match="1/beach/bulldog"):
        datasets.check("SpawriousO2O_easy", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert len(datasets.make("SpawriousM2M_hard", str(tmp_path), [], PLAIN)[1]) == 8
    assert "has 2 images, expected 20" in caplog.text


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.fixture
def camelyon(tmp_path):
    folder = tmp_path / "camelyon17_v1.0"
    rows = [["", "patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split"]]
    for i in range(10):
        rows.append([i, f"{i:03d}", 2, 32 * i, 64, i // 5, i, i % 5, 0])
        node = f"patient_{i:03d}_node_2"
        write_image(folder / "patches" / node / f"patch_{node}_x_{32 * i}_y_64.png", i)
    write_table(folder / "metadata.csv", rows)
    return tmp_path


def test_camelyon_domains_are_hospitals(camelyon):
    data = datasets.make("WILDSCamelyon", str(camelyon), [2], {"image_size": 8})
    assert (len(data), data.num_classes) == (5, 2)
    assert [environment.targets for environment in data] == [[0, 1]] * 5
    assert [int(data[2].images[i][0, 0, 0]) for i in (0, 1)] == [2, 7]
    torch.manual_seed(0)
    assert torch.equal(data[2][0][0], data[2][0][0])


@pytest.mark.parametrize("damage", ["table", "column", "images", "centre"])
def test_what_lacks_of_camelyon_is_told(damage, camelyon):
    folder = camelyon / "camelyon17_v1.0"
    text = (folder / "metadata.csv").read_text()
    if damage == "table":
        (folder / "metadata.csv").unlink()
    elif damage == "images":
        (folder / "patches").rename(folder / "other")
    elif damage == "column":
        (folder / "metadata.csv").write_text(text.replace("tumor", "tumour"))
    else:
        (folder / "metadata.csv").write_text(text.replace("192,64,1,6,1,0", "192,64,1,6,7,0"))
    told = {"table": "missing", "column": "tumor", "images": "patches", "centre": "'7'"}[damage]
    with pytest.raises(InputError, match=told):
        datasets.make("WILDSCamelyon", str(camelyon), [], {})


def edited(text, kind):
    """A table as an editor or a spreadsheet may leave it, in bytes."""
    lines = text.splitlines()
    rows = [line.split(",") for line in lines]
    if kind in ("utf-16", "utf-32", "utf-16-be"):
        return text.encode(kind)
    changed = {
        "semicolons": text.replace(",", ";"),
        "tabs": text.replace(",", "\t"),
        "short row": "\n".join([*lines, "99,004"]),
        "zeros lost": "\n".join(",".join([r[0], r[1].lstrip("0") or "0", *r[2:]]) for r in rows),
        "floats": "\n".join(
            ",".join([*r[:3], r[3] + ".0" * (r[3] != "x_coord"), *r[4:]]) for r in rows
        ),
        "no header": "\n".join(lines[1:]),
        "empty": "",
        "nulls": text.replace("0", "\0"),
        "latin": text.replace("slide", "glissière"),
        "one cell": text.replace(",004,", ',"004,', 1),
    }[kind]
    return changed.encode("latin-1")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("utf-16", "not in UTF-8"),
        ("utf-16-be", r"no column|no csv|not in UTF-8"),
        ("utf-32", "not in UTF-8"),
        ("latin", "not in UTF-8"),
        ("semicolons", "separated by ';'"),
        ("tabs", "separated by"),
        ("short row", "Line 12 of .* ends before node, x_coord"),
        ("zeros lost", "10 of 10 files that .* names are missing, such as .*patient_0_node_2"),
        ("floats", "10 of 10 files that .* names are missing.*whole numbers"),
        ("no header", "no column patient"),
        ("empty", "no column patient"),
        ("nulls", "no csv|missing|center"),
        ("one cell", "ends before|no csv|missing"),
    ],
)
def test_an_edited_table_is_told_in_a_line(kind, told, camelyon):
    table = camelyon / "camelyon17_v1.0" / "metadata.csv"
    table.write_bytes(edited(table.read_text(), kind))
    with pytest.raises(InputError, match=told) as error:
        datasets.make("WILDSCamelyon", str(camelyon), [], {"image_size": 8})
    assert "\n" not in str(error.value) and "metadata.csv" in str(error.value)
    assert doctor.main(["--data_dir", str(camelyon), "--dataset", "WILDSCamelyon"]) == 1


def test_columns_and_marks_that_do_no_harm_stay(camelyon):
    table = camelyon / "camelyon17_v1.0" / "metadata.csv"
    plain = datasets.make("WILDSCamelyon", str(camelyon), [], {"image_size": 8})
    lines = table.read_text().splitlines()
    indexed = [
        f"Unnamed: 0,{lines[0]},more",
        *(f"{i},{line},x" for i, line in enumerate(lines[1:])),
    ]
    table.write_text("\ufeff" + "\r\n".join(indexed) + "\r\n\r\n", encoding="utf-8")
    again = datasets.make("WILDSCamelyon", str(camelyon), [], {"image_size": 8})
    assert [part.samples for part in again] == [part.samples for part in plain]


def test_some_missing_patches_are_counted(camelyon):
    folder = camelyon / "camelyon17_v1.0" / "patches" / "patient_004_node_2"
    folder.rename(folder.with_name("patient_4_node_2"))
    with pytest.raises(InputError, match=r"1 of 10 files .*patient_004_node_2.*three digits"):
        datasets.make("WILDSCamelyon", str(camelyon), [], {"image_size": 8})


@pytest.fixture
def fmow(tmp_path):
    folder = tmp_path / "fmow_v1.1"
    countries = {"CHN": "Asia", "FRA": "Europe", "KEN": "Africa", "USA": "Americas"}
    codes = ["CHN", "FRA", "KEN", "USA", "AUS", "???"]
    rows = [["split", "country_code", "category"]]
    for i in range(124):
        split = "seq" if i in (0, 70) else ["train", "val", "test"][i % 3]
        rows.append([split, codes[i % 6], f"place {(61 - i) % 62:02d}"])
        write_image(folder / "images" / f"rgb_img_{i}.png", i)
    write_table(folder / "rgb_metadata.csv", rows)
    regions = [["alpha-3", "region"], *countries.items(), ["AUS", "Oceania"], ["ATA", ""]]
    write_table(folder / "country_code_mapping.csv", regions)
    return tmp_path


def test_fmow_domains_are_regions_in_order_of_appearance(fmow):
    data = datasets.make("WILDSFMoW", str(fmow), [], {"image_size": 8})
    assert (len(data), data.num_classes, sum(map(len, data))) == (6, 62, 122)
    numbers = [int(data[0].images[i][0, 0, 0]) for i in range(3)]
    assert numbers == [6, 12, 18]  # 0 is sequestered
    assert data[0].targets[:3] == [55, 49, 43]


def test_rows_of_fmow_that_were_removed_are_noticed(fmow):
    table = fmow / "fmow_v1.1" / "rgb_metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:60] + lines[61:]))
    with pytest.raises(InputError, match=r"123 rows, but there is images/rgb_img_123\.png"):
        datasets.make("WILDSFMoW", str(fmow), [], {"image_size": 8})


def test_fmow_without_all_classes_or_countries_is_refused(fmow):
    table = fmow / "fmow_v1.1" / "rgb_metadata.csv"
    table.write_text(table.read_text().replace("place 07", "place 08"))
    with pytest.raises(InputError, match="61 categories"):
        datasets.make("WILDSFMoW", str(fmow), [], {})
    (fmow / "fmow_v1.1" / "country_code_mapping.csv").unlink()
    with pytest.raises(InputError, match="country_code_mapping"):
        datasets.check("WILDSFMoW", str(fmow))


def test_contact_sheets_show_images_and_their_augmentation(photos, tmp_path, capsys):
    arguments = ["--data_dir", str(photos), "--output_dir", str(tmp_path), "--n", "3"]
    assert save_images.main([*arguments, "--dataset", "PACS"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    sheet = np.asarray(Image.open(tmp_path / "PACS_env2_P.png"))
    cell, label = contact_sheets.CELL, contact_sheets.LABEL
    assert sheet.shape == (label + 2 * (cell + 4), 3 * (cell + 4), 3)
    above, below = sheet[label : label + cell], sheet[label + cell + 4 : -4]
    source = Image.open(photos / "PACS" / "photo" / "dog" / "0.png").resize((cell, cell))
    assert np.abs(above[:, :cell].astype(int) - np.asarray(source)).mean() < 8
    assert np.abs(above.astype(int) - below).mean() > 8


def test_contact_sheets_of_tensors_have_one_row(tmp_path):
    file = contact_sheets.save("RotatedDigits", None, tmp_path, 2)[0]
    height = contact_sheets.LABEL + contact_sheets.CELL + 4
    with Image.open(file) as image:
        assert image.size == (2 * (contact_sheets.CELL + 4), height)


def test_nothing_to_show_is_told(tmp_path, capsys):
    assert save_images.main(["--data_dir", str(tmp_path), "--output_dir", str(tmp_path)]) == 2
    assert "nothing to show" in capsys.readouterr().err
