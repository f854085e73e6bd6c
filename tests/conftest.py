"""Shared by all tests: golden figures, command lines in temporary folders, small image folders."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> dict:
    """Figures that the public DomainBed produced."""
    return json.loads((GOLDEN / "domainbed.json").read_text())


@pytest.fixture(scope="session", autouse=True)
def threads():
    """As many as OMP_NUM_THREADS says: one by default, with which small tests are faster."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))


DOMAINS = {
    "PACS": ("PACS", ["art_painting", "cartoon", "photo", "sketch"]),
    "VLCS": ("VLCS", ["Caltech101", "LabelMe", "SUN09", "VOC2007"]),
    "OfficeHome": ("office_home", ["Art", "Clipart", "Product", "Real World"]),
    "TerraIncognita": (
        "terra_incognita",
        ["location_100", "location_38", "location_43", "location_46"],
    ),
}


def write_images(
    root: Path, domains: list[str], classes=("cat", "dog"), n: int = 20, size: int = 64
) -> None:
    """A folder of domains x classes of n PNGs; the class shows in a bright quadrant."""
    rng = np.random.RandomState(0)
    for d, domain in enumerate(domains):
        for c, name in enumerate(classes):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.randint(0, 120, (size, size, 3), dtype=np.uint8)
                pixels[:, :, d % 3] += 40
                half = size // 2
                x, y = (c % 2) * half, (c // 2) * half % size
                pixels[y : y + half, x : x + half] += 90
                Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A data_dir with PACS, VLCS, OfficeHome and TerraIncognita of few tiny images."""
    from domainbed.datasets.published import CLASSES

    data_dir = tmp_path_factory.mktemp("photos")
    for name, (folder, domains) in DOMAINS.items():
        write_images(data_dir / folder, domains, CLASSES[name], n=max(1, 40 // len(CLASSES[name])))
    return data_dir


@pytest.fixture(scope="module")
def tiny_datasets():
    """TinyStripes and TinyColumns are datasets by name, in this process."""
    from domainbed import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        for name in ("TinyStripes", "TinyColumns"):
            patch.setitem(datasets.REGISTRY._items, name, f"tiny:{name}")
        yield


@pytest.fixture(scope="module")
def in_process():
    """A launcher of this name does the commands in this process."""
    from domainbed.command_launchers import REGISTRY
    from domainbed.scripts import train

    def launcher(commands):
        for command in commands:
            train.main(shlex.split(command)[3:])

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY._items, "in_process", launcher)
        yield


@pytest.fixture(scope="session")
def swad_range():
    """Where SWAD starts and ends, by the paper's algorithm 1 on a list of all losses."""

    def swad_range(losses, n_converge, n_tolerance, tolerance):
        """First and last checkpoint (arXiv 2102.08604)."""
        start, threshold = None, None
        for i in range(len(losses)):
            if threshold is None:
                window = losses[max(0, i - n_converge + 1) : i + 1]
                if len(window) == n_converge and window[0] == min(window):
                    start = i - n_converge + 1
                    threshold = (1 + tolerance) * sum(window) / n_converge
            elif i >= n_tolerance - 1 and threshold < min(losses[i - n_tolerance + 1 : i + 1]):
                return start, i - n_tolerance
        return start or 0, len(losses) - 1

    return swad_range


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A pool: `ink`, `noisy`, and `old` with an unknown past."""
    import torch
    from ingredients import DIGITS, letters, run

    from domainbed.lib import weights

    root = tmp_path_factory.mktemp("pools")
    for name, seen, scale in (("ink", ["InkDigits"], 1.01), ("old", [], 1.02)):
        torch.save(letters(scale), root / f"{name}.pkl")
        past = ["--datasets_seen", *seen] if seen else []
        source = root / f"{name}.pkl"
        assert run("add", source, "--pool", root / "pool", "--name", name, *DIGITS, *past) == 0
    weights.save(root / "noisy.safetensors", letters(1.5), {})
    more = ["--datasets_seen", "noisy_digits", "--licence", "MIT", "--id_acc", "0.5"]
    assert run("add", root / "noisy.safetensors", "--pool", root / "pool", "--name", "noisy",
               *DIGITS, *more) == 0  # fmt: skip
    return root / "pool"


@pytest.fixture
def mine(template, tmp_path):
    """A copy of it, to be spoilt."""
    return shutil.copytree(template, tmp_path / "mine")


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory):
    """A finished run on all domains, as auxiliary runs are."""
    from domainbed.scripts import train

    folder = tmp_path_factory.mktemp("runs") / "a"
    arguments = ["--dataset", "InkDigits", "--test_envs", "-1", "--steps", "2"]
    arguments += ["--foundation", "letters", "--hparams", '{"batch_size": 2}']
    assert train.main([*arguments, "--output_dir", str(folder), "--hparams_seed", "3"]) == 0
    return folder
