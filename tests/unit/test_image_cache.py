"""Image caches change no number, survive damage and company; bounded ones are another job."""

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from domainbed import datasets
from domainbed.datasets import decoding, image_cache
from domainbed.datasets.base import evaluation_view
from domainbed.engine.options import Options
from domainbed.jobs import Job
from domainbed.lib import weights
from domainbed.registry import InputError
from domainbed.scripts import train

PLAIN = {"data_augmentation": True, "image_size": 32}


@pytest.fixture
def ragged(tmp_path):
    """A data_dir with images of many sizes and kinds, `Mine/{a,b}/{cat,dog}/*`."""
    rng = np.random.RandomState(0)
    for i, domain in enumerate("ab"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / "Mine" / domain / name
            folder.mkdir(parents=True)
            for j, (mode, suffix) in enumerate([("RGB", "jpg"), ("L", "png"), ("RGBA", "png")]):
                pixels = rng.randint(0, 255, (60 + 7 * j, 50 + 9 * i + j, 4), np.uint8)
                Image.fromarray(pixels).convert(mode).save(folder / f"{j}.{suffix}")
    return tmp_path / "data"


def samples(data_dir, **hparams):
    """Every sample of every domain: as training sees it, and as evaluation does."""
    dataset = datasets.make("Mine", str(data_dir), [0], {**PLAIN, **hparams})
    found = []
    for environment in dataset:
        for view in (environment, evaluation_view(environment)):
            torch.manual_seed(0)
            found += [view[i][0] for i in range(len(view))]
    return torch.stack(found)


def test_samples_are_the_same_with_a_cache_and_without(ragged, tmp_path, monkeypatch):
    plain = samples(ragged)
    built = samples(ragged, image_cache=str(tmp_path / "c"))
    monkeypatch.setenv("DOMAINBED_IMAGE_CACHE", str(tmp_path / "c"))
    monkeypatch.setattr(image_cache, "_build", None)  # all is there: nothing is built
    assert torch.equal(plain, built) and torch.equal(plain, samples(ragged))
    monkeypatch.setattr("domainbed.datasets.decoding.MEMORY_LIMIT", 0)
    monkeypatch.delenv("DOMAINBED_IMAGE_CACHE")
    assert torch.equal(plain, samples(ragged))  # decoded at each access
    assert len(list((tmp_path / "c").glob("*.images"))) == 4  # two domains, as is and resized


def test_a_changed_an_added_and_a_touched_file_are_noticed(ragged, tmp_path):
    cache = {"image_cache": str(tmp_path / "c")}
    before = samples(ragged, **cache)
    file = ragged / "Mine" / "a" / "cat" / "1.png"
    Image.new("L", (50, 60), 9).save(file)
    changed = samples(ragged, **cache)
    assert torch.equal(changed, samples(ragged)) and not torch.equal(changed, before)
    shutil.copy(file, file.with_name("7.png"))
    assert torch.equal(samples(ragged, **cache), samples(ragged))
    stamps = {path: path.stat().st_ino for path in (tmp_path / "c").glob("*_a-*.images")}
    os.utime(file, ns=(0, 0))
    samples(ragged, **cache)
    assert all(path.stat().st_ino != inode for path, inode in stamps.items())


@pytest.mark.parametrize("damage", ["cut", "empty", "header", "index", "longer"])
def test_a_damaged_cache_is_made_anew(damage, ragged, tmp_path):
    cache = {"image_cache": str(tmp_path / "c")}
    before = samples(ragged, **cache)
    for path in (tmp_path / "c").glob("*.images"):
        content = bytearray(path.read_bytes())
        place = {"header": 3, "index": image_cache.HEADER.size + 9}.get(damage)
        if place is not None:
            content[place] ^= 1
        change = {"cut": content[:-1], "empty": b"", "longer": content + b"\0"}
        path.write_bytes(change.get(damage, content))
    assert torch.equal(samples(ragged, **cache), before)
    for path in (tmp_path / "c").glob("*.images"):
        assert path.stat().st_size % 64 == 0 and not path.with_name(path.name + ".part").exists()
    assert torch.equal(samples(ragged, **cache), before)


def test_a_damaged_image_is_decoded_from_its_file_and_the_cache_removed(ragged, tmp_path, caplog):
    cache = {"image_cache": str(tmp_path / "c")}
    before = samples(ragged, **cache)
    for path in (tmp_path / "c").glob("*.images"):
        content = bytearray(path.read_bytes())
        content[-70] ^= 1
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(samples(ragged, **cache), before)
    assert caplog.text.count("is damaged") == 4
    assert torch.equal(samples(ragged, **cache), before)


BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from domainbed.datasets import decoding, image_cache

class Slow:
    def __getitem__(self, i):
        print("made", i, flush=True)
        time.sleep(0.05)
        return np.full((2, 3 + i, 3), i, np.uint8)

shapes = [(2, 3 + i, 3) for i in range(8)]
cache = image_cache.cached(Path(sys.argv[1]), ["x"], lambda: shapes, Slow())
assert isinstance(cache, image_cache.ImageCache)
assert all((cache[i] == i).all() and cache[i].shape == shapes[i] for i in range(8))
"""


def test_of_builders_at_once_one_builds_and_all_read(tmp_path):
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "c" / "x.images")]

    def build(_):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(3) as pool:
        said = "".join(pool.map(build, range(3)))
    assert sorted(said.splitlines()) == [f"made {i}" for i in range(8)]


@pytest.mark.parametrize("when", ["before", "after", "forbidden"])
def test_without_space_or_permission_runs_go_on(when, ragged, tmp_path, monkeypatch, caplog):
    plain = samples(ragged)
    if when == "before":
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    elif when == "after":

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    else:
        (tmp_path / "c").write_text("a file, no folder")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(samples(ragged, image_cache=str(tmp_path / "c")), plain)
    assert caplog.text.count("going on without it") == 4
    if when != "forbidden":
        assert not [path for path in (tmp_path / "c").iterdir()]


def test_a_cache_travels_by_name(ragged, tmp_path):
    hparams = {**PLAIN, "image_cache": str(tmp_path / "c")}
    environment = datasets.make("Mine", str(ragged), [], hparams)[0]
    sent = pickle.dumps(environment)
    assert len(sent) < 5000
    for image in (pickle.loads(sent).images[2], environment.images[2]):
        assert np.array_equal(image, decoding.Files(environment.images.source.paths)[2])
    shutil.rmtree(tmp_path / "c")
    assert np.array_equal(pickle.loads(sent).images[2], environment.images[2])


def test_a_damaged_file_stops_the_building(ragged, tmp_path):
    file = ragged / "Mine" / "a" / "cat" / "0.jpg"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"0\.jpg"):
        samples(ragged, image_cache=str(tmp_path / "c"))
    assert not [*(tmp_path / "c").glob("*.part"), *(tmp_path / "c").glob("*.images")]


def test_a_file_that_the_table_of_a_dataset_names_must_be_there(ragged, tmp_path):
    files = decoding.Files([str(ragged / "Mine" / "a" / "cat" / "9.png")])
    with pytest.raises(InputError, match=r"9\.png"):
        files.cached(tmp_path / "c", "x", ragged, 32)


def test_bounded_images_keep_their_proportions_with_a_cache_and_without(tmp_path):
    folder = tmp_path / "Mine" / "a" / "cat"
    folder.mkdir(parents=True)
    pixels = np.linspace(0, 255, 300 * 200 * 3).astype(np.uint8).reshape(200, 300, 3)
    Image.fromarray(pixels).save(folder / "0.jpg", quality=95)
    Image.fromarray(pixels[:40, :40]).save(folder / "1.png")

    def images(**hparams):
        return datasets.make("Mine", str(tmp_path), [], {**PLAIN, **hparams})[0].images

    plain, bounded = images(), images(image_cache_size=50)
    cached = images(image_cache_size=50, image_cache=str(tmp_path / "c"))
    assert [bounded[i].shape for i in range(2)] == [(50, 75, 3), (40, 40, 3)]
    assert all(np.array_equal(bounded[i], cached[i]) for i in range(2))
    assert np.array_equal(plain[1], bounded[1])
    unbounded = images(image_cache=str(tmp_path / "c"))
    assert np.array_equal(plain[0], unbounded[0])
    small = np.asarray(Image.fromarray(plain[0]).resize((75, 50), Image.Resampling.BOX), float)
    assert np.abs(small - bounded[0]).mean() < 8


def test_only_what_changes_numbers_is_part_of_a_job(tmp_path):
    args = {"dataset": "PACS", "algorithm": "ERM", "test_envs": [0], "trial_seed": 0}
    plain = Options.of_args(args)
    assert Options.of_args({**args, "image_cache": "/c"}).recorded() == plain.recorded()
    assert not {"image_cache", "image_cache_size", "precision"} & plain.recorded().keys()
    for name, value in (("image_cache_size", 256), ("precision", "bf16")):
        options = Options.of_args({**args, name: value})
        assert options.identity() == {**plain.identity(), name: value}
        assert options.recorded()[name] == value
        assert Options.of_args(options.recorded()) == options
        assert f"--{name} {value}" in Job(options.identity(), "out").command_str


def test_weights_and_records_are_the_same_with_a_cache_and_workers(photos, tmp_path):
    hparams = '{"batch_size": 4, "image_size": 32, "backbone": "resnet18"}'
    common = ["--data_dir", str(photos), "--dataset", "PACS", "--steps", "2", "--hparams", hparams]
    common += ["--foundation", "random"]
    cache = ["--image_cache", str(tmp_path / "c")]
    variants = {"plain": [], "cached": cache, "workers": [*cache, "--num_workers", "2"]}
    seen = {}
    for name, words in variants.items():
        assert train.main([*common, *words, "--output_dir", str(tmp_path / name)]) == 0
        state, _ = weights.read(tmp_path / name / "model.safetensors")
        lines = (tmp_path / name / "results.jsonl").read_text().splitlines()
        records = [
            {
                k: v
                for k, v in json.loads(line).items()
                if k not in ("step_time", "update_time", "args")
            }
            for line in lines
        ]
        seen[name] = weights.content_hash(state), records
    assert seen["plain"] == seen["cached"] == seen["workers"]
    words = [*common, "--image_cache_size", "0", "--output_dir", str(tmp_path / "zero")]
    assert train.main(words) == 2


def test_a_pipe_in_the_place_of_a_cache_is_replaced(ragged, tmp_path):
    plain = samples(ragged, image_cache=str(tmp_path / "c"))
    for file in (tmp_path / "c").glob("*.images"):
        file.unlink()
        os.mkfifo(file)
    assert torch.equal(plain, samples(ragged, image_cache=str(tmp_path / "c")))
