"""Downloads from a local server, archives of every kind, and what they become."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write_images
from PIL import Image

from domainbed import datasets
from domainbed.datasets import archives, arranging, fetching
from domainbed.datasets.archives import Recipe
from domainbed.datasets.fetching import DeadLinkError, File, Link
from domainbed.registry import InputError
from domainbed.scripts import download

DOMAINS = ["art_painting", "cartoon", "photo", "sketch"]
CONTENT = bytes(np.random.RandomState(0).bytes(300_000))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE_S", 0)


@pytest.fixture
def server():
    """Serves `files`; cuts the next replies after `cuts` bytes; `ranges` are those asked for."""
    state = SimpleNamespace(files={}, cuts=[], ranges=[], knows_ranges=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers["Range"]
            state.ranges.append(asked)
            content = state.files.get(self.path)
            if content is None:
                return self.send_error(404)
            start = int(asked[6:-1]) if asked and state.knows_ranges else 0
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            kind = "text/html" if self.path.endswith(".html") else "application/zip"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: state.cuts.pop(0) if state.cuts else None])

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def file_at(server, *paths, md5=None):
    return File("data.zip", tuple(Link(server.url + path, md5) for path in paths))


def test_a_lost_connection_goes_on_where_it_was(server, tmp_path):
    server.files["/data"], server.cuts = CONTENT, [1000, 5000]
    md5 = hashlib.md5(CONTENT).hexdigest()
    path = fetching.fetch(file_at(server, "/data", md5=md5), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=6000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["data.zip"]


def test_an_interrupted_download_goes_on_in_the_next_call(server, tmp_path, monkeypatch):
    server.files["/data"], server.cuts = CONTENT, [1000]
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    with pytest.raises(DeadLinkError, match="after 1000 of 300000 bytes"):
        fetching.fetch(file_at(server, "/data"), tmp_path)
    assert not (tmp_path / "data.zip").exists()
    assert fetching.fetch(file_at(server, "/data"), tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]
    fetching.fetch(file_at(server, "/data"), tmp_path)
    assert len(server.ranges) == 2


@pytest.mark.parametrize("have", [1000, len(CONTENT), len(CONTENT) + 5])
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_whatever_part_is_there_the_file_is_right(server, tmp_path, have, knows_ranges):
    server.files["/data"], server.knows_ranges = CONTENT, knows_ranges
    file = file_at(server, "/data")
    digest = hashlib.md5(file.links[0].url.encode()).hexdigest()[:8]
    (tmp_path / f"data.zip.{digest}.part").write_bytes((CONTENT + b"12345")[:have])
    assert fetching.fetch(file, tmp_path).read_bytes() == CONTENT


def test_mirrors_are_tried_in_turn_and_never_mixed(server, tmp_path, caplog):
    server.files |= {"/page.html": b"quota", "/other": CONTENT[::-1], "/data": CONTENT}
    links = file_at(server, "/gone", "/page.html", "/other", "/data").links
    md5 = hashlib.md5(CONTENT).hexdigest()
    file = File("data.zip", tuple(Link(link.url, md5) for link in links))
    assert fetching.fetch(file, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None] * 4
    for reason in ("404", "web page", "md5"):
        assert reason in caplog.text


def zipped(folder, path, prefix=""):
    with zipfile.ZipFile(path, "w") as file:
        for source in sorted(folder.rglob("*")):
            file.write(source, prefix + source.relative_to(folder).as_posix())
    return path


def tarred(folder, path, prefix="top"):
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, prefix)
    return path


@pytest.fixture
def pacs_zip(tmp_path):
    source = tmp_path / "source"
    write_images(source, DOMAINS, n=2, size=16)
    write_images(source.parent / "junk" / "__MACOSX", DOMAINS, n=1, size=8)
    path = zipped(source, tmp_path / "pacs.zip", "kfold/")
    with zipfile.ZipFile(path, "a") as file:
        for junk in (tmp_path / "junk").rglob("*.png"):
            file.write(junk, junk.relative_to(tmp_path / "junk").as_posix())
    return path


def test_download_makes_the_folders_and_nothing_else(
    server, pacs_zip, tmp_path, monkeypatch, capsys
):
    server.files["/pacs.zip"], server.cuts = pacs_zip.read_bytes(), [100]
    recipe = Recipe("http://page", (file_at(server, "/pacs.zip"),))
    monkeypatch.setitem(archives.RECIPES, "PACS", recipe)
    data_dir = tmp_path / "data"
    arguments = ["--data_dir", str(data_dir), "--dataset", "PACS"]
    assert download.main(arguments) == 1  # the published counts are others
    assert "16 images, expected 9,991" in capsys.readouterr().out
    assert [p.name for p in data_dir.iterdir()] == ["PACS"]
    assert sorted(p.name for p in (data_dir / "PACS").iterdir()) == DOMAINS
    assert len(datasets.make("PACS", str(data_dir), [], {})[0]) == 4
    n = len(server.ranges)
    assert download.main(arguments) == 1 and len(server.ranges) == n


def test_dead_links_tell_where_else_to_look(server, tmp_path, monkeypatch, capsys):
    recipe = Recipe("http://official", (file_at(server, "/gone", "/lost"),))
    monkeypatch.setitem(archives.RECIPES, "PACS", recipe)
    assert download.main(["--data_dir", str(tmp_path), "--dataset", "PACS"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: data.zip cannot be downloaded")
    assert "look at http://official" in line and "--dataset PACS --archive FILE" in line
    assert not list(tmp_path.iterdir())


def test_a_damaged_download_is_fetched_again(server, pacs_zip, tmp_path, monkeypatch):
    server.files["/pacs.zip"] = b"no archive"
    recipe = Recipe("http://page", (file_at(server, "/pacs.zip"),))
    monkeypatch.setitem(archives.RECIPES, "PACS", recipe)
    with pytest.raises(InputError, match="no zip, tar or gz"):
        archives.download("PACS", tmp_path / "data")
    server.files["/pacs.zip"] = pacs_zip.read_bytes()
    archives.download("PACS", tmp_path / "data")
    datasets.check("PACS", str(tmp_path / "data"))


def test_ones_own_archive_stays_and_works_from_any_depth(pacs_zip, tmp_path):
    source = tmp_path / "source"
    (source / "photo").rename(source / "Photo")
    path = tarred(source, tmp_path / "own.tar.gz", "a/b")
    data_dir = tmp_path / "data"
    arguments = ["--data_dir", str(data_dir), "--dataset", "PACS", "--archive", str(path)]
    assert download.main(arguments) == 1
    assert sorted(p.name for p in (data_dir / "PACS").iterdir()) == DOMAINS
    assert path.exists() and [p.name for p in data_dir.iterdir()] == ["PACS"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dataset", "PACS", "--archive", "nothing.zip"], "nothing.zip"),
        (["--dataset", "PACS", "VLCS", "--archive", "a.zip"], "2 were given"),
        (["--dataset", "PACS", "--archive", "a.zip", "--check"], "one of them"),
        (["--dataset", "PACSS"], "'PACS'"),
        ([], "Say which --dataset"),
    ],
)
def test_wrong_arguments_are_told(arguments, told, tmp_path, capsys):
    assert download.main(["--data_dir", str(tmp_path), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_in_the_way_is_left_alone(pacs_zip, tmp_path):
    (tmp_path / "data" / "PACS" / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="in the way"):
        archives.install("PACS", tmp_path / "data", [pacs_zip])
    assert (tmp_path / "data" / "PACS" / "mine").is_dir()


def test_an_archive_of_something_else_is_refused_and_leaves_nothing(tmp_path):
    write_images(tmp_path / "source", ["day", "night"], n=1)
    path = zipped(tmp_path / "source", tmp_path / "other.zip")
    with pytest.raises(InputError, match="art_painting"):
        archives.install("PACS", tmp_path / "data", [path])
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_member_leaves_the_folder(name, kind, tmp_path):
    path = tmp_path / f"bad.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, b"evil")
    else:
        with tarfile.open(path, "w") as file:
            file.addfile(tarfile.TarInfo(name), io.BytesIO())
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="outside"):
        fetching.unpack(path, tmp_path / "in")
    assert not list(tmp_path.rglob("*evil*")) and not list((tmp_path / "in").iterdir())


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_links_are_left_out(kind, tmp_path, caplog):
    path = tmp_path / f"bad.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            link = zipfile.ZipInfo("link")
            link.external_attr = 0o120777 << 16
            file.writestr(link, "/etc")
            file.writestr("file", b"1")
    else:
        with tarfile.open(path, "w") as file:
            for number, name in enumerate(("link", "hard")):
                link = tarfile.TarInfo(name)
                link.type = (tarfile.SYMTYPE, tarfile.LNKTYPE)[number]
                link.linkname = "/etc/passwd"
                file.addfile(link)
            one = tarfile.TarInfo("file")
            one.size = 1
            file.addfile(one, io.BytesIO(b"1"))
    fetching.unpack(path, tmp_path / "in")
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["file"]
    assert "links" in caplog.text


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "gz"])
def test_damaged_archives_are_told(kind, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "noise").write_bytes(CONTENT)
    path = tmp_path / f"bad.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(CONTENT))
    else:
        (zipped if kind == "zip" else tarred)(source, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content if kind == "zip" else content[: len(content) // 2])
    with pytest.raises(InputError, match=r"bad.* cannot be unpacked"):
        fetching.unpack(path, tmp_path / "in")


@pytest.fixture
def domain_net(tmp_path, monkeypatch):
    """Archives of DomainNet with one repeated content, and the lists that leave out another."""
    cls = datasets.get_dataset_class("DomainNet")
    source = tmp_path / "source"
    write_images(source, list(cls.DOMAINS), n=2, size=8)
    repeated = source / "real" / "cat" / "9.png"
    repeated.write_bytes((source / "real" / "dog" / "1.png").read_bytes())
    monkeypatch.setattr(cls, "N_IMAGES", 24)
    images = [p.relative_to(source).as_posix() for p in sorted(source.rglob("*.png"))]
    lines = [f"{name} 0" for name in images if name != "real/cat/0.png"]
    paths = [zipped(source / d, tmp_path / f"{d}.zip", f"{d}/") for d in cls.DOMAINS]
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "clipart_train.txt").write_text("\n".join(lines[:9]))
    (lists / "real_test.txt").write_text("\n".join(lines[9:]))
    return paths, lists


def test_domain_net_keeps_what_its_lists_name(domain_net, server, tmp_path, monkeypatch):
    paths, lists = domain_net
    server.files = {f"/{p.name}": p.read_bytes() for p in lists.iterdir()}
    extras = tuple(File(p.name, (Link(f"{server.url}/{p.name}"),)) for p in lists.iterdir())
    recipe = Recipe("http://page", (), arranging.domain_net, extras)
    monkeypatch.setitem(archives.RECIPES, "DomainNet", recipe)
    archives.install("DomainNet", tmp_path / "data", paths)
    real = tmp_path / "data" / "domain_net" / "real"
    assert sorted(p.name for p in (real / "cat").iterdir()) == ["1.png", "9.png"]
    assert len(list((tmp_path / "data").rglob("*.png"))) == 24


def test_domain_net_without_lists_keeps_each_content_once(
    domain_net, server, tmp_path, monkeypatch
):
    extra = File("real_test.txt", (Link(f"{server.url}/gone"),))
    recipe = Recipe("http://page", (), arranging.domain_net, (extra,))
    monkeypatch.setitem(archives.RECIPES, "DomainNet", recipe)
    archives.install("DomainNet", tmp_path / "data", domain_net[0])
    real = tmp_path / "data" / "domain_net" / "real"
    assert sorted(p.name for p in (real / "cat").iterdir()) == ["0.png", "1.png", "9.png"]
    assert [p.name for p in (real / "dog").iterdir()] == ["0.png"]
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["domain_net"]


def test_terra_incognita_is_sorted_by_its_annotations(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    places = {"a": 38, "b": "46", "c": 43, "d": 100, "e": 38, "f": 7, "g": 38}
    for name in places:
        Image.new("RGB", (4, 4)).save(images / f"{name}.jpg")
    pairs = [*((name, 1) for name in places if name != "g"), ("a", 1), ("e", 2), ("g", 3)]
    pairs += [("b", 2), ("c", 2), ("d", 2)]
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "location": v} for k, v in places.items()],
        "annotations": [{"image_id": image, "category_id": c} for image, c in pairs],
        "categories": [{"id": i, "name": n} for i, n in enumerate(["?", "cat", "dog", "car"])],
    }
    (labels / "all.json").write_text(json.dumps(content))
    paths = [tarred(images, tmp_path / "i.tar.gz"), tarred(labels, tmp_path / "l.tar.gz")]
    archives.install("TerraIncognita", tmp_path / "data", paths)
    root = tmp_path / "data" / "terra_incognita"
    found = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jpg"))
    assert [f for f in found if "_38" in f] == [
        "location_38/cat/a.jpg",
        "location_38/cat/e.jpg",
        "location_38/dog/e.jpg",
    ]
    assert len(found) == 9
    with pytest.raises(InputError, match="both the images and the annotations"):
        archives.install("TerraIncognita", tmp_path / "other", [paths[1]])


def test_spawrious_archives_add_up(tmp_path):
    cls = datasets.get_dataset_class("SpawriousO2O_easy")
    data_dir = tmp_path / "data"
    for half in "01":
        source = tmp_path / half / "spawrious224"
        write_images(source / half, [*cls.TRAIN, cls.FILLER], cls.CLASSES, n=1, size=8)
        path = tarred(source, tmp_path / f"{half}.tar.gz", "spawrious224")
        if half == "0":
            with pytest.raises(InputError, match="finds no images in"):
                archives.install("SpawriousO2O_easy", data_dir, [path])
    archives.install("SpawriousO2O_easy", data_dir, [path])
    assert len(list((data_dir / "spawrious224").rglob("*.png"))) == 40


def test_wilds_and_mnist_go_where_they_are_read(tmp_path):
    source = tmp_path / "source"
    write_images(source / "patches", ["patient_000_node_1"], n=1, size=8)
    (source / "metadata.csv").write_text("patient,node,x_coord,y_coord,tumor,center\n")
    path = tarred(source, tmp_path / "camelyon.tar.gz", ".")
    archives.install("WILDSCamelyon", tmp_path / "data", [path])
    assert (tmp_path / "data" / "camelyon17_v1.0" / "metadata.csv").is_file()
    paths = []
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        paths.append(tmp_path / f"{name}-ubyte.gz")
        paths[-1].write_bytes(gzip.compress(name.encode()))
    archives.install("RotatedMNIST", tmp_path / "data", paths)
    raw = tmp_path / "data" / "MNIST" / "raw"
    assert (raw / "t10k-labels-idx1-ubyte").read_text() == "t10k-labels-idx1"


def test_every_dataset_of_files_has_a_recipe():
    needed = {name for name in datasets.DATASETS if datasets.needs_files(name)}
    assert needed == set(archives.RECIPES)
    for recipe in archives.RECIPES.values():
        assert recipe.files and all(file.links for file in recipe.files)


LONG = "x" * 300
CONTRADICTORY = {
    "a file, then a folder": (["a", "a/b.png"], "'a/b.png'"),
    "a folder, then a file": (["a/b.png", "a"], "'a'"),
    "a file below a file": (["a/b", "a/b/c/d"], "'a/b/c/d'"),
    "no name": (["a", "./."], "'./.'"),
    "nothing": (["a", "."], "'.'"),
    "a long name": (["a", LONG], "xxx"),
    "a long folder": (["a", f"{LONG}/b"], "xxx"),
    "a path without end": (["a", "/".join(["deep"] * 2000)], "deep/deep"),
}


def packed(names, path):
    """An archive with a file of each name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"content")
    else:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 7
                file.addfile(member, io.BytesIO(b"content"))
    return path


@pytest.mark.parametrize("kind", CONTRADICTORY)
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_member_that_cannot_be_written_is_named(kind, suffix, tmp_path, capsys):
    names, told = CONTRADICTORY[kind]
    path = packed(names, tmp_path / f"bad.{suffix}")
    with pytest.raises(InputError) as error:
        fetching.unpack(path, tmp_path / "in")
    line = str(error.value)
    assert told in line and str(path) in line and "\n" not in line and len(line) < 500
    arguments = ["--data_dir", str(tmp_path / "data"), "--dataset", "PACS", "--archive", str(path)]
    assert download.main(arguments) == 2
    assert told in capsys.readouterr().err
    assert path.is_file() and list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("name", ["", "nul\0byte", "\udc80\udcff/\udc80"])
def test_odd_names_in_tars_are_written_inside_or_told(name, tmp_path):
    path = tmp_path / "bad.tar"
    try:
        packed(["a", name], path)
    except (ValueError, UnicodeError):
        pytest.skip("no such archive can be made here")
    try:
        fetching.unpack(path, tmp_path / "in")
    except InputError as error:
        assert str(path) in str(error)
    inside = {p.resolve() for p in (tmp_path / "in").rglob("*")}
    assert all(p.is_relative_to((tmp_path / "in").resolve()) for p in inside)


def test_a_folder_is_no_archive(tmp_path, capsys):
    folder = tmp_path / "PACS.zip"
    folder.mkdir()
    with pytest.raises(InputError, match="is no file"):
        fetching.unpack(folder, tmp_path / "in")
    words = ["--data_dir", str(tmp_path / "d"), "--dataset", "PACS", "--archive", str(folder)]
    assert download.main(words) == 2
    assert "PACS.zip" in capsys.readouterr().err and folder.is_dir()


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damage_in_any_compression_is_told(mode, damage, tmp_path):
    (tmp_path / "noise").write_bytes(CONTENT)
    path = tmp_path / f"bad.tar.{mode}"
    with tarfile.open(path, f"w:{mode}") as file:
        file.add(tmp_path / "noise", "noise")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad.* (cannot be unpacked|is no zip)"):
        fetching.unpack(path, tmp_path / "in")


def test_a_full_disk_keeps_the_download(server, pacs_zip, tmp_path, monkeypatch):
    server.files["/pacs.zip"] = pacs_zip.read_bytes()
    recipe = Recipe("http://page", (file_at(server, "/pacs.zip"),))
    monkeypatch.setitem(archives.RECIPES, "PACS", recipe)

    def full(source, file, length):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetching.shutil, "copyfileobj", full)
        with pytest.raises(InputError, match="No space left"):
            archives.download("PACS", tmp_path / "data")
    n = len(server.ranges)
    archives.download("PACS", tmp_path / "data")
    assert len(server.ranges) == n


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"images": 1}', b"3", b"null"])
def test_annotations_of_another_kind_are_told(content, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.json", content)
    with pytest.raises(InputError):
        archives.install("TerraIncognita", tmp_path / "data", [path])
    whole = {"images": [{"id": 1}], "annotations": [{"image_id": 1}], "categories": [{}]}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.json", json.dumps(whole))
    with pytest.raises(InputError, match="not as expected"):
        archives.install("TerraIncognita", tmp_path / "data", [path])
